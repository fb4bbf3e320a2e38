//! Puts the records of a fleet together. It is brought up to date change by change.

use crate::fleet::{
    Fleet, Health, Node, NodeId, NodeState, Replica, Resources, Time, WorkloadName,
};
use crate::part::{Assignments, Touched};
use crate::record::{
    AssignedRecord, DesiredRecord, DrainRecord, EndpointRecord, HealthRecord, HistoryRecord, Key,
    KnownRecord, Mode, NodeRecord, Record, RecordError, Refusal,
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
    pub(crate) assignments: Assignments,
    /// There are more workloads than these.
    pub(crate) is_part: bool,
    /// What the other workloads need on each node.
    pub(crate) elsewhere: BTreeMap<NodeId, Resources>,
}

/// The part of a record that a decision may depend on.
#[derive(PartialEq)]
enum Matter {
    There,
    Version(Revision),
    Node(Resources, BTreeMap<String, String>, Mode),
    Known(KnownRecord),
    Assigned(AssignedRecord),
    Health(Health, Revision, Option<Refusal>),
}

/// Returns what the record of this key is about.
fn touched(key: &Key) -> Touched {
    match key {
        Key::Desired(workload) => Touched::Workload(workload.clone()),
        Key::Health(_, replica) | Key::Assigned(_, replica) => {
            Touched::Workload(replica.workload.clone())
        }
        Key::Drain(node) | Key::Node(node) | Key::Known(node) => Touched::Node(node.clone()),
        Key::Endpoint(..) | Key::History(_) | Key::Memory | Key::Election(_) => Touched::Nothing,
    }
}

fn kept<T: Record>(entry: &Entry) -> Result<Kept<T>, RecordError> {
    Ok(Kept {
        record: T::decode(&entry.value)?,
        created: entry.created,
        modified: entry.modified,
    })
}

impl View {
    /// Takes an entry that is there. Returns what a decision may have to look at because of it.
    pub fn put(&mut self, prefix: &str, entry: &Entry) -> Touched {
        let Some(key) = entry.key.strip_prefix(prefix).and_then(Key::parse) else {
            return Touched::Nothing;
        };
        let before = self.matters(&key);
        self.remove(&key);
        if let Err(error) = self.insert(&key, entry) {
            self.unreadable.insert(key.clone(), error);
            return touched(&key);
        }
        match self.matters(&key) == before {
            true => Touched::Nothing,
            false => touched(&key),
        }
    }

    /// Returns the part of a record that a decision, or a write that carries it out, depends on; `None` without such a record.
    fn matters(&self, key: &Key) -> Option<Matter> {
        match key {
            Key::Desired(workload) => {
                let kept = self.desired.get(workload)?;
                Some(Matter::Version(kept.modified))
            }
            Key::Drain(node) => self.drains.get(node).map(|_| Matter::There),
            Key::Node(node) => {
                let node = &self.nodes.get(node)?.record;
                let labels = node.labels.clone();
                Some(Matter::Node(node.capacity, labels, node.mode))
            }
            Key::Known(node) => {
                let record = self.known.get(node)?.record.clone();
                Some(Matter::Known(record))
            }
            Key::Assigned(node, replica) => {
                let place = (replica.clone(), node.clone());
                let record = self.assigned.get(&place)?.record.clone();
                Some(Matter::Assigned(record))
            }
            Key::Health(node, replica) => {
                let place = (replica.clone(), node.clone());
                let record = &self.health.get(&place)?.record;
                let refused = record.refused.clone();
                Some(Matter::Health(record.health, record.revision, refused))
            }
            // The scheduler itself writes them, or has no use for them.
            Key::Endpoint(..) | Key::History(_) | Key::Memory | Key::Election(_) => None,
        }
    }

