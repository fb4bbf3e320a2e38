//! Puts the records of a fleet together. It is brought up to date change by change.

use crate::fleet::{Fleet, Node, NodeId, NodeState, Replica, Time, WorkloadName};
use crate::record::{
    AssignedRecord, DesiredRecord, DrainRecord, EndpointRecord, HealthRecord, HistoryRecord, Key,
    KnownRecord, Mode, NodeRecord, Record, RecordError,
};
use crate::schedule::Memory;
use crate::store::{Change, Entry, Revision};
use std::collections::{BTreeMap, BTreeSet};

/// A record with the changes that have made it and that have changed it last.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept<T> {
    pub record: T,
    pub created: Revision,
    pub modified: Revision,
}

/// All records of a fleet that this version can read.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub desired: BTreeMap<WorkloadName, Kept<DesiredRecord>>,
    pub drains: BTreeMap<NodeId, Kept<DrainRecord>>,
    pub nodes: BTreeMap<NodeId, Kept<NodeRecord>>,
    pub known: BTreeMap<NodeId, Kept<KnownRecord>>,
    pub assigned: BTreeMap<(Replica, NodeId), Kept<AssignedRecord>>,
    pub health: BTreeMap<(Replica, NodeId), Kept<HealthRecord>>,
    pub endpoints: BTreeMap<(WorkloadName, NodeId, u32), Kept<EndpointRecord>>,
    pub history: BTreeMap<Replica, Kept<HistoryRecord>>,
    pub memory: Option<Kept<Memory>>,
    /// The records that this version cannot read. It leaves them, and what they are about, as they are.
    pub unreadable: BTreeMap<Key, RecordError>,
}

fn kept<T: Record>(entry: &Entry) -> Result<Kept<T>, RecordError> {
    Ok(Kept {
        record: T::decode(&entry.value)?,
        created: entry.created,
        modified: entry.modified,
    })
}

impl View {
    /// Takes an entry that is there.
    pub fn put(&mut self, prefix: &str, entry: &Entry) {
        let Some(key) = entry.key.strip_prefix(prefix).and_then(Key::parse) else {
            return;
        };
        self.remove(&key);
        if let Err(error) = self.insert(&key, entry) {
            self.unreadable.insert(key, error);
        }
    }

    fn insert(&mut self, key: &Key, entry: &Entry) -> Result<(), RecordError> {
        match key.clone() {
            Key::Desired(workload) => drop(self.desired.insert(workload, kept(entry)?)),
            Key::Drain(node) => drop(self.drains.insert(node, kept(entry)?)),
            Key::Node(node) => drop(self.nodes.insert(node, kept(entry)?)),
            Key::Known(node) => drop(self.known.insert(node, kept(entry)?)),
            Key::Assigned(node, replica) => {
                self.assigned.insert((replica, node), kept(entry)?);
            }
            Key::Health(node, replica) => drop(self.health.insert((replica, node), kept(entry)?)),
            Key::Endpoint(service, node, index) => {
                self.endpoints.insert((service, node, index), kept(entry)?);
            }
            Key::History(replica) => drop(self.history.insert(replica, kept(entry)?)),
            Key::Memory => self.memory = Some(kept(entry)?),
            Key::Election(_) => {}
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        self.unreadable.remove(key);
        match key.clone() {
            Key::Desired(workload) => drop(self.desired.remove(&workload)),
            Key::Drain(node) => drop(self.drains.remove(&node)),
            Key::Node(node) => drop(self.nodes.remove(&node)),
            Key::Known(node) => drop(self.known.remove(&node)),
            Key::Assigned(node, replica) => drop(self.assigned.remove(&(replica, node))),
            Key::Health(node, replica) => drop(self.health.remove(&(replica, node))),
            Key::Endpoint(service, node, index) => {
                self.endpoints.remove(&(service, node, index));
            }
            Key::History(replica) => drop(self.history.remove(&replica)),
            Key::Memory => self.memory = None,
            Key::Election(_) => {}
        }
    }

    /// Takes a change.
    pub fn take(&mut self, prefix: &str, change: &Change) {
        match change {
            Change::Put(entry) => self.put(prefix, entry),
            Change::Deleted { key, .. } => {
                if let Some(key) = key.strip_prefix(prefix).and_then(Key::parse) {
                    self.remove(&key);
                }
            }
        }
    }

    /// Returns whether a workload has a record that cannot be read, so that nothing of it may change.
    fn is_frozen(&self, workload: &WorkloadName) -> bool {
        self.unreadable.keys().any(|key| match key {
            Key::Desired(of) => of == workload,
            Key::Assigned(_, replica) => replica.workload == *workload,
            _ => false,
        })
    }

    /// Returns whether a record refuses the present version of a workload.
    #[must_use]
    pub fn refuses(&self, workload: &WorkloadName, health: &HealthRecord) -> bool {
        let desired = self.desired.get(workload);
        let refusal = health.refused.as_ref();
        refusal
            .zip(desired)
            .is_some_and(|(refusal, desired)| refusal.of >= desired.modified)
    }

    /// Returns all that a scheduler decides by, with the workloads of some modes. A node without a lease counts as lost from `now` on, if
    /// nobody has noted it.
    #[must_use]
    pub fn fleet(&self, now: Time, has_mode: impl Fn(Mode) -> bool) -> Fleet {
        let mut fleet = Fleet::default();
        let present = self.nodes.iter();
        let present = present.map(|(id, kept)| (id, (&kept.record.capacity, &kept.record.labels)));
        let known = self.known.iter();
        let known = known.map(|(id, kept)| (id, (&kept.record.capacity, &kept.record.labels)));
        // What a node says itself is newer.
        let all: BTreeMap<_, _> = known.chain(present).collect();
        for (id, (capacity, labels)) in all {
            let lost = self.known.get(id).and_then(|kept| kept.record.lost_since);
            let state = match self.nodes.contains_key(id) {
                true if self.drains.contains_key(id) => NodeState::Draining,
                true => NodeState::Up,
                false => NodeState::Lost {
                    since: lost.unwrap_or(now),
                },
            };
            let node = Node {
                capacity: *capacity,
                labels: labels.clone(),
                state,
            };
            fleet.nodes.insert(id.clone(), node);
        }
        let frozen: BTreeSet<&WorkloadName> = (self.assigned.keys())
            .map(|(replica, _)| &replica.workload)
            .filter(|workload| !self.unreadable.is_empty() && self.is_frozen(workload))
            .collect();
        for (workload, kept) in &self.desired {
            if has_mode(kept.record.mode) && !frozen.contains(workload) {
                let desired = kept.record.scheduling.clone();
                fleet.desired.insert(workload.clone(), desired);
            }
        }
        for ((replica, node), kept) in &self.assigned {
            let is_left = self.desired.get(&replica.workload).is_some_and(|desired| {
                // One that is only observed stays where it is.
                !has_mode(desired.record.mode)
            });
            if is_left || frozen.contains(&replica.workload) {
                continue;
            }
            match kept.record.ends {
                None => drop(fleet.assigned.insert(replica.clone(), node.clone())),
                Some(_) => {
                    let leaving = fleet.leaving.entry(replica.clone()).or_default();
                    leaving.insert(node.clone());
                }
            }
        }
        for ((replica, node), kept) in &self.health {
            if self.refuses(&replica.workload, &kept.record) {
                let refused = (replica.workload.clone(), node.clone());
                fleet.refused.insert(refused);
            }
            if fleet.assigned.get(replica) == Some(node) {
                fleet.health.insert(replica.clone(), kept.record.health);
            }
        }
        fleet
    }
}
