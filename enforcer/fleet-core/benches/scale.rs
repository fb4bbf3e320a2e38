//! The time in which a leader decides, in fleets of several sizes: the first placement, a heartbeat, a replica that is no longer ready, one node's
//! loss, and ten replicas more. Each fleet has ten replicas a node, in workloads of a hundred that spread over three zones.
//!
//! Each time begins when the leader receives the change, and ends when it has asked for its transaction. The floor is a heartbeat: the leader
//! decides nothing after it.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark measures times itself, and says where it could not go on"
)]

use enforcer_fleet_core::Settings;
use enforcer_fleet_core::fleet::{Desired, Health, NodeId, Replica, Resources, Time};
use enforcer_fleet_core::record::{
    DesiredRecord, HealthRecord, Key, Mode, NodeRecord, Record as _,
};
use enforcer_fleet_core::scheduler::{Call, Input, Output, Scheduler};
use enforcer_fleet_core::store::simulated::Simulated;
use enforcer_fleet_core::store::{Answer, Keys, Operation, Request, Revision, Transaction};
use enforcer_model::WorkloadName;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const SIZES: [u32; 3] = [100, 1_000, 10_000];
const REPLICAS_OF_ONE: u32 = 100;
const SAMPLES: u32 = 5;
/// The pause in which a leader collects changes, and a little more.
const SOON: Duration = Duration::from_millis(101);

/// A leader with its etcd.
struct World {
    now: Time,
    store: Simulated,
    scheduler: Scheduler,
    followed: (Keys, Revision),
    /// The time that the leader has needed since this was set to 0.
    used: Duration,
    writes: usize,
}

fn node(number: u32) -> NodeId {
    NodeId::parse(&format!("node-{number}")).unwrap()
}

fn workload(number: u32) -> WorkloadName {
    WorkloadName::parse(&format!("workload-{number}")).unwrap()
}

fn about(number: u32) -> NodeRecord {
    NodeRecord {
        capacity: Resources {
            memory_bytes: 16,
            cpu_millis: 16_000,
        },
        labels: [("zone".to_owned(), format!("zone-{}", number % 3))].into(),
        ..NodeRecord::default()
    }
}

fn desired(replicas: u32) -> DesiredRecord {
    DesiredRecord {
        scheduling: Desired {
            replicas,
            needs: Resources {
                memory_bytes: 1,
                cpu_millis: 100,
            },
            domain: Some("zone".to_owned()),
            ..Desired::default()
        },
        mode: Mode::Enforce,
        workload: serde_json::json!({ "command": ["/bin/web"] }),
    }
}

impl World {
    fn new(nodes: u32) -> Self {
        let mut world = Self {
            now: Time(Duration::from_secs(1)),
            store: Simulated::default(),
            scheduler: Scheduler::new(String::new(), Settings::default()),
            followed: (Keys::One("none".to_owned()), Revision(1)),
            used: Duration::ZERO,
            writes: 0,
        };
        for number in 0..nodes {
            world.put(&Key::Node(node(number)), about(number).encode());
        }
        for number in 0..nodes / 10 {
            let record = desired(REPLICAS_OF_ONE).encode();
            world.put(&Key::Desired(workload(number)), record);
        }
        world
    }

    fn write(&mut self, operation: Operation) {
        let transaction = Transaction {
            then: vec![operation],
            ..Transaction::default()
        };
        let request = Request::Transact(transaction);
        self.store.handle(self.now, request).unwrap();
    }

    fn put(&mut self, key: &Key, value: Vec<u8>) {
        self.write(Operation::Put {
            key: key.to_string(),
            value,
            lease: None,
        });
    }

    fn tell(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let begun = Instant::now();
            let outputs = self.scheduler.handle(self.now, input);
            self.used += begun.elapsed();
            for output in outputs {
                match output {
                    Output::Call(call, request) => {
                        if let (Call::Write, Request::Transact(transaction)) = (call, &request) {
                            self.writes += transaction.then.len() - 1;
                        }
                        let answer = self.store.handle(self.now, request);
                        inputs.push_back(Input::Answer(call, answer));
                    }
                    Output::Watch(keys, from) => self.followed = (keys, from),
                    Output::Tell(_) => {}
                }
            }
            let (keys, from) = &mut self.followed;
            let changes = self.store.changes(keys, *from).unwrap();
            if let Some(last) = changes.last() {
                *from = last.revision().next();
                inputs.push_back(Input::Watched(Ok(changes)));
            }
        }
    }

    /// Lets the leader see what has changed and decide until nothing is due, and returns the time that it needs, with the number of records
    /// that it writes.
    fn pass(&mut self) -> (Duration, usize) {
        (self.used, self.writes) = (Duration::ZERO, 0);
        for _ in 0..3 {
            self.tell(Input::Woken);
            self.now = self.now.after(SOON);
        }
        (self.used, self.writes)
    }

    /// Returns the assignments.
    fn assigned(&mut self) -> Vec<(NodeId, Replica)> {
        let keys = Keys::Prefix("assigned/".to_owned());
        let got = self.store.handle(self.now, Request::Get { keys, at: None });
        let Ok(Answer::Got(got)) = got else {
            panic!("{got:?}");
        };
        let all = got
            .entries
            .iter()
            .filter_map(|entry| match Key::parse(&entry.key)? {
                Key::Assigned(node, replica) => Some((node, replica)),
                _ => None,
            });
        all.collect()
    }

    fn say(&mut self, place: &(NodeId, Replica), health: Health) {
        let (node, replica) = place;
        let record = HealthRecord {
            health,
            revision: self.store.revision(),
            ..HealthRecord::default()
        };
        let key = Key::Health(node.clone(), replica.clone());
        self.put(&key, record.encode());
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    println!(
        "nodes   replicas   placed all   heartbeat   one unready   one node lost   ten replicas more"
    );
    for nodes in SIZES {
        let mut world = World::new(nodes);
        let (all, _) = world.pass();
        let placed = world.assigned();
        for place in &placed {
            world.say(place, Health::Ready);
        }
        world.pass();
        let mut times = [const { Vec::new() }; 4];
        for sample in 0..SAMPLES {
            let mut beat = about(sample);
            beat.last_checks.insert("web/0".to_owned(), world.now);
            world.put(&Key::Node(node(sample)), beat.encode());
            let (used, writes) = world.pass();
            assert_eq!(writes, 0);
            times[0].push(used);

            let index = usize::try_from(sample).unwrap() * placed.len() / 10;
            world.say(&placed[index], Health::Unready { since: None });
            let (used, writes) = world.pass();
            assert_eq!(writes, 0);
            times[1].push(used);
            world.say(&placed[index], Health::Ready);
            world.pass();

            // Its ten replicas end there and begin elsewhere, which is noted for each, and the loss itself is.
            let lost = Key::Node(node(nodes - 1 - sample)).to_string();
            world.write(Operation::Delete(Keys::One(lost)));
            let (used, writes) = world.pass();
            assert!(writes > 20, "{writes}");
            times[2].push(used);

            world.put(
                &Key::Desired(workload(nodes + sample)),
                desired(10).encode(),
            );
            let (used, writes) = world.pass();
            assert_eq!(writes, 20);
            times[3].push(used);
        }
        let [beat, unready, loss, more] = times.map(median);
        println!(
            "{nodes:<7} {:<10} {all:<12.1?} {beat:<11.1?} {unready:<13.1?} {loss:<15.1?} {more:.1?}",
            placed.len()
        );
    }
}