    fn insert(&mut self, key: &Key, entry: &Entry) -> Result<(), RecordError> {
        match key.clone() {
            Key::Desired(workload) => {
                let kept: Kept<DesiredRecord> = kept(entry)?;
                let needs = kept.record.scheduling.needs;
                self.desired.insert(workload.clone(), kept);
                for node in self.places_of(&workload) {
                    let none = Resources::default();
                    self.assignments.remove(&node, &workload, none);
                    self.assignments.add(&node, &workload, needs);
                }
            }
            Key::Drain(node) => drop(self.drains.insert(node, kept(entry)?)),
            Key::Node(node) => drop(self.nodes.insert(node, kept(entry)?)),
            Key::Known(node) => drop(self.known.insert(node, kept(entry)?)),
            Key::Assigned(node, replica) => {
                let kept = kept(entry)?;
                let needs = self.needs_of(&replica.workload);
                self.assignments.add(&node, &replica.workload, needs);
                self.assigned.insert((replica, node), kept);
            }
            Key::Health(node, replica) => {
                let kept = kept(entry)?;
                let none = Resources::default();
                self.assignments.add(&node, &replica.workload, none);
                self.health.insert((replica, node), kept);
            }
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
            Key::Desired(workload) => {
                let needs = self.needs_of(&workload);
                if self.desired.remove(&workload).is_some() {
                    for node in self.places_of(&workload) {
                        let none = Resources::default();
                        self.assignments.remove(&node, &workload, needs);
                        self.assignments.add(&node, &workload, none);
                    }
                }
            }
            Key::Drain(node) => drop(self.drains.remove(&node)),
            Key::Node(node) => drop(self.nodes.remove(&node)),
            Key::Known(node) => drop(self.known.remove(&node)),
            Key::Assigned(node, replica) => {
                let needs = self.needs_of(&replica.workload);
                let place = (replica, node);
                if self.assigned.remove(&place).is_some() {
                    self.assignments.remove(&place.1, &place.0.workload, needs);
                }
            }
            Key::Health(node, replica) => {
                let (place, none) = ((replica, node), Resources::default());
                if self.health.remove(&place).is_some() {
                    self.assignments.remove(&place.1, &place.0.workload, none);
                }
            }
            Key::Endpoint(service, node, index) => {
                self.endpoints.remove(&(service, node, index));
            }
            Key::History(replica) => drop(self.history.remove(&replica)),
            Key::Memory => self.memory = None,
            Key::Election(_) => {}
        }
    }

