//! A decision about a fleet or a part of it, and what would be decided if nothing were only observed.

use super::writes::{Write, writes};
use crate::fleet::{Fleet, Health, Time, WorkloadName};
use crate::reason::Wait;
use crate::record::Mode;
use crate::schedule::{Decision, Memory, Settings, decide};
use crate::view::View;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(super) struct Looked {
    pub(super) decision: Decision,
    would: Decision,
    /// The workloads that may be decided about otherwise because time has passed.
    pub(super) unsettled: BTreeSet<WorkloadName>,
}

/// Decides.
pub(super) fn look(view: &View, memory: &mut Memory, settings: &Settings, now: Time) -> Looked {
    let enforced = &[Mode::Enforce];
    let fleet = view.fleet(now, enforced, enforced);
    let decision = decide(&fleet, memory, settings, now);
    let mut modes = (view.desired.values().map(|kept| kept.record.mode))
        .chain(view.nodes.values().map(|kept| kept.record.mode));
    let would = match modes.any(|mode| mode == Mode::Observe) {
        true => {
            let fleet = view.fleet(now, Mode::ALL, Mode::ALL);
            decide(&fleet, &mut memory.clone(), settings, now)
        }
        false => Decision::default(),
    };
    Looked {
        unsettled: unsettled(&fleet, &decision, &would),
        decision,
        would,
    }
}

fn unsettled(fleet: &Fleet, decision: &Decision, would: &Decision) -> BTreeSet<WorkloadName> {
    let is_unwell = |health: &Health| !matches!(health, Health::Ready | Health::Unknown);
    let unwell = fleet.health.iter();
    let unwell = unwell.filter(|(_, health)| is_unwell(health));
    let waiting = decision.waiting.iter().chain(&would.waiting);
    let replicas = (waiting.map(|one| &one.replica))
        .chain(decision.changes.iter().map(|one| &one.replica))
        .chain(unwell.map(|(replica, _)| replica))
        .chain(fleet.leaving.keys());
    replicas.map(|replica| replica.workload.clone()).collect()
}

impl Looked {
    /// Returns whether one that waits might displace others of the whole fleet.
    pub(super) fn may_displace(&self, whole: &View) -> bool {
        let priorities = whole
            .desired
            .values()
            .map(|kept| kept.record.scheduling.priority);
        let least = priorities.min().unwrap_or_default();
        let is_above = |workload: &WorkloadName| {
            let desired = whole.desired.get(workload);
            desired.is_some_and(|kept| kept.record.scheduling.priority > least)
        };
        self.decision.waiting.iter().any(|one| match &one.why {
            Wait::NoNode { full, .. } => *full > 0 && is_above(&one.replica.workload),
            Wait::Room(_) => true,
            Wait::Unavailable | Wait::Moves | Wait::Leaving | Wait::MassLoss | Wait::NoneReady => {
                false
            }
        })
    }

    /// Returns the operations that carry it out.
    pub(super) fn writes(&self, prefix: &str, view: &View, now: Time) -> Vec<Write> {
        writes(prefix, view, &self.decision, &self.would, now)
    }
}
