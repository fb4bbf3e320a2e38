//! The time of a decision in fleets of several sizes: the first placement, one node's loss, a change of a workload, and a look at what is
//! settled. Each fleet has ten replicas a node, in workloads of a hundred.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures times itself"
)]

use enforcer_fleet_core::fleet::{
    Desired, Fleet, Health, Node, NodeId, NodeState, Resources, Time, WorkloadName,
};
use enforcer_fleet_core::{Decision, Memory, Settings, decide};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const REPLICAS_OF_ONE: u32 = 100;
const SAMPLES: usize = 5;

fn fleet(nodes: usize) -> Fleet {
    let mut fleet = Fleet::default();
    for number in 0..nodes {
        let id = NodeId::parse(&format!("node-{number}")).expect("a name");
        let zone = format!("zone-{}", number % 3);
        let node = Node {
            capacity: Resources {
                memory_bytes: 16,
                cpu_millis: 16_000,
            },
            labels: BTreeMap::from([("zone".to_owned(), zone)]),
            state: NodeState::Up,
        };
        fleet.nodes.insert(id, node);
    }
    for number in 0..nodes / 10 {
        let name = WorkloadName::parse(&format!("workload-{number}")).expect("a name");
        let desired = Desired {
            replicas: REPLICAS_OF_ONE,
            needs: Resources {
                memory_bytes: 1,
                cpu_millis: 100,
            },
            requires: BTreeMap::new(),
            domain: Some("zone".to_owned()),
            priority: 50,
            singleton: false,
            max_unavailable: 1,
        };
        fleet.desired.insert(name, desired);
    }
    fleet
}

fn carry_out(fleet: &mut Fleet, decision: &Decision) {
    for change in &decision.changes {
        match &change.to {
            Some(to) => {
                fleet.assigned.insert(change.replica.clone(), to.clone());
                fleet.health.insert(change.replica.clone(), Health::Ready);
            }
            None => drop(fleet.assigned.remove(&change.replica)),
        }
    }
}

/// Returns the median time of a decision about a fleet, and its changes.
fn timed(fleet: &Fleet, at: Time) -> (Duration, Decision) {
    let mut times = Vec::new();
    let mut last = Decision::default();
    for _ in 0..SAMPLES {
        let mut memory = Memory::default();
        let begun = Instant::now();
        last = decide(fleet, &mut memory, &Settings::default(), at);
        times.push(begun.elapsed());
    }
    times.sort();
    (times[SAMPLES / 2], last)
}

fn main() {
    println!("nodes   replicas   placed all   settled   one node lost   one workload more");
    for nodes in SIZES {
        let mut fleet = fleet(nodes);
        let at = |seconds: u64| Time(Duration::from_secs(seconds));
        let begun = Instant::now();
        let decision = decide(&fleet, &mut Memory::default(), &Settings::default(), at(1));
        let all = begun.elapsed();
        carry_out(&mut fleet, &decision);
        let replicas = fleet.assigned.len();
        let (settled, decision) = timed(&fleet, at(2));
        assert!(decision.changes.is_empty());
        let mut lost = fleet.clone();
        let first = lost.nodes.values_mut().next().expect("a node");
        first.state = NodeState::Lost { since: at(3) };
        let (loss, decision) = timed(&lost, at(3));
        assert_eq!(decision.changes.len(), 10);
        let mut more = fleet.clone();
        let name = WorkloadName::parse("one-more").expect("a name");
        let desired = fleet.desired.values().next().expect("a workload").clone();
        more.desired.insert(
            name,
            Desired {
                replicas: 10,
                ..desired
            },
        );
        let (added, decision) = timed(&more, at(4));
        assert_eq!(decision.changes.len(), 10);
        println!(
            "{nodes:<7} {replicas:<10} {all:<12.1?} {settled:<9.1?} {loss:<15.1?} {added:.1?}"
        );
    }
}
