//! The answer to a host that is short of memory: the least important workload steps back first, one
//! at a time, demoted before it is stopped, and each comes back when the shortage is over.

use super::Supervisor;
use crate::event::{
    Action, Cause, Decision, Detail, HostAction, HostChange, HostMeasured, Moment, PressureAnswer,
    Reason, Seq,
};
use crate::host::{Relief, Shortage};
use crate::name::ReplicaId;
use crate::spec::Mode;

impl Supervisor {
    pub(super) fn host_measured(
        &mut self,
        moment: Moment,
        used: HostMeasured,
        decision: &mut Decision,
    ) {
        let watch = self.host.watch.clone();
        for change in self.host_state.observe(moment.now, used, &watch) {
            self.report(decision, None, Detail::HostPressure(change));
        }
        if let Some(command) = self.host_state.disk_command(moment.now, &watch) {
            let observed = self.host.mode == Mode::Observe;
            let reported = self
                .host_state
                .disk_pressure(PressureAnswer::Ran, None, !observed);
            self.report(
                decision,
                Some(Cause::HostPressure),
                Detail::HostPressure(reported),
            );
            if observed {
                self.host_state.command_done();
            } else {
                decision.actions.push(Action::Host(HostAction {
                    reason: Reason {
                        cause: Cause::HostPressure,
                        seq: Seq(self.next_seq),
                    },
                    change: HostChange::RunCommand { command },
                }));
            }
        }
        self.relieve(moment, decision);
    }

    pub(super) fn host_stalled(&mut self, moment: Moment, decision: &mut Decision) {
        self.host_state.stalled(moment.now);
        self.relieve(moment, decision);
    }

    pub(super) fn host_command_done(&mut self, error: Option<String>, decision: &mut Decision) {
        self.host_state.command_done();
        if error.is_some() {
            let reported = self
                .host_state
                .disk_pressure(PressureAnswer::Failed, error, true);
            self.report(
                decision,
                Some(Cause::HostPressure),
                Detail::HostPressure(reported),
            );
        }
    }

    fn relieve(&mut self, moment: Moment, decision: &mut Decision) {
        if self.shutting_down {
            return;
        }
        let relief = self.host_state.relief(moment.now, &self.host.watch);
        let stepped = match relief {
            None => None,
            // The effect of the last step shows when that workload is gone.
            Some(Relief::Needed) if self.steps_back() => None,
            Some(Relief::Needed) => self.next_to_step_back(),
            Some(Relief::Over) => self.next_to_come_back(),
        };
        let Some(name) = stepped else {
            return;
        };
        self.host_state.stepped(moment.now);
        let shortage = Shortage {
            level: self.host_state.memory_level(),
            used: self.host_state.memory_used(),
        };
        let over = relief == Some(Relief::Over);
        self.with(moment, &name, decision, |workload, context| {
            if over {
                workload.come_back(context, shortage);
            } else {
                workload.step_back(context, shortage);
            }
        });
    }

    fn steps_back(&self) -> bool {
        self.workloads
            .values()
            .any(|workload| workload.is_stepping_back())
    }

    /// Returns the least important running workload; of equals, the one that uses most. The last
    /// running one is left alone.
    fn next_to_step_back(&self) -> Option<ReplicaId> {
        let running = self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.runs());
        let mut candidates: Vec<_> = running.collect();
        if candidates.len() < 2 {
            return None;
        }
        candidates.retain(|(_, workload)| workload.may_step_back());
        let rank = |workload: &crate::workload::Workload| {
            (
                workload.spec.priority,
                u64::MAX - workload.memory_in_use().0,
            )
        };
        let (name, _) = candidates
            .into_iter()
            .min_by_key(|(_, workload)| rank(workload))?;
        Some(name.clone())
    }

    /// Returns the most important workload that had to step back.
    fn next_to_come_back(&self) -> Option<ReplicaId> {
        let back = self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.stepped_back());
        let (name, _) = back.max_by_key(|(_, workload)| {
            (workload.spec.mode == Mode::Enforce, workload.spec.priority)
        })?;
        Some(name.clone())
    }
}
