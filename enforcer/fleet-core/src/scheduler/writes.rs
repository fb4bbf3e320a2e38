//! The writes that carry a decision out.

use crate::fleet::{Health, NodeId, Replica, Time, WorkloadName};
use crate::reason::{Change as Move, Reason, Wait};
use crate::record::{AssignedRecord, HistoryRecord, Key, KnownRecord, Mode, Record as _};
use crate::schedule::Decision;
use crate::store::{Condition, Keys, Operation, Revision};
use crate::view::View;
use std::collections::{BTreeMap, BTreeSet};

/// An operation, with what must still be true for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Write {
    pub(super) operation: Option<Operation>,
    pub(super) condition: Option<Condition>,
}

fn put(key: String, value: Vec<u8>) -> Write {
    Write {
        operation: Some(Operation::Put {
            key,
            value,
            lease: None,
        }),
        condition: None,
    }
}

fn delete(key: String) -> Write {
    Write {
        operation: Some(Operation::Delete(Keys::One(key))),
        condition: None,
    }
}

/// Returns the operations that carry a decision out. Nothing is written that is there already.
pub(super) fn writes(
    prefix: &str,
    view: &View,
    decision: &Decision,
    would: &Decision,
    now: Time,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let text = |key: &Key| format!("{prefix}{key}");
    let put = |key: Key, value: Vec<u8>| put(text(&key), value);
    for (id, known) in known_nodes(view, now) {
        if view.known.get(&id).map(|kept| &kept.record) != Some(&known) {
            writes.push(put(Key::Known(id), known.encode()));
        }
    }
    for change in &decision.changes {
        let replica = &change.replica;
        // Its node may come back at this very moment, and must not run it any more when it does.
        let is_lost = change.why == Reason::NodeLost;
        let condition = change.from.as_ref().filter(|_| is_lost).map(|from| {
            let key = text(&Key::Node(from.clone()));
            Condition::Created(key, Revision(0))
        });
        if let Some(from) = change.from.as_ref().filter(|from| is_member(view, from)) {
            let present = view.assigned.get(&(replica.clone(), from.clone()));
            let ends = AssignedRecord {
                revision: present.map_or(Revision(0), |kept| kept.record.revision),
                ends: Some(change.why.clone()),
            };
            let key = Key::Assigned(from.clone(), replica.clone());
            let condition = condition.clone();
            writes.push(Write {
                condition,
                ..put(key, ends.encode())
            });
        }
        if let Some(to) = &change.to {
            let desired = view.desired.get(&replica.workload);
            let begins = AssignedRecord {
                revision: desired.map_or(Revision(0), |kept| kept.modified),
                ends: None,
            };
            let key = Key::Assigned(to.clone(), replica.clone());
            writes.push(Write {
                condition,
                ..put(key, begins.encode())
            });
        }
    }
    for (replica, node, revision) in renewed(view, decision) {
        let renewed = AssignedRecord {
            revision,
            ends: None,
        };
        writes.push(put(Key::Assigned(node, replica), renewed.encode()));
    }
    // What was removed from the fleet ends no more.
    for (replica, node) in view.assigned.keys() {
        if !is_member(view, node) {
            let key = Key::Assigned(node.clone(), replica.clone());
            writes.push(delete(text(&key)));
        }
    }
    for ((replica, node), kept) in &view.health {
        let is_assigned = view.assigned.contains_key(&(replica.clone(), node.clone()));
        let is_refused = view.refuses(&replica.workload, &kept.record);
        let is_of_node = view.nodes.contains_key(node) && kept.record.refused.is_none();
        if !is_assigned && !is_refused && !is_of_node {
            let key = Key::Health(node.clone(), replica.clone());
            writes.push(delete(text(&key)));
        }
    }
    writes.extend(histories(prefix, view, decision, would, now));
    writes
}

fn is_member(view: &View, node: &NodeId) -> bool {
    view.nodes.contains_key(node) || view.known.contains_key(node)
}

