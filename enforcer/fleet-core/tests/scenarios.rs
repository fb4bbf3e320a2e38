//! What a scheduler does in the situations that people know, told as a log.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

use enforcer_fleet_core::fleet::{
    Desired, Fleet, Health, Node, NodeId, NodeState, Replica, Resources, Time, WorkloadName,
};
use enforcer_fleet_core::{Memory, Settings, decide};
use expect_test::{Expect, expect};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

struct World {
    fleet: Fleet,
    memory: Memory,
    now: Time,
    log: String,
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn workload(name: &str) -> WorkloadName {
    WorkloadName::parse(name).unwrap()
}

fn of(memory_bytes: u64) -> Resources {
    Resources {
        memory_bytes,
        cpu_millis: 0,
    }
}

/// A workload whose replicas need one unit of memory each.
fn wanted(replicas: u32) -> Desired {
    Desired {
        replicas,
        needs: of(1),
        ..Desired::default()
    }
}

impl World {
    /// A fleet of nodes with room for four replicas.
    fn new(nodes: &[&str]) -> Self {
        let up = || Node {
            capacity: of(4),
            labels: BTreeMap::new(),
            state: NodeState::Up,
        };
        Self {
            fleet: Fleet {
                nodes: nodes.iter().map(|name| (node(name), up())).collect(),
                ..Fleet::default()
            },
            memory: Memory::default(),
            now: Time::default(),
            log: String::new(),
        }
    }

    fn want(&mut self, name: &str, desired: Desired) {
        self.fleet.desired.insert(workload(name), desired);
    }

    fn set(&mut self, name: &str, state: NodeState) {
        self.fleet.nodes.get_mut(&node(name)).unwrap().state = state;
    }

    fn lose(&mut self, names: &[&str]) {
        for name in names {
            self.set(name, NodeState::Lost { since: self.now });
        }
    }

    fn fail(&mut self, name: &str, index: u32) {
        let replica = Replica {
            workload: workload(name),
            index,
        };
        let since = self.now;
        self.fleet.health.insert(replica, Health::Failing { since });
    }

    fn unready(&mut self, name: &str, index: u32) {
        let replica = Replica {
            workload: workload(name),
            index,
        };
        let since = Some(self.now);
        self.fleet.health.insert(replica, Health::Unready { since });
    }

    /// Lets time pass, decides, and carries it out. All that leaves ends, and all that begins is ready, unless it was said to fail.
    fn after(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        let decision = decide(
            &self.fleet,
            &mut self.memory,
            &Settings::default(),
            self.now,
        );
        let at = self.now.0.as_secs();
        let shown = |place: &Option<NodeId>| {
            place
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string)
        };
        for change in &decision.changes {
            let (from, to) = (shown(&change.from), shown(&change.to));
            let why = &change.why;
            writeln!(self.log, "{at} s: {} {from} → {to}: {why}", change.replica).unwrap();
            self.fleet.assigned.remove(&change.replica);
            self.fleet.health.remove(&change.replica);
            if let Some(to) = &change.to {
                self.fleet
                    .assigned
                    .insert(change.replica.clone(), to.clone());
            }
        }
        for waiting in &decision.waiting {
            writeln!(
                self.log,
                "{at} s: {} waits: {}",
                waiting.replica, waiting.why
            )
            .unwrap();
        }
        for replica in self.fleet.assigned.keys() {
            let health = self.fleet.health.entry(replica.clone()).or_default();
            if *health == Health::Unknown {
                *health = Health::Ready;
            }
        }
    }

    fn check(&self, expected: &Expect) {
        expected.assert_eq(&self.log);
    }
}

