//! Whatever happens to a fleet, what must hold does.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

use enforcer_fleet_core::fleet::{
    Desired, Fleet, Health, Node, NodeId, NodeState, Replica, Resources, Time, WorkloadName,
};
use enforcer_fleet_core::reason::Reason;
use enforcer_fleet_core::{Decision, Memory, Settings, decide};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something that happens to a fleet.
#[derive(Clone, Debug)]
enum Happening {
    Joins(u8),
    IsLost(u8),
    IsBack(u8),
    IsDrained(u8),
    IsUncordoned(u8),
    IsObserved(u8),
    IsRemoved(u8),
    Wants(u8, Desired),
    NoLongerWants(u8),
    Becomes(u8, u8, u8),
    /// All that leaves has ended.
    Ends,
    TimePasses(u16),
}

fn node(number: u8) -> NodeId {
    NodeId::parse(&format!("n{}", number % 7)).unwrap()
}

fn workload(number: u8) -> WorkloadName {
    WorkloadName::parse(&format!("w{}", number % 5)).unwrap()
}

fn labels(number: u8) -> BTreeMap<String, String> {
    let disk = if number.is_multiple_of(2) {
        "fast"
    } else {
        "slow"
    };
    let zone = format!("z{}", number % 3);
    [
        ("disk".to_owned(), disk.to_owned()),
        ("zone".to_owned(), zone),
    ]
    .into()
}

fn desired() -> impl Strategy<Value = Desired> {
    let needs = (1_u64..6, 1_u64..6);
    (
        0_u32..5,
        needs,
        any::<bool>(),
        0_u8..4,
        any::<bool>(),
        1_u32..3,
    )
        .prop_map(
            |(
                replicas,
                (memory_bytes, cpu_millis),
                is_choosy,
                priority,
                singleton,
                max_unavailable,
            )| {
                let fast = ("disk".to_owned(), "fast".to_owned());
                Desired {
                    replicas: if singleton { replicas.min(1) } else { replicas },
                    needs: Resources {
                        memory_bytes,
                        cpu_millis,
                    },
                    requires: is_choosy.then_some(fast).into_iter().collect(),
                    domain: Some("zone".to_owned()),
                    priority,
                    singleton,
                    max_unavailable,
                }
            },
        )
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => any::<u8>().prop_map(Happening::Joins),
        2 => any::<u8>().prop_map(Happening::IsLost),
        2 => any::<u8>().prop_map(Happening::IsBack),
        1 => any::<u8>().prop_map(Happening::IsDrained),
        1 => any::<u8>().prop_map(Happening::IsUncordoned),
        1 => any::<u8>().prop_map(Happening::IsObserved),
        1 => any::<u8>().prop_map(Happening::IsRemoved),
        3 => (any::<u8>(), desired()).prop_map(|(number, desired)| Happening::Wants(number, desired)),
        1 => any::<u8>().prop_map(Happening::NoLongerWants),
        4 => (any::<u8>(), 0_u8..5, 0_u8..4)
            .prop_map(|(number, index, health)| Happening::Becomes(number, index, health)),
        3 => Just(Happening::Ends),
        3 => (0_u16..900).prop_map(Happening::TimePasses),
    ]
}

/// A fleet with the scheduler's memory of it.
#[derive(Default)]
struct World {
    fleet: Fleet,
    memory: Memory,
    now: Time,
}