/// Returns the replicas that get the present version of their workload now, where they are. No more than `max_unavailable` are without
/// readiness at a time, as far as this decides about it.
fn renewed(view: &View, decision: &Decision) -> Vec<(Replica, NodeId, Revision)> {
    let moved: BTreeSet<&Replica> = decision.changes.iter().map(|one| &one.replica).collect();
    let mut of_workload: BTreeMap<&WorkloadName, Vec<_>> = BTreeMap::new();
    for ((replica, node), kept) in &view.assigned {
        if kept.record.ends.is_none() {
            let all = of_workload.entry(&replica.workload).or_default();
            all.push((replica, node, kept.record.revision));
        }
    }
    let mut renewed = Vec::new();
    for (workload, kept) in &view.desired {
        let all = of_workload.get(workload).map(Vec::as_slice);
        let all = all.unwrap_or_default();
        let is_old = |version: &Revision| *version < kept.modified;
        if kept.record.mode == Mode::Observe || !all.iter().any(|(.., version)| is_old(version)) {
            continue;
        }
        let is_ready = |(replica, node, version): &(&Replica, &NodeId, Revision)| {
            let health = view.health.get(&((*replica).clone(), (*node).clone()));
            let is_ready = health.is_some_and(|health| {
                health.record.health == Health::Ready && health.record.revision == *version
            });
            is_ready && !moved.contains(*replica)
        };
        let wanted = usize::try_from(kept.record.scheduling.replicas).unwrap_or(usize::MAX);
        let ready = all.iter().filter(|one| is_ready(one)).count();
        let allowed = kept.record.scheduling.max_unavailable.max(1);
        let mut left = usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .saturating_sub(wanted.saturating_sub(ready));
        for one @ (replica, node, version) in all {
            if !is_old(version) || moved.contains(*replica) || view.is_observed(node) {
                continue;
            }
            // One that is not ready makes nothing worse.
            if is_ready(one) {
                let Some(rest) = left.checked_sub(1) else {
                    continue;
                };
                left = rest;
            }
            renewed.push(((*replica).clone(), (*node).clone(), kept.modified));
        }
    }
    renewed
}

/// Returns what is to be known of each node.
fn known_nodes(view: &View, now: Time) -> BTreeMap<NodeId, KnownRecord> {
    let present = view.nodes.iter().map(|(id, kept)| {
        let known = KnownRecord {
            capacity: kept.record.capacity,
            labels: kept.record.labels.clone(),
            lost_since: None,
        };
        (id.clone(), known)
    });
    let lost = view
        .known
        .iter()
        .filter(|(id, _)| !view.nodes.contains_key(*id));
    let lost = lost.map(|(id, kept)| {
        let since = kept.record.lost_since.unwrap_or(now);
        let known = KnownRecord {
            lost_since: Some(since),
            ..kept.record.clone()
        };
        (id.clone(), known)
    });
    present.chain(lost).collect()
}

fn histories(
    prefix: &str,
    view: &View,
    decision: &Decision,
    would: &Decision,
    now: Time,
) -> Vec<Write> {
    let is_observed = |workload: &WorkloadName| {
        let desired = view.desired.get(workload);
        desired.is_some_and(|kept| kept.record.mode == Mode::Observe)
    };
    let mut changes: BTreeMap<&Replica, &Move> = BTreeMap::new();
    changes.extend(decision.changes.iter().map(|one| (&one.replica, one)));
    let mut waits: BTreeMap<&Replica, &Wait> = BTreeMap::new();
    waits.extend(decision.waiting.iter().map(|one| (&one.replica, &one.why)));
    let mut woulds: BTreeMap<&Replica, &Move> = BTreeMap::new();
    let is_on_observed = |change: &Move| {
        let nodes = change.from.iter().chain(&change.to);
        { nodes }.any(|node| view.is_observed(node)) && !changes.contains_key(&change.replica)
    };
    let observed = would.changes.iter();
    let observed = observed.filter(|one| is_observed(&one.replica.workload) || is_on_observed(one));
    woulds.extend(observed.map(|one| (&one.replica, one)));
    let waiting = would.waiting.iter();
    let waiting = waiting.filter(|one| is_observed(&one.replica.workload));
    waits.extend(waiting.map(|one| (&one.replica, &one.why)));

    let all = changes.keys().chain(waits.keys()).chain(woulds.keys());
    let mut all: BTreeSet<&Replica> = all.copied().collect();
    all.extend(view.history.keys());
    let mut writes = Vec::new();
    for replica in all {
        let key = format!("{prefix}{}", Key::History(replica.clone()));
        let present = view.history.get(replica).map(|kept| &kept.record);
        if !view.desired.contains_key(&replica.workload) && !changes.contains_key(replica) {
            writes.extend(present.map(|_| delete(key)));
            continue;
        }
        let mut history = present.cloned().unwrap_or_default();
        if let Some(change) = changes.get(replica) {
            history.add(now, (*change).clone());
        }
        history.waits = waits.get(replica).map(|wait| (*wait).clone());
        history.would = woulds.get(replica).map(|change| (*change).clone());
        if present != Some(&history) && history != HistoryRecord::default() {
            writes.push(put(key, history.encode()));
        }
    }
    writes
}