#[test]
fn a_lost_nodes_replicas_go_to_the_others_and_stay_there() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    world.want("web", wanted(4));
    world.after(0);
    world.lose(&["b"]);
    world.after(1);
    world.set("b", NodeState::Up);
    world.after(60);
    world.check(&expect![[r#"
        0 s: web/0 - → a: it had no node
        0 s: web/1 - → b: it had no node
        0 s: web/2 - → c: it had no node
        0 s: web/3 - → d: it had no node
        1 s: web/1 b → a: its node is lost
    "#]]);
}

#[test]
fn a_loss_of_many_nodes_at_once_moves_nothing() {
    let mut world = World::new(&["a", "b", "c"]);
    world.want("web", wanted(3));
    world.after(0);
    world.lose(&["a", "b"]);
    world.after(1);
    // It does not end by itself.
    world.after(3600);
    world.set("a", NodeState::Up);
    world.after(1);
    world.check(&expect![[r#"
        0 s: web/0 - → a: it had no node
        0 s: web/1 - → b: it had no node
        0 s: web/2 - → c: it had no node
        1 s: web/0 waits: it stays for now: so many nodes are lost at once that the scheduler is more likely blind
        1 s: web/1 waits: it stays for now: so many nodes are lost at once that the scheduler is more likely blind
        3601 s: web/0 waits: it stays for now: so many nodes are lost at once that the scheduler is more likely blind
        3601 s: web/1 waits: it stays for now: so many nodes are lost at once that the scheduler is more likely blind
        3602 s: web/1 b → a: its node is lost
    "#]]);
}

#[test]
fn a_drained_node_is_left_one_by_one() {
    let mut world = World::new(&["a", "b"]);
    world.want("web", wanted(4));
    world.after(0);
    world.set("a", NodeState::Draining);
    world.after(1);
    world.after(1);
    world.after(1);
    world.check(&expect![[r#"
        0 s: web/0 - → a: it had no node
        0 s: web/1 - → b: it had no node
        0 s: web/2 - → a: it had no node
        0 s: web/3 - → b: it had no node
        1 s: web/0 a → b: its node is drained
        1 s: web/2 waits: it stays for now: too few replicas of its workload are ready
        2 s: web/2 a → b: its node is drained
    "#]]);
}

#[test]
fn a_singleton_ends_before_it_begins() {
    let mut world = World::new(&["a", "b"]);
    world.want(
        "db",
        Desired {
            singleton: true,
            ..wanted(1)
        },
    );
    world.after(0);
    world.set("a", NodeState::Draining);
    world.after(1);
    let db = Replica {
        workload: workload("db"),
        index: 0,
    };
    world.fleet.leaving.insert(db.clone(), [node("a")].into());
    world.after(1);
    world.fleet.leaving.remove(&db);
    world.after(1);
    world.check(&expect![[r#"
        0 s: db/0 - → a: it had no node
        1 s: db/0 a → -: its node is drained
        1 s: db/0 waits: it may still run on the node that it leaves
        2 s: db/0 waits: it may still run on the node that it leaves
        3 s: db/0 - → b: it had no node
    "#]]);
}

#[test]
fn what_fails_everywhere_does_not_tour_the_fleet() {
    let mut world = World::new(&["a", "b"]);
    world.want("web", wanted(1));
    world.after(0);
    for _ in 0..8 {
        world.fail("web", 0);
        world.after(300);
    }
    world.check(&expect![[r#"
        0 s: web/0 - → a: it had no node
        300 s: web/0 a → b: its node cannot heal it
        600 s: web/0 waits: no node is suitable: 2 where it has failed
        900 s: web/0 b → a: its node cannot heal it
        1200 s: web/0 waits: no node is suitable: 2 where it has failed
        1500 s: web/0 a → b: its node cannot heal it
        1800 s: web/0 waits: no node is suitable: 2 where it has failed
        2100 s: web/0 waits: no node is suitable: 2 where it has failed
        2400 s: web/0 waits: no node is suitable: 2 where it has failed
    "#]]);
}

#[test]
fn the_important_displaces_the_less_important_where_nothing_else_fits() {
    let mut world = World::new(&["a", "b"]);
    world.want("batch", wanted(8));
    world.after(0);
    world.want(
        "shop",
        Desired {
            needs: of(2),
            priority: 90,
            ..wanted(1)
        },
    );
    world.after(1);
    world.after(1);
    world.check(&expect![[r#"
        0 s: batch/0 - → a: it had no node
        0 s: batch/1 - → b: it had no node
        0 s: batch/2 - → a: it had no node
        0 s: batch/3 - → b: it had no node
        0 s: batch/4 - → a: it had no node
        0 s: batch/5 - → b: it had no node
        0 s: batch/6 - → a: it had no node
        0 s: batch/7 - → b: it had no node
        1 s: batch/0 a → -: shop/0 has a higher priority and fits nowhere else
        1 s: batch/2 a → -: shop/0 has a higher priority and fits nowhere else
        1 s: shop/0 waits: room is being made for it on a
        2 s: shop/0 - → a: it had no node
        2 s: batch/0 waits: no node is suitable: 2 without room
        2 s: batch/2 waits: no node is suitable: 2 without room
    "#]]);
}

#[test]
fn what_fits_nowhere_says_why() {
    let mut world = World::new(&["a", "b", "c"]);
    world.set("a", NodeState::Draining);
    world.want(
        "big",
        Desired {
            needs: of(5),
            ..wanted(1)
        },
    );
    let ssd = [("disk".to_owned(), "ssd".to_owned())].into();
    world.want(
        "fast",
        Desired {
            requires: ssd,
            ..wanted(1)
        },
    );
    world.after(0);
    world.check(&expect![[r#"
        0 s: big/0 waits: no node is suitable: 1 not up, 2 without room
        0 s: fast/0 waits: no node is suitable: 1 not up, 2 without its labels
    "#]]);
}

#[test]
fn a_node_has_a_place_for_each_rest_of_a_number_by_fifteen() {
    let mut world = World::new(&["a", "b"]);
    for node in world.fleet.nodes.values_mut() {
        node.capacity = of(100);
    }
    world.want("web", wanted(31));
    let decision = decide(
        &world.fleet,
        &mut world.memory,
        &Settings::default(),
        world.now,
    );
    let mut places = BTreeSet::new();
    for change in &decision.changes {
        let node = change.to.clone().unwrap();
        let place = change.replica.index % 15;
        assert!(places.insert((node, place)), "{change:?}");
    }
    assert_eq!(places.len(), 30);
    let waiting: Vec<u32> = (decision.waiting.iter())
        .map(|waiting| waiting.replica.index)
        .collect();
    assert_eq!(waiting, [30]);
}

#[test]
fn what_does_not_become_ready_moves_if_others_are_ready() {
    let mut world = World::new(&["a", "b", "c"]);
    world.want("web", wanted(2));
    world.after(0);
    world.unready("web", 0);
    world.after(299);
    world.after(1);
    // What all of them need is gone.
    world.unready("web", 0);
    world.unready("web", 1);
    world.after(300);
    world.check(&expect![[r#"
        0 s: web/0 - → a: it had no node
        0 s: web/1 - → b: it had no node
        300 s: web/0 a → c: it has run there for long without becoming ready
        600 s: web/0 waits: it stays for now: no replica of its workload is ready, so another node would hardly help
        600 s: web/1 waits: it stays for now: no replica of its workload is ready, so another node would hardly help
    "#]]);
}

#[test]
fn a_lone_replica_that_does_not_become_ready_moves() {
    let mut world = World::new(&["a", "b"]);
    world.want("db", wanted(1));
    world.after(0);
    world.unready("db", 0);
    world.after(300);
    // It is the same elsewhere: it does not tour the fleet.
    world.unready("db", 0);
    world.after(300);
    world.check(&expect![[r#"
        0 s: db/0 - → a: it had no node
        300 s: db/0 a → b: it has run there for long without becoming ready
        600 s: db/0 waits: no node is suitable: 2 where it has failed
    "#]]);
}

/// A scheduler leads whose clock is an hour behind that of the one before.
#[test]
fn times_that_are_to_come_hold_nothing_up() {
    let mut world = World::new(&["a", "b", "c", "d", "e"]);
    world.want("web", wanted(5));
    world.now = Time(Duration::from_secs(3600));
    world.after(0);
    world.lose(&["a"]);
    world.after(1);
    world.fail("web", 1);
    world.after(300);
    world.now = Time(Duration::from_secs(10));
    // One node more is lost. These are not two at once.
    world.lose(&["c"]);
    world.after(1);
    world.check(&expect![[r#"
        3600 s: web/0 - → a: it had no node
        3600 s: web/1 - → b: it had no node
        3600 s: web/2 - → c: it had no node
        3600 s: web/3 - → d: it had no node
        3600 s: web/4 - → e: it had no node
        3601 s: web/0 a → b: its node is lost
        3901 s: web/1 b → c: its node cannot heal it
        11 s: web/1 c → d: its node is lost
        11 s: web/2 c → e: its node is lost
    "#]]);
}