impl World {
    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Joins(number) => {
                self.fleet
                    .nodes
                    .entry(node(number))
                    .or_insert_with(|| Node {
                        capacity: Resources {
                            memory_bytes: 10,
                            cpu_millis: 10,
                        },
                        labels: labels(number),
                        state: NodeState::Up,
                    });
            }
            Happening::IsLost(number) => self.set(number, NodeState::Lost { since: now }),
            Happening::IsBack(number) | Happening::IsUncordoned(number) => {
                self.set(number, NodeState::Up);
            }
            Happening::IsObserved(number) => self.set(number, NodeState::Observed),
            Happening::IsDrained(number) => self.set(number, NodeState::Draining),
            Happening::IsRemoved(number) => {
                self.fleet.nodes.remove(&node(number));
                for nodes in self.fleet.leaving.values_mut() {
                    nodes.remove(&node(number));
                }
            }
            Happening::Wants(number, desired) => {
                // A workload that changes its needs is another one: its replicas would be restarted.
                self.fleet
                    .desired
                    .entry(workload(number))
                    .or_insert(desired);
            }
            Happening::NoLongerWants(number) => {
                let nobody_runs_it = |name: &WorkloadName| {
                    let mut known = self.fleet.leaving.iter();
                    let leaves = known
                        .any(|(replica, nodes)| replica.workload == *name && !nodes.is_empty());
                    !leaves && self.fleet.replicas_of(name).next().is_none()
                };
                let name = workload(number);
                if nobody_runs_it(&name) {
                    self.fleet.desired.remove(&name);
                } else if let Some(desired) = self.fleet.desired.get_mut(&name) {
                    desired.replicas = 0;
                }
            }
            Happening::Becomes(number, index, health) => {
                let replica = Replica {
                    workload: workload(number),
                    index: u32::from(index),
                };
                let health = match health {
                    0 => Health::Unknown,
                    1 => Health::Unready { since: Some(now) },
                    2 => Health::Failing { since: now },
                    _ => Health::Ready,
                };
                self.fleet.health.insert(replica, health);
            }
            Happening::Ends => self.fleet.leaving.clear(),
            Happening::TimePasses(seconds) => {
                self.now = now.after(Duration::from_secs(u64::from(seconds)));
            }
        }
    }

    fn set(&mut self, number: u8, state: NodeState) {
        let Some(known) = self.fleet.nodes.get_mut(&node(number)) else {
            return;
        };
        // What was lost with its node has ended there by its deadline, so nothing is left when the node is back.
        if matches!(known.state, NodeState::Lost { .. }) {
            for nodes in self.fleet.leaving.values_mut() {
                nodes.remove(&node(number));
            }
        }
        known.state = state;
    }

    /// Decides, and carries it out.
    fn decide(&mut self) -> Decision {
        let decision = decide(
            &self.fleet,
            &mut self.memory,
            &Settings::default(),
            self.now,
        );
        self.check(&decision);
        for change in &decision.changes {
            let replica = &change.replica;
            assert_eq!(self.fleet.assigned.get(replica), change.from.as_ref());
            if let Some(from) = &change.from {
                self.fleet.assigned.remove(replica);
                self.fleet.health.remove(replica);
                if self.fleet.nodes.contains_key(from) {
                    let leaving = self.fleet.leaving.entry(replica.clone()).or_default();
                    leaving.insert(from.clone());
                }
            }
            if let Some(to) = &change.to {
                self.fleet.assigned.insert(replica.clone(), to.clone());
                if let Some(leaving) = self.fleet.leaving.get_mut(replica) {
                    // It comes back to where it was.
                    leaving.remove(to);
                }
            }
        }
        self.check_state();
        decision
    }

    /// Checks what a decision may do.
    fn check(&self, decision: &Decision) {
        let mut moved: BTreeMap<&WorkloadName, usize> = BTreeMap::new();
        for change in &decision.changes {
            let replica = &change.replica;
            assert_ne!(change.from, change.to, "{change:?}");
            for node in change.from.iter().chain(&change.to) {
                let state = self.fleet.nodes.get(node).map(|node| node.state);
                assert_ne!(state, Some(NodeState::Observed), "{change:?}");
            }
            let is_voluntary = matches!(change.why, Reason::Drained | Reason::Failing);
            if is_voluntary && self.fleet.health(replica) == Health::Ready {
                *moved.entry(&replica.workload).or_default() += 1;
            }
            if let Some(to) = &change.to {
                let (node, desired) = (
                    &self.fleet.nodes[to],
                    &self.fleet.desired[&replica.workload],
                );
                assert_eq!(node.state, NodeState::Up, "{change:?}");
                let has = |(key, value): (&String, &String)| node.labels.get(key) == Some(value);
                assert!(desired.requires.iter().all(has), "{change:?}");
            }
        }
        for (workload, moved) in moved {
            let desired = &self.fleet.desired[workload];
            assert!(moved <= usize::try_from(desired.max_unavailable).unwrap());
        }
    }

    /// Checks what holds at all times.
    fn check_state(&self) {
        let mut used: BTreeMap<&NodeId, Resources> = BTreeMap::new();
        let mut places: BTreeMap<&Replica, BTreeSet<&NodeId>> = BTreeMap::new();
        let leaving = self.fleet.leaving.iter();
        let leaving =
            leaving.flat_map(|(replica, nodes)| nodes.iter().map(move |node| (replica, node)));
        for (replica, node) in self.fleet.assigned.iter().chain(leaving) {
            let Some(desired) = self.fleet.desired.get(&replica.workload) else {
                continue;
            };
            let used = used.entry(node).or_default();
            *used = used.plus(desired.needs);
            let known = self.fleet.nodes.get(node);
            let may_run = known.is_some_and(|node| !matches!(node.state, NodeState::Lost { .. }));
            if desired.singleton && may_run {
                places.entry(replica).or_default().insert(node);
            }
        }
        for (node, used) in used {
            if let Some(known) = self.fleet.nodes.get(node) {
                assert!(used.fits_in(known.capacity), "{node} has {used:?}");
            }
        }
        for (replica, nodes) in places {
            assert!(nodes.len() <= 1, "{replica} may run on {nodes:?}");
        }
    }

    /// Lets everything become well.
    fn settle(&mut self) {
        // One that has failed may wait for the only node that it has left alone.
        self.now = self.now.after(Settings::default().last_backoff);
        let mut quiet = 0;
        for _ in 0..200 {
            let decision = self.decide();
            self.fleet.leaving.clear();
            let ready = self.fleet.assigned.keys();
            let ready = ready.map(|replica| (replica.clone(), Health::Ready));
            self.fleet.health = ready.collect();
            self.now = self.now.after(Duration::from_secs(61));
            // A wait may end with what became ready just now.
            quiet = if decision.changes.is_empty() {
                quiet + 1
            } else {
                0
            };
            if quiet == 3 {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.fleet);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_must_hold_holds(happenings in prop::collection::vec(happening(), 1..80)) {
        let mut world = World::default();
        for happening in happenings {
            world.happen(happening);
            world.decide();
        }
        world.settle();
        let decision = world.decide();
        prop_assert!(decision.changes.is_empty(), "{:?}", decision);
    }
}
