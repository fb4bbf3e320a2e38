//! Decides what changes now. [`decide`] looks at the whole fleet, and changes as little as it can:
//!
//! 1. Replicas that the fleet no longer wants go.
//! 2. Those that cannot stay lose their node: it is lost, removed, without their labels, or refuses them.
//! 3. Those that should not stay move, as far as their workloads allow: a drained node, a node that cannot heal them.
//! 4. Those without a node get one, the important ones first. They displace less important ones where nothing else fits.
//!
//! A loss of many nodes at once stops 2 for lost nodes: the scheduler is then more likely blind than right.

use crate::fleet::{Desired, Fleet, Health, NodeId, NodeState, Replica, Time, WorkloadName};
use crate::reason::{Change, Reason, Wait};
use crate::room::{Room, has_labels};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// The rules that hold for the whole fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The time within which several losses count as one event: the time to live of a node's lease.
    pub grace: Duration,
    /// A replica that has failed for so long is moved.
    pub failing_for: Duration,
    /// The most voluntary moves in a minute.
    pub moves_per_minute: usize,
    /// The time for which a node is left alone by a workload that has failed there; it doubles each time.
    pub first_backoff: Duration,
    pub last_backoff: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            failing_for: Duration::from_secs(300),
            moves_per_minute: 10,
            first_backoff: Duration::from_secs(600),
            last_backoff: Duration::from_secs(24 * 3600),
        }
    }
}

/// A workload that has failed on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Failed {
    until: Time,
    backoff: Duration,
}

/// The part of a scheduler's knowledge that it keeps from one decision to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The last voluntary moves.
    moves: VecDeque<Time>,
    failed: BTreeMap<WorkloadName, BTreeMap<NodeId, Failed>>,
    /// The nodes of a mass loss that has not ended.
    mass_loss: BTreeSet<NodeId>,
}

/// A replica that is not where it should be, and why nothing is done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub replica: Replica,
    pub why: Wait,
}

/// The changes that are due, and the replicas that have to wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One change of a replica at most.
    pub changes: Vec<Change>,
    pub waiting: Vec<Waiting>,
    /// The nodes that are lost at once, as long as that stops the scheduler.
    pub mass_loss: BTreeSet<NodeId>,
}

/// A decision in the making.
struct Making<'a> {
    fleet: &'a Fleet,
    settings: &'a Settings,
    memory: &'a mut Memory,
    now: Time,
    room: Room<'a>,
    changes: BTreeMap<Replica, Change>,
    waiting: BTreeMap<Replica, Wait>,
    /// The replicas of each workload that are not ready, or will not be.
    unready: BTreeMap<&'a WorkloadName, BTreeSet<Replica>>,
}

/// Decides what changes now.
#[must_use]
pub fn decide(fleet: &Fleet, memory: &mut Memory, settings: &Settings, now: Time) -> Decision {
    memory.forget(fleet, settings, now);
    memory.notice_losses(fleet, settings, now);
    let mut making = Making {
        room: Room::of(fleet),
        fleet,
        settings,
        now,
        changes: BTreeMap::new(),
        waiting: BTreeMap::new(),
        unready: unready(fleet),
        memory,
    };
    making.remove();
    making.displace_homeless();
    making.move_voluntarily();
    making.place();
    Decision {
        changes: making.changes.into_values().collect(),
        waiting: (making.waiting.into_iter())
            .map(|(replica, why)| Waiting { replica, why })
            .collect(),
        mass_loss: making.memory.mass_loss.clone(),
    }
}

/// Returns the replicas of each workload that are not ready.
fn unready(fleet: &Fleet) -> BTreeMap<&WorkloadName, BTreeSet<Replica>> {
    let all = fleet.desired.iter().map(|(workload, desired)| {
        let replicas = (0..desired.replicas).map(|index| Replica {
            workload: workload.clone(),
            index,
        });
        let is_unready = |replica: &Replica| {
            !fleet.assigned.contains_key(replica) || fleet.health(replica) != Health::Ready
        };
        (workload, replicas.filter(is_unready).collect())
    });
    all.collect()
}

impl Memory {
    /// Drops what no longer matters. The times of a scheduler whose clock was ahead may be to come still.
    fn forget(&mut self, fleet: &Fleet, settings: &Settings, now: Time) {
        self.moves
            .retain(|at| *at <= now && now.since(*at) < MINUTE);
        // A workload that stays well for as long again begins anew.
        self.failed.retain(|workload, nodes| {
            nodes.retain(|node, failed| {
                failed.until = failed.until.min(now.after(failed.backoff));
                let is_old = now.since(failed.until) >= settings.last_backoff;
                fleet.nodes.contains_key(node) && !is_old
            });
            let is_wanted = fleet.is_part || fleet.desired.contains_key(workload);
            is_wanted && !nodes.is_empty()
        });
    }

