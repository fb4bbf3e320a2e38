//! Nodes with emulated hosts, and what a person asks of etcd.

use super::GRACE;
use super::programs::client;
use enforcer_fleet::drive::{Driver, ForHost};
use enforcer_fleet::etcd::Client;
use enforcer_fleet_core::fleet::{Desired, Health, Resources};
use enforcer_fleet_core::node::{Asked, Node, Rules, Seen};
use enforcer_fleet_core::record::{DesiredRecord, EndpointRecord, Key, Mode, NodeRecord};
use enforcer_fleet_core::store::{
    Answer, Change, Entry, Keys, Operation, Request, Revision, Transaction,
};
use enforcer_fleet_core::{NodeId, Replica, Time};
use enforcer_model::WorkloadName;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct AllowAll;

impl Rules for AllowAll {
    fn refused(
        &mut self,
        _: &BTreeMap<&WorkloadName, Asked<'_>>,
    ) -> BTreeMap<WorkloadName, String> {
        BTreeMap::new()
    }
}

pub(crate) fn node_id(number: usize) -> NodeId {
    NodeId::parse(&format!("node-{number}")).unwrap()
}

/// The time until which each node's lease surely lasts.
pub(crate) type Leases = Arc<Mutex<BTreeMap<NodeId, Time>>>;

/// Lives as a node until it is aborted. `fails` has one more failed check each second from the first one on.
pub(crate) async fn live(prefix: String, number: usize, leases: Leases, fails: Option<Replica>) {
    let id = node_id(number);
    let about = NodeRecord {
        capacity: Resources {
            memory_bytes: 16,
            cpu_millis: 16_000,
        },
        labels: [("zone".to_owned(), format!("zone-{}", number % 3))].into(),
        ..NodeRecord::default()
    };
    let node = Node::new(prefix, id.clone(), GRACE, about, AllowAll);
    let mut driver = Driver::new(node, client());
    let clock = driver.clock();
    let mut seen: BTreeMap<Replica, Seen> = BTreeMap::new();
    driver.host(seen.clone());
    let begun = clock.now();
    let mut check = tokio::time::interval(Duration::from_secs(match fails {
        Some(_) => 1,
        None => 10,
    }));
    loop {
        let news = tokio::select! {
            news = driver.next() => news,
            _ = check.tick() => {
                for (replica, one) in &mut seen {
                    one.last_check = Some(clock.now());
                    if Some(replica) == fails.as_ref() {
                        one.consecutive_failures += 1;
                        one.health = Health::Failing { since: begun };
                    }
                }
                driver.host(seen.clone());
                continue;
            }
        };
        for one in news {
            match one {
                ForHost::LeaseUntil(until) => drop(leases.lock().insert(id.clone(), until)),
                ForHost::Failed(error) => eprintln!("{id}: {error}"),
                ForHost::Run(run) => {
                    let before = std::mem::take(&mut seen);
                    for (workload, local) in run.wanted {
                        for index in local.replicas.into_keys() {
                            let workload = workload.clone();
                            let replica = Replica { workload, index };
                            let endpoint = EndpointRecord {
                                address: "127.0.0.1".to_owned(),
                                port: 80,
                            };
                            let ready = Seen {
                                health: Health::Ready,
                                revision: local.revision,
                                endpoints: [(replica.workload.clone(), endpoint)].into(),
                                ..Seen::default()
                            };
                            let known = before.get(&replica).cloned();
                            seen.insert(replica, known.unwrap_or(ready));
                        }
                    }
                    driver.host(seen.clone());
                }
            }
        }
    }
}

pub(crate) fn put(key: &Key, prefix: &str, value: Vec<u8>) -> Request {
    Request::Transact(Transaction {
        then: vec![Operation::Put {
            key: format!("{prefix}{key}"),
            value,
            lease: None,
        }],
        ..Transaction::default()
    })
}

pub(crate) fn desired(replicas: u32) -> DesiredRecord {
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

pub(crate) fn workload(number: usize) -> WorkloadName {
    WorkloadName::parse(&format!("workload-{number}")).unwrap()
}

pub(crate) async fn list(client: &Client, keys: String) -> (Vec<Entry>, Revision) {
    let get = Request::Get {
        keys: Keys::Prefix(keys),
        at: None,
    };
    match client.call(&get).await {
        Ok(Answer::Got(got)) => (got.entries, got.revision),
        other => panic!("{other:?}"),
    }
}

/// Returns the changes after a revision, up to now.
pub(crate) async fn changes_since(client: &Client, keys: &Keys, from: Revision) -> Vec<Change> {
    let (_, until) = list(client, "none".to_owned()).await;
    let mut watch = client.watch(keys, from.next()).await.unwrap();
    let mut all = Vec::new();
    // The last change may be one of other keys.
    while let Ok(changes) = tokio::time::timeout(Duration::from_secs(2), watch.next()).await {
        all.extend(changes.unwrap());
        if all.last().is_some_and(|last| last.revision() >= until) {
            break;
        }
    }
    all
}

/// Waits until there are so many keys, and returns the time that this took.
pub(crate) async fn wait_for(client: &Client, keys: &str, count: usize) -> Duration {
    let begun = Instant::now();
    loop {
        let found = list(client, keys.to_owned()).await.0.len();
        if found == count {
            return begun.elapsed();
        }
        assert!(begun.elapsed().as_secs() < 300, "{found} of {count} {keys}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

pub(crate) fn spread(mut all: Vec<f64>, unit: &str) -> String {
    all.sort_by(f64::total_cmp);
    let at = |share: usize| all[(all.len() - 1) * share / 100];
    let (least, middle, most) = (at(0), at(50), at(100));
    format!(
        "{least:.2} / {middle:.2} / {most:.2} {unit} (least, median, most of {})",
        all.len()
    )
}

pub(crate) fn key_of(text: &str, prefix: &str) -> Option<Key> {
    text.strip_prefix(prefix).and_then(Key::parse)
}