    /// Takes a change. Returns what a decision may have to look at because of it.
    pub fn take(&mut self, prefix: &str, change: &Change) -> Touched {
        match change {
            Change::Put(entry) => self.put(prefix, entry),
            Change::Deleted { key, .. } => {
                let Some(key) = key.strip_prefix(prefix).and_then(Key::parse) else {
                    return Touched::Nothing;
                };
                let is_readable = !self.unreadable.contains_key(&key);
                let before = self.matters(&key);
                self.remove(&key);
                match before.is_some() || !is_readable {
                    true => touched(&key),
                    false => Touched::Nothing,
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

    /// Returns whether a node only tells what would be done on it.
    #[must_use]
    pub fn is_observed(&self, node: &NodeId) -> bool {
        let node = self.nodes.get(node);
        node.is_some_and(|kept| kept.record.mode == Mode::Observe)
    }

    /// Returns all that a scheduler decides by, with the workloads and the nodes of these modes. A node without a lease counts as lost from
    /// `now` on, if nobody has noted it.
    #[must_use]
    pub fn fleet(&self, now: Time, workloads: &[Mode], nodes: &[Mode]) -> Fleet {
        let mut fleet = Fleet {
            is_part: self.is_part,
            ..Fleet::default()
        };
        let present = self.nodes.iter();
        let present = present.map(|(id, kept)| (id, (&kept.record.capacity, &kept.record.labels)));
        let known = self.known.iter();
        let known = known.map(|(id, kept)| (id, (&kept.record.capacity, &kept.record.labels)));
        // What a node says itself is newer.
        let all: BTreeMap<_, _> = known.chain(present).collect();
        for (id, (capacity, labels)) in all {
            let lost = self.known.get(id).and_then(|kept| kept.record.lost_since);
            let state = match self.nodes.get(id).map(|kept| kept.record.mode) {
                Some(mode) if !nodes.contains(&mode) => NodeState::Observed,
                Some(_) if self.drains.contains_key(id) => NodeState::Draining,
                Some(_) => NodeState::Up,
                None => NodeState::Lost {
                    since: lost.unwrap_or(now),
                },
            };
            let elsewhere = self.elsewhere.get(id).copied().unwrap_or_default();
            let node = Node {
                capacity: capacity.minus(elsewhere),
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
            if workloads.contains(&kept.record.mode) && !frozen.contains(workload) {
                let desired = kept.record.scheduling.clone();
                fleet.desired.insert(workload.clone(), desired);
            }
        }
        for ((replica, node), kept) in &self.assigned {
            let desired = self.desired.get(&replica.workload);
            let desired = desired.map(|kept| &kept.record);
            let is_observed = desired.is_some_and(|record| !workloads.contains(&record.mode));
            if is_observed || frozen.contains(&replica.workload) {
                // It stays where it is, with its room.
                if let (Some(on), Some(record)) = (fleet.nodes.get_mut(node), desired) {
                    on.capacity = on.capacity.minus(record.scheduling.needs);
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Desired, Resources};

    fn entry(key: &Key, value: Vec<u8>) -> Entry {
        Entry {
            key: key.to_string(),
            value,
            created: Revision(1),
            modified: Revision(1),
            lease: None,
        }
    }

    /// A fleet with one node of 4 bytes and a workload of 3.
    fn view(of_node: Mode, of_workload: Mode) -> (View, NodeId) {
        let node = NodeId::parse("host-1").expect("a node");
        let workload = WorkloadName::parse("web").expect("a name");
        let of = |memory_bytes| Resources {
            memory_bytes,
            cpu_millis: 0,
        };
        let about = NodeRecord {
            capacity: of(4),
            mode: of_node,
            ..NodeRecord::default()
        };
        let desired = DesiredRecord {
            scheduling: Desired {
                needs: of(3),
                ..Desired::default()
            },
            mode: of_workload,
            workload: serde_json::Value::Null,
        };
        let replica = Replica {
            workload: workload.clone(),
            index: 0,
        };
        let assigned = Key::Assigned(node.clone(), replica);
        let mut view = View::default();
        for entry in [
            entry(&Key::Node(node.clone()), about.encode()),
            entry(&Key::Desired(workload), desired.encode()),
            entry(&assigned, AssignedRecord::default().encode()),
        ] {
            view.put("", &entry);
        }
        (view, node)
    }

    #[test]
    fn what_is_only_observed_keeps_its_room() {
        let free = |mode, workloads: &[Mode]| {
            let (view, node) = view(Mode::Enforce, mode);
            let fleet = view.fleet(Time::default(), workloads, &[Mode::Enforce]);
            let assigned = fleet.assigned.len();
            (fleet.nodes[&node].capacity.memory_bytes, assigned)
        };
        assert_eq!(free(Mode::Enforce, &[Mode::Enforce]), (4, 1));
        assert_eq!(free(Mode::Observe, &[Mode::Enforce]), (1, 0));
        assert_eq!(free(Mode::Observe, Mode::ALL), (4, 1));
    }

    #[test]
    fn a_node_that_observes_is_up_only_where_that_is_asked_for() {
        let (view, node) = view(Mode::Observe, Mode::Enforce);
        let state = |nodes: &[Mode]| {
            let fleet = view.fleet(Time::default(), &[Mode::Enforce], nodes);
            fleet.nodes[&node].state
        };
        assert_eq!(state(&[Mode::Enforce]), NodeState::Observed);
        assert_eq!(state(Mode::ALL), NodeState::Up);
    }

    /// A leader that decides after each heartbeat of each node does nothing else in a large fleet.
    #[test]
    fn a_decision_depends_on_no_heartbeat() {
        let (mut view, node) = view(Mode::Enforce, Mode::Enforce);
        let replica = Replica {
            workload: WorkloadName::parse("web").expect("a name"),
            index: 0,
        };
        let of_health = Key::Health(node.clone(), replica.clone());
        let mut health = HealthRecord::default();
        let mut about = view.nodes[&node].record.clone();
        let mut take = |key: &Key, value: Vec<u8>| {
            let before = view.fleet(Time::default(), Mode::ALL, Mode::ALL);
            let matters = view.put("", &entry(key, value)) != Touched::Nothing;
            let after = view.fleet(Time::default(), Mode::ALL, Mode::ALL);
            assert!(matters || before == after, "{key}");
            matters
        };
        assert!(take(&of_health, health.encode()));
        health.consecutive_failures = 2;
        health.restarts = 1;
        assert!(!take(&of_health, health.encode()));
        health.health = Health::Ready;
        assert!(take(&of_health, health.encode()));
        let of_node = Key::Node(node.clone());
        about
            .last_checks
            .insert("web/0".to_owned(), Time::default());
        assert!(!take(&of_node, about.encode()));
        about.mode = Mode::Observe;
        assert!(take(&of_node, about.encode()));
        assert!(take(&of_node, b"{}".to_vec()), "it cannot be read");
        assert!(take(&of_node, about.encode()), "it can be read again");
        assert!(!take(
            &Key::History(replica),
            HistoryRecord::default().encode()
        ));
        let gone = Change::Deleted {
            key: of_health.to_string(),
            at: Revision(2),
        };
        let web = WorkloadName::parse("web").expect("a name");
        assert_eq!(view.take("", &gone), Touched::Workload(web));
        assert_eq!(view.take("", &gone), Touched::Nothing);
    }
}
