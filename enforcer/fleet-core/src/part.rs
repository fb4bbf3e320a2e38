//! The part of a fleet that a decision has to look at, so that its cost grows with what has changed and not with the fleet.
//!
//! A workload is settled when all of its replicas are well, on nodes that are up, and the last decision has changed nothing about it. It stays
//! settled until one of its own records changes, or a node that it is on. What settled workloads take on a node is known as a sum, so the room
//! that is left for the others is exact.
//!
//! A replica that displaces others, and a node that has less room than it had, need the whole fleet.

use crate::fleet::{NodeId, Replica, Resources, WorkloadName};
use crate::record::{Mode, NodeRecord};
use crate::view::{Kept, View};
use std::collections::{BTreeMap, BTreeSet};

/// The workloads that a change may have unsettled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    Nothing,
    Workload(WorkloadName),
    /// All that are on this node.
    Node(NodeId),
}

/// The records that are about one node. Replicas that should end there are among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OnNode {
    needs: Resources,
    /// The number of records that each workload has there.
    workloads: BTreeMap<WorkloadName, u32>,
}

/// The sums of all assignments and records of health by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assignments(BTreeMap<NodeId, OnNode>);

impl Assignments {
    pub(crate) fn add(&mut self, node: &NodeId, workload: &WorkloadName, needs: Resources) {
        let on = self.0.entry(node.clone()).or_default();
        on.needs = on.needs.plus(needs);
        *on.workloads.entry(workload.clone()).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, node: &NodeId, workload: &WorkloadName, needs: Resources) {
        let Some(on) = self.0.get_mut(node) else {
            return;
        };
        on.needs = on.needs.minus(needs);
        if let Some(count) = on.workloads.get_mut(workload) {
            *count -= 1;
            if *count == 0 {
                on.workloads.remove(workload);
            }
        }
        if on.workloads.is_empty() {
            self.0.remove(node);
        }
    }
}

impl View {
    /// Returns the resources that each replica of a workload needs. An unknown workload needs none.
    pub(crate) fn needs_of(&self, workload: &WorkloadName) -> Resources {
        let desired = self.desired.get(workload);
        desired.map_or_else(Resources::default, |kept| kept.record.scheduling.needs)
    }

    /// Returns the records of a map that are about a workload.
    fn of<'v, T>(
        map: &'v BTreeMap<(Replica, NodeId), T>,
        workload: &WorkloadName,
    ) -> impl Iterator<Item = (&'v (Replica, NodeId), &'v T)> {
        let first = Replica {
            workload: workload.clone(),
            index: 0,
        };
        let workload = workload.clone();
        map.range((first, NodeId::first())..)
            .take_while(move |((replica, _), _)| replica.workload == workload)
    }

    /// Returns the nodes of a workload's replicas, once for each replica.
    pub(crate) fn places_of(&self, workload: &WorkloadName) -> Vec<NodeId> {
        let assigned = Self::of(&self.assigned, workload);
        assigned.map(|((_, node), _)| node.clone()).collect()
    }

    /// Returns the workloads that have a record on a node.
    pub(crate) fn workloads_on(&self, node: &NodeId) -> impl Iterator<Item = &WorkloadName> {
        let on = self.assignments.0.get(node);
        on.into_iter().flat_map(|on| on.workloads.keys())
    }

    /// Returns whether a decision may look at a part alone.
    pub(crate) fn has_parts(&self) -> bool {
        let mut modes = (self.desired.values().map(|kept| kept.record.mode))
            .chain(self.nodes.values().map(|kept| kept.record.mode));
        let is_overfull = |(id, kept): (&NodeId, &Kept<NodeRecord>)| {
            let on = self.assignments.0.get(id);
            on.is_some_and(|on| !on.needs.fits_in(kept.record.capacity))
        };
        self.unreadable.is_empty()
            && modes.all(|mode| mode == Mode::Enforce)
            && !self.nodes.iter().any(is_overfull)
    }

    /// Returns the records of these workloads, and of all nodes with the room that the other workloads leave.
    pub(crate) fn part(&self, workloads: &BTreeSet<WorkloadName>) -> Self {
        let mut part = Self {
            drains: self.drains.clone(),
            known: self.known.clone(),
            is_part: true,
            ..Self::default()
        };
        let nodes = self.nodes.iter().map(|(id, kept)| {
            // The times of checks are many, and no decision depends on them.
            let record = NodeRecord {
                capacity: kept.record.capacity,
                labels: kept.record.labels.clone(),
                mode: kept.record.mode,
                ..NodeRecord::default()
            };
            let kept = Kept {
                record,
                created: kept.created,
                modified: kept.modified,
            };
            (id.clone(), kept)
        });
        part.nodes = nodes.collect();
        let sums = self.assignments.0.iter();
        part.elsewhere = sums.map(|(id, on)| (id.clone(), on.needs)).collect();
        for workload in workloads {
            if let Some(kept) = self.desired.get(workload) {
                part.desired.insert(workload.clone(), kept.clone());
            }
            let needs = self.needs_of(workload);
            for (place, kept) in Self::of(&self.assigned, workload) {
                if let Some(elsewhere) = part.elsewhere.get_mut(&place.1) {
                    *elsewhere = elsewhere.minus(needs);
                }
                part.assigned.insert(place.clone(), kept.clone());
            }
            for (place, kept) in Self::of(&self.health, workload) {
                part.health.insert(place.clone(), kept.clone());
            }
            let first = Replica {
                workload: workload.clone(),
                index: 0,
            };
            let history = self.history.range(first..);
            let history = history.take_while(|(replica, _)| replica.workload == *workload);
            part.history
                .extend(history.map(|(replica, kept)| (replica.clone(), kept.clone())));
        }
        part
    }
}
