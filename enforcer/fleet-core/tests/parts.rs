//! A leader that looks at a part of the fleet decides as one that looks at all of it. Here it compares both at each decision, and much happens to
//! it, as a seed chooses.
//!
//! `SEEDS=10000 cargo test -p enforcer-fleet-core --test parts` runs more of them.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

mod random;

use enforcer_fleet_core::Settings;
use enforcer_fleet_core::fleet::{Desired, Health, NodeId, Replica, Resources, Time};
use enforcer_fleet_core::record::{
    DesiredRecord, DrainRecord, HealthRecord, Key, Mode, NodeRecord, Record as _, Refusal,
};
use enforcer_fleet_core::scheduler::{Call, Input, Output, Scheduler};
use enforcer_fleet_core::store::simulated::Simulated;
use enforcer_fleet_core::store::{Answer, Keys, Operation, Request, Revision, Transaction};
use enforcer_model::WorkloadName;
use random::Random;
use std::collections::VecDeque;
use std::time::Duration;

const NODES: u64 = 6;
const WORKLOADS: u64 = 7;

/// A leader with its etcd.
struct World {
    random: Random,
    now: Time,
    store: Simulated,
    scheduler: Scheduler,
    followed: Option<(Keys, Revision)>,
    decisions: u64,
}

fn node(number: u64) -> NodeId {
    NodeId::parse(&format!("node-{number}")).unwrap()
}

fn workload(number: u64) -> WorkloadName {
    WorkloadName::parse(&format!("w{number}")).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let settings = Settings {
            moves_per_minute: 4,
            ..Settings::default()
        };
        let mut world = Self {
            random: Random(seed),
            now: Time(Duration::from_secs(1000)),
            store: Simulated::default(),
            scheduler: Scheduler::new("f/".to_owned(), settings).comparing(),
            followed: None,
            decisions: 0,
        };
        world.tell(Input::Woken);
        world
    }

    fn tell(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for output in self.scheduler.handle(self.now, input) {
                match output {
                    Output::Call(call, request) => {
                        self.decisions += u64::from(call == Call::Write);
                        let answer = self.store.handle(self.now, request);
                        inputs.push_back(Input::Answer(call, answer));
                    }
                    Output::Watch(keys, from) => self.followed = Some((keys, from)),
                    Output::Tell(_) => {}
                }
            }
            if let Some((keys, from)) = &mut self.followed {
                let changes = self.store.changes(keys, *from).unwrap();
                if let Some(last) = changes.last() {
                    *from = last.revision().next();
                    inputs.push_back(Input::Watched(Ok(changes)));
                }
            }
        }
    }

    fn write(&mut self, operation: Operation) {
        let transaction = Transaction {
            then: vec![operation],
            ..Transaction::default()
        };
        self.store
            .handle(self.now, Request::Transact(transaction))
            .unwrap();
    }

    fn put(&mut self, key: &Key, value: Vec<u8>) {
        self.write(Operation::Put {
            key: format!("f/{key}"),
            value,
            lease: None,
        });
    }

    fn delete(&mut self, key: &Key) {
        self.write(Operation::Delete(Keys::One(format!("f/{key}"))));
    }

    /// Returns the assignments, and whether each ends.
    fn assigned(&mut self) -> Vec<(NodeId, Replica, bool)> {
        let keys = Keys::Prefix("f/assigned/".to_owned());
        let got = self.store.handle(self.now, Request::Get { keys, at: None });
        let Ok(Answer::Got(got)) = got else {
            panic!("{got:?}");
        };
        let all = got.entries.iter().filter_map(|entry| {
            let ends = String::from_utf8_lossy(&entry.value).contains("\"ends\"");
            match Key::parse(entry.key.strip_prefix("f/")?)? {
                Key::Assigned(node, replica) => Some((node, replica, ends)),
                _ => None,
            }
        });
        all.collect()
    }

    fn happen(&mut self) {
        let (of_node, of_workload) = (
            node(self.random.below(NODES)),
            workload(self.random.below(WORKLOADS)),
        );
        match self.random.below(16) {
            0..=2 => {
                let about = NodeRecord {
                    capacity: Resources {
                        memory_bytes: 4 + self.random.below(5),
                        cpu_millis: 1000,
                    },
                    labels: [("zone".to_owned(), self.random.below(2).to_string())].into(),
                    ..NodeRecord::default()
                };
                self.put(&Key::Node(of_node), about.encode());
            }
            3 => self.delete(&Key::Node(of_node)),
            4 => self.put(&Key::Drain(of_node), DrainRecord::default().encode()),
            5 => self.delete(&Key::Drain(of_node)),
            6 if self.random.below(3) == 0 => self.delete(&Key::Desired(of_workload)),
            6..=8 => {
                let singleton = self.random.below(4) == 0;
                let is_choosy = self.random.below(4) == 0;
                let requires = is_choosy.then(|| ("zone".to_owned(), "1".to_owned()));
                let desired = DesiredRecord {
                    scheduling: Desired {
                        replicas: if singleton {
                            1
                        } else {
                            u32::try_from(self.random.below(5)).unwrap()
                        },
                        needs: Resources {
                            memory_bytes: 1 + self.random.below(3),
                            cpu_millis: 10,
                        },
                        requires: requires.into_iter().collect(),
                        domain: Some("zone".to_owned()),
                        priority: [50, 50, 50, 60][usize::try_from(self.random.below(4)).unwrap()],
                        singleton,
                        max_unavailable: 1,
                    },
                    mode: match self.random.below(40) {
                        0 => Mode::Observe,
                        _ => Mode::Enforce,
                    },
                    workload: serde_json::Value::Null,
                };
                self.put(&Key::Desired(of_workload), desired.encode());
            }
            9..=13 => {
                for (node, replica, ends) in self.assigned() {
                    let key = Key::Health(node.clone(), replica.clone());
                    match (ends, self.random.below(10)) {
                        (true, 0..=5) => {
                            self.delete(&key);
                            self.delete(&Key::Assigned(node, replica));
                        }
                        (true, _) | (false, 7..) => {}
                        (false, kind) => {
                            let at = self.store.revision();
                            let health = HealthRecord {
                                health: match kind {
                                    0 => Health::Failing { since: self.now },
                                    1 => Health::Unready {
                                        since: Some(self.now),
                                    },
                                    _ => Health::Ready,
                                },
                                refused: (kind == 6).then(|| Refusal {
                                    why: "not here".to_owned(),
                                    of: at,
                                }),
                                revision: at,
                                ..HealthRecord::default()
                            };
                            self.put(&key, health.encode());
                        }
                    }
                }
            }
            _ => {
                let seconds = self.random.below(400);
                self.now = self.now.after(Duration::from_secs(seconds));
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..150 {
            for _ in 0..=self.random.below(3) {
                self.happen();
            }
            self.tell(Input::Woken);
            // Its decision is due by now, and its lease is not.
            self.now = self.now.after(Duration::from_millis(200));
            self.tell(Input::Woken);
        }
    }
}

#[test]
fn a_part_is_decided_about_as_the_whole_is() {
    let seeds = std::env::var("SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
        assert!(run.is_ok(), "seed {seed}");
        assert!(world.decisions > 10, "seed {seed}");
    }
}
