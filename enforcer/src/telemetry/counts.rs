//! Counts of what has happened since this agent began, and that the kernel does not count. A
//! workload that is removed takes its counts with it.

use enforcer_core::ReplicaId;
use enforcer_core::cpu_loop::Verdict;
use enforcer_core::event::{
    Action, Answered, BreakerState, Cause, ConfigChange, Detail, Lost, LostFrom, Step, Transition,
    WorkloadAction, WorkloadChange,
};
use enforcer_core::oom::Scope;
use enforcer_core::probe::Answer;
use enforcer_core::spec::ProbeName;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};

/// Upper bounds in seconds; what takes longer is only in the sum.
pub(crate) const BUCKETS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
pub(crate) const SCOPES: [&str; 4] = ["own", "descendant", "ancestor", "host"];
pub(crate) const VERDICTS: [&str; 3] = ["dead_loop", "syscall_spin", "over_budget"];
pub(crate) const ANSWERS: [Answer; 3] = [Answer::Passed, Answer::Failed, Answer::Unknown];
/// The causes of automatic restarts.
pub(crate) const AUTOMATIC: [Cause; 7] = [
    Cause::Exit,
    Cause::OomKill,
    Cause::Liveness,
    Cause::Startup,
    Cause::Progress,
    Cause::CpuLoop,
    Cause::HostPressure,
];

/// The causes of restarts that a person or a manifest asked for.
pub(crate) const ASKED: [Cause; 2] = [Cause::Manual, Cause::Config];

#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<All>);

#[derive(Clone, Debug, Default)]
pub(crate) struct All {
    pub(crate) workloads: BTreeMap<ReplicaId, OfWorkload>,
    pub(crate) actions: BTreeMap<(&'static str, Cause), u64>,
    /// Records of the kernel's rings that found no room.
    pub(crate) lost: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct OfWorkload {
    pub(crate) restarts: BTreeMap<Cause, u64>,
    /// The OOM kills by scope, in the order of [`SCOPES`].
    pub(crate) oom_kills: [u64; SCOPES.len()],
    /// The loops by verdict, in the order of [`VERDICTS`].
    pub(crate) loops: [u64; VERDICTS.len()],
    /// Starts that a spent budget has put off.
    pub(crate) rate_limited: u64,
    pub(crate) probes: BTreeMap<ProbeName, OfProbe>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct OfProbe {
    /// The checks by answer, in the order of [`ANSWERS`].
    pub(crate) answers: [u64; ANSWERS.len()],
    /// The number of checks in each bucket alone.
    pub(crate) took: [u64; BUCKETS.len()],
    pub(crate) took_seconds: f64,
}

impl Counts {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock()
    }

    /// Returns the counts of these workloads, and drops those of others.
    pub(super) fn of(&self, present: &BTreeSet<&ReplicaId>) -> All {
        let mut all = self.all();
        all.workloads.retain(|name, _| present.contains(name));
        all.clone()
    }

    pub(crate) fn probed(&self, answered: &Answered) {
        let mut all = self.all();
        let counts = all.of(&answered.workload);
        let counts = counts.probes.entry(answered.probe).or_default();
        let at = ANSWERS.iter().position(|known| *known == answered.answer);
        if let Some(count) = at.and_then(|at| counts.answers.get_mut(at)) {
            *count += 1;
        }
        let seconds = answered.took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        if let Some(count) = bucket.and_then(|at| counts.took.get_mut(at)) {
            *count += 1;
        }
        counts.took_seconds += seconds;
    }

    /// Counts the events and the actions of one decision.
    pub(crate) fn decided(&self, transitions: &[Transition], actions: &[Action]) {
        if transitions.is_empty() && actions.is_empty() {
            return;
        }
        let mut all = self.all();
        for action in actions {
            let cause = action.reason().cause;
            *all.actions.entry((action.name(), cause)).or_default() += 1;
            // A restart counts when it begins: one that was put off may not be wanted any more.
            if let Action::Workload(WorkloadAction {
                workload,
                change: WorkloadChange::Step(Step::Start { .. }),
                ..
            }) = action
                && AUTOMATIC.contains(&cause)
            {
                *all.of(workload).restarts.entry(cause).or_default() += 1;
            }
        }
        for transition in transitions {
            all.reported(transition);
        }
    }
}

impl All {
    fn of(&mut self, workload: &ReplicaId) -> &mut OfWorkload {
        self.workloads.entry(workload.clone()).or_default()
    }

    fn reported(&mut self, transition: &Transition) {
        if let Detail::Lost(Lost {
            records,
            of: LostFrom::Ebpf,
        }) = &transition.detail
        {
            self.lost += records;
        }
        let Some(workload) = &transition.workload else {
            return;
        };
        match &transition.detail {
            Detail::Restart(plan) if plan.carried_out => {
                let asked = transition.reason.filter(|cause| !AUTOMATIC.contains(cause));
                let counts = self.of(workload);
                if let Some(cause) = asked {
                    *counts.restarts.entry(cause).or_default() += 1;
                }
                counts.rate_limited += u64::from(plan.rate_limited);
            }
            Detail::OomKill(incident) => {
                let [own, descendant, ancestor, host] = &mut self.of(workload).oom_kills;
                *match incident.scope {
                    Scope::Own => own,
                    Scope::Descendant(_) => descendant,
                    Scope::Ancestor(_) => ancestor,
                    Scope::Host => host,
                } += 1;
            }
            Detail::CpuLoop(found) => {
                let [dead, spin, over] = &mut self.of(workload).loops;
                *match found.verdict {
                    Verdict::DeadLoop => dead,
                    Verdict::SyscallSpin => spin,
                    Verdict::OverBudget => over,
                } += 1;
            }
            Detail::Breaker(change) if change.state == BreakerState::Open => {
                self.of(workload).rate_limited += 1;
            }
            Detail::Config(ConfigChange::Removed) => {
                self.workloads.remove(workload);
            }
            _ => {}
        }
    }
}