    /// Notices that more than a third of the nodes, and at least two, were lost within one grace; and that they are back.
    fn notice_losses(&mut self, fleet: &Fleet, settings: &Settings, now: Time) {
        let all = fleet.nodes.len();
        let is_many = |lost: usize| lost >= 2 && lost * 3 > all;
        let lost: BTreeMap<&NodeId, Time> = fleet
            .nodes
            .iter()
            .filter_map(|(id, node)| match node.state {
                NodeState::Lost { since } => Some((id, since)),
                NodeState::Up | NodeState::Draining | NodeState::Observed => None,
            })
            .collect();
        self.mass_loss.retain(|id| lost.contains_key(id));
        let recent = lost
            .iter()
            .filter(|(_, since)| **since <= now && now.since(**since) < settings.grace);
        let recent: BTreeSet<NodeId> = recent.map(|(id, _)| (*id).clone()).collect();
        // Those that were lost before belong to it as long as it lasts.
        if is_many(recent.len()) {
            self.mass_loss.extend(recent);
        }
        if !is_many(self.mass_loss.len()) {
            self.mass_loss.clear();
        }
    }

    fn is_avoided(&self, workload: &WorkloadName, node: &NodeId, now: Time) -> bool {
        let failed = self.failed.get(workload).and_then(|nodes| nodes.get(node));
        failed.is_some_and(|failed| failed.until > now)
    }

    fn note_failure(
        &mut self,
        (workload, node): (&WorkloadName, &NodeId),
        settings: &Settings,
        now: Time,
    ) {
        let nodes = self.failed.entry(workload.clone()).or_default();
        let backoff = match nodes.get(node) {
            Some(failed) => settings.last_backoff.min(failed.backoff.saturating_mul(2)),
            None => settings.first_backoff,
        };
        let until = now.after(backoff);
        nodes.insert(node.clone(), Failed { until, backoff });
    }
}

