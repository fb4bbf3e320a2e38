//! The turns of proofs and starts.

use super::Supervisor;
use crate::admission::{self, ONE_OF_A_CROWD, PROOFS_AT_ONCE, Queued, Waiting};
use crate::event::{Decision, Moment};
use crate::name::{ReplicaId, WorkloadName};
use crate::spec::Need;
use crate::workload::Workload;

impl Supervisor {
    /// Begins the proofs of the next suspects.
    pub(super) fn admit_proofs(&mut self, moment: Moment, decision: &mut Decision) {
        let names = self.suspected.clone();
        let suspected = |this: &Self| -> Vec<Waiting> {
            let found = names.iter().filter_map(|name| this.workloads.get(name));
            found.flat_map(Workload::waiting_for_proof).collect()
        };
        let running = names.iter().filter_map(|name| self.workloads.get(name));
        let mut running: usize = running.map(Workload::proofs_running).sum();
        while running < PROOFS_AT_ONCE {
            let waiting = suspected(self).into_iter();
            let Some(Waiting {
                workload,
                thread,
                crowded,
                ..
            }) = admission::next(waiting)
            else {
                return;
            };
            if crowded {
                if running > 0 || self.next_of_a_crowd > moment.now {
                    return;
                }
                self.next_of_a_crowd = moment.now.after(ONE_OF_A_CROWD);
            }
            self.with(moment, &workload, decision, |workload, context| {
                workload.begin_proof(context, thread)
            });
            running += 1;
        }
    }

    /// Begins the next starts.
    pub(super) fn admit_starts(&mut self, moment: Moment, decision: &mut Decision) {
        if self.queued.is_empty() || !std::mem::take(&mut self.turns_changed) {
            return;
        }
        let mut under_way = self.coming_up.len();
        let most = self
            .host
            .starts_at_once
            .unwrap_or(self.cpus.saturating_mul(2));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        // Those that need others show what they wait for, even while no turn is free.
        if under_way >= most && self.dependent.is_empty() {
            return;
        }
        let mut waiting = self.startable();
        let mut noise = moment.noise;
        while under_way < most {
            let Some(Queued { workload: name, .. }) =
                admission::next_start(&waiting, noise).cloned()
            else {
                return;
            };
            waiting.retain(|queued| queued.workload != name);
            // The next choice needs another random number.
            noise = noise.rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.with(moment, &name, decision, |workload, context| {
                workload.begin_start(context)
            });
            under_way += 1;
        }
    }

    /// Returns the queued starts that wait only for their turn.
    fn startable(&mut self) -> Vec<Queued> {
        let mut startable = Vec::new();
        let mut blocked: Vec<(ReplicaId, WorkloadName, Need)> = Vec::new();
        for name in &self.queued {
            let Some((queued, workload)) = self
                .workloads
                .get(name)
                .and_then(|workload| Some((workload.queued()?, workload)))
            else {
                continue;
            };
            let unmet = |(other, need): &(&WorkloadName, &Need)| !self.meets(other, **need);
            match workload.spec.needs.iter().find(unmet) {
                Some((other, need)) if !queued.at_once => {
                    blocked.push((name.clone(), other.clone(), *need));
                }
                Some(_) | None => startable.push(queued),
            }
        }
        for (name, other, need) in blocked {
            if let Some(workload) = self.workloads.get_mut(&name) {
                workload.waits_for(&other, need);
            }
        }
        startable
    }
}
