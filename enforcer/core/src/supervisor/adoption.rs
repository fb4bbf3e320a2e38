//! The take-over from an earlier agent, once and before other events, and the checkpoints for the
//! next one.

use super::Supervisor;
use crate::event::{
    AgentChange, AgentState, Cause, Decision, Detail, InstanceId, Lost, LostFrom, Moment, Seq,
    TakenOver,
};
use crate::workload::Workload;

impl Supervisor {
    pub(super) fn take_over(
        &mut self,
        moment: Moment,
        workloads: Vec<TakenOver>,
        (seq, instance): (Seq, InstanceId),
        decision: &mut Decision,
    ) {
        self.next_seq = self.next_seq.max(seq.0);
        self.next_instance = self.next_instance.max(instance.0);
        if !workloads.is_empty() {
            self.host_state.taken_over(moment.now);
        }
        let state = if workloads.is_empty() {
            AgentState::Started
        } else {
            AgentState::TookOver
        };
        let change = Detail::Agent(AgentChange { state });
        self.report(decision, Some(Cause::Agent), change);
        let seq = Seq(self.next_seq);
        for TakenOver {
            workload,
            checkpoint,
            found,
        } in workloads
        {
            let resumed = Workload::resume(workload.clone(), &checkpoint);
            self.workloads.insert(workload.clone(), resumed);
            self.with(moment, &workload, decision, |workload, context| {
                workload.take_over(context, &checkpoint, &found, seq);
            });
        }
    }

    /// Adds the checkpoints of the workloads that an event has touched, for the next agent.
    pub(super) fn keep_changed(&mut self, decision: &mut Decision) {
        for name in std::mem::take(&mut self.unkept) {
            let changed = match self.workloads.get_mut(&name) {
                Some(workload) => workload.changed_checkpoint(),
                None => Some(None),
            };
            decision
                .checkpoints
                .extend(changed.map(|changed| (name, changed)));
        }
    }

    pub(super) fn history_resumed(&mut self, lost: u64, decision: &mut Decision) {
        let state = AgentState::HistoryResumed;
        self.report(decision, None, Detail::Agent(AgentChange { state }));
        if lost > 0 {
            let (records, of) = (lost, LostFrom::History);
            self.report(decision, None, Detail::Lost(Lost { records, of }));
        }
    }

    pub(super) fn leave(&mut self, decision: &mut Decision) {
        let state = AgentState::Leaving;
        let change = Detail::Agent(AgentChange { state });
        self.report(decision, Some(Cause::Agent), change);
    }

    pub(super) fn events_lost(&mut self, records: u64, decision: &mut Decision) {
        let of = LostFrom::Ebpf;
        self.report(decision, None, Detail::Lost(Lost { records, of }));
    }
}