impl<'a> Making<'a> {
    fn desired(&self, replica: &Replica) -> Option<&'a Desired> {
        let desired = self.fleet.desired.get(&replica.workload)?;
        (replica.index < desired.replicas).then_some(desired)
    }

    /// Takes a replica off its node.
    fn take_off(&mut self, replica: &Replica, node: &NodeId, why: Reason) {
        self.room.leave(replica, node);
        let change = Change {
            replica: replica.clone(),
            from: Some(node.clone()),
            to: None,
            why,
        };
        self.changes.insert(replica.clone(), change);
        if let Some(unready) = self.unready.get_mut(&replica.workload) {
            unready.insert(replica.clone());
        }
    }

    fn wait(&mut self, replica: &Replica, why: Wait) {
        self.waiting.insert(replica.clone(), why);
    }

    fn is_observed(&self, node: &NodeId) -> bool {
        let node = self.fleet.nodes.get(node);
        node.is_some_and(|node| node.state == NodeState::Observed)
    }

    fn remove(&mut self) {
        for (replica, node) in &self.fleet.assigned {
            if self.desired(replica).is_none() && !self.is_observed(node) {
                self.take_off(replica, node, Reason::Removed);
            }
        }
    }

    /// Takes off their nodes what cannot be there.
    fn displace_homeless(&mut self) {
        for (replica, id) in &self.fleet.assigned {
            let Some(desired) = self.desired(replica) else {
                continue;
            };
            if self.is_observed(id) {
                continue;
            }
            let Some(node) = self.fleet.nodes.get(id) else {
                self.take_off(replica, id, Reason::NodeRemoved);
                continue;
            };
            let is_lost = matches!(node.state, NodeState::Lost { .. });
            if is_lost && self.memory.mass_loss.contains(id) {
                self.wait(replica, Wait::MassLoss);
            } else if is_lost {
                self.take_off(replica, id, Reason::NodeLost);
            } else if !has_labels(&node.labels, &desired.requires) {
                self.take_off(replica, id, Reason::Unsuited);
            } else if (self.fleet.refused).contains(&(replica.workload.clone(), id.clone())) {
                self.take_off(replica, id, Reason::Refused);
            }
        }
    }

    /// Moves what would be better off elsewhere, if there is such a place.
    fn move_voluntarily(&mut self) {
        for (replica, id) in &self.fleet.assigned {
            if self.changes.contains_key(replica) {
                continue;
            }
            let state = self.fleet.nodes.get(id).map(|node| node.state);
            let is_long = |since: Time| self.now.since(since) >= self.settings.failing_for;
            let fails = match self.fleet.health(replica) {
                Health::Failing { since } if is_long(since) => Some(Reason::Failing),
                Health::Unready { since: Some(since) } if is_long(since) => Some(Reason::Unready),
                Health::Unknown
                | Health::Ready
                | Health::Failing { .. }
                | Health::Unready { .. } => None,
            };
            match state {
                Some(NodeState::Draining) => self.try_to_move(replica, id, Reason::Drained),
                Some(NodeState::Up) => match fails {
                    // What all of them need may be gone.
                    Some(Reason::Unready) if self.none_is_ready(&replica.workload) => {
                        self.wait(replica, Wait::NoneReady);
                    }
                    Some(why) => self.try_to_move(replica, id, why),
                    None => {}
                },
                Some(NodeState::Observed | NodeState::Lost { .. }) | None => {}
            }
        }
        let nodes = self.fleet.nodes.iter();
        let up = nodes.filter(|(_, node)| node.state == NodeState::Up);
        for (id, _) in up {
            for replica in self.room.surplus(id) {
                self.try_to_move(&replica, id, Reason::Overfull);
            }
        }
    }

    /// Returns whether a workload has several replicas, and none that is ready.
    fn none_is_ready(&self, workload: &WorkloadName) -> bool {
        let wanted = self.fleet.desired.get(workload);
        let wanted = wanted.map_or(0, |desired| desired.replicas);
        let unready = self.unready.get(workload).map_or(0, BTreeSet::len);
        wanted > 1 && u32::try_from(unready).is_ok_and(|unready| unready >= wanted)
    }

    fn try_to_move(&mut self, replica: &Replica, id: &NodeId, why: Reason) {
        let Some(desired) = self.desired(replica) else {
            return;
        };
        let unready = self.unready.get(&replica.workload);
        let others = unready.map_or(0, |unready| {
            unready.iter().filter(|other| *other != replica).count()
        });
        let allowed = usize::try_from(desired.max_unavailable.max(1)).unwrap_or(usize::MAX);
        // One that is not ready makes nothing worse.
        let is_ready = self.fleet.health(replica) == Health::Ready;
        if is_ready && others >= allowed {
            self.wait(replica, Wait::Unavailable);
            return;
        }
        if self.memory.moves.len() >= self.settings.moves_per_minute {
            self.wait(replica, Wait::Moves);
            return;
        }
        let (memory, now) = (&self.memory, self.now);
        let is_avoided =
            |node: &NodeId| node == id || memory.is_avoided(&replica.workload, node, now);
        match self.room.best(replica, desired, is_avoided) {
            Ok(to) => {
                if matches!(why, Reason::Failing | Reason::Unready) {
                    let of = (&replica.workload, id);
                    self.memory.note_failure(of, self.settings, now);
                }
                self.memory.moves.push_back(now);
                self.take_off(replica, id, why);
                // A singleton must have ended before it may begin.
                if !desired.singleton {
                    self.give(replica, &to);
                }
            }
            Err(wait) => self.wait(replica, wait),
        }
    }

    /// Gives a replica its node.
    fn give(&mut self, replica: &Replica, node: &NodeId) {
        self.room.enter(replica, node);
        self.waiting.remove(replica);
        let change = self
            .changes
            .entry(replica.clone())
            .or_insert_with(|| Change {
                replica: replica.clone(),
                from: None,
                to: None,
                why: Reason::Placed,
            });
        change.to = Some(node.clone());
    }

    /// Gives a node to each replica that has none, the important ones first.
    fn place(&mut self) {
        let mut homeless: Vec<(Reverse<u8>, Replica)> = Vec::new();
        for (workload, desired) in &self.fleet.desired {
            for index in 0..desired.replicas {
                let replica = Replica {
                    workload: workload.clone(),
                    index,
                };
                if self.is_homeless(&replica) {
                    homeless.push((Reverse(desired.priority), replica));
                }
            }
        }
        homeless.sort();
        for (_, replica) in homeless {
            let Some(desired) = self.desired(&replica) else {
                continue;
            };
            if desired.singleton && self.may_still_run(&replica) {
                self.wait(&replica, Wait::Leaving);
                continue;
            }
            self.place_one(&replica, desired);
        }
    }

    fn is_homeless(&self, replica: &Replica) -> bool {
        match self.changes.get(replica) {
            Some(change) => change.to.is_none(),
            None => !self.fleet.assigned.contains_key(replica),
        }
    }

    /// Returns whether an instance may run on a node that is not lost: one that was lost has ended it by its deadline.
    fn may_still_run(&self, replica: &Replica) -> bool {
        let is_there = |node: &NodeId| {
            let node = self.fleet.nodes.get(node);
            node.is_some_and(|node| !matches!(node.state, NodeState::Lost { .. }))
        };
        let leaving = self.fleet.leaving.get(replica);
        let left = self.changes.get(replica);
        let left = left.and_then(|change| change.from.as_ref());
        leaving.into_iter().flatten().chain(left).any(is_there)
    }

    fn place_one(&mut self, replica: &Replica, desired: &Desired) {
        let (memory, now) = (&self.memory, self.now);
        let is_avoided = |node: &NodeId| memory.is_avoided(&replica.workload, node, now);
        let wait = match self.room.best(replica, desired, is_avoided) {
            Ok(node) => {
                self.give(replica, &node);
                return;
            }
            Err(wait) => wait,
        };
        let Some((node, displaced)) = self.room.displaceable(replica, desired, is_avoided) else {
            self.wait(replica, wait);
            return;
        };
        self.room.promise(replica, &node);
        self.wait(replica, Wait::Room(node.clone()));
        for other in displaced {
            let by = replica.clone();
            match self.fleet.assigned.get(&other) == Some(&node) {
                true => self.take_off(&other, &node, Reason::Displaced { by }),
                // It was given the node just now, and has not begun there.
                false => {
                    self.room.leave(&other, &node);
                    self.changes.remove(&other);
                    self.wait(&other, Wait::Room(node.clone()));
                }
            }
        }
    }
}
