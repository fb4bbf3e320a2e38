//! The client of etcd, with the etcd of this Debian.

mod hosts;
mod packaged;

use super::*;
use enforcer_fleet::drive::{Driver, ForHost};
use enforcer_fleet::etcd::{Client, Endpoint, Login};
use enforcer_fleet_core::fleet::{Desired, Health, Resources};
use enforcer_fleet_core::node::{Asked, Node, Rules, Seen};
use enforcer_fleet_core::record::{
    DesiredRecord, EndpointRecord, Key, Mode, NodeRecord, Record as _,
};
use enforcer_fleet_core::scheduler::Scheduler;
use enforcer_fleet_core::store::conformance::{Simulation, Target, run};
use enforcer_fleet_core::store::{
    Answer, Change, Keys, Operation, Request, Revision, StoreError, Transaction,
};
use enforcer_fleet_core::{NodeId, Replica, Settings, Time};
use enforcer_model::WorkloadName;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::TcpStream;
use std::process::Child;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;

/// An etcd of its own, which ends with this and leaves nothing in the guest's memory.
struct Etcd {
    process: Child,
    port: u16,
    folder: String,
}

impl Etcd {
    fn start(name: &str, port: u16, more: &[&str]) -> Self {
        let _ = std::fs::remove_dir_all(format!("/tmp/etcd-{name}"));
        Self::go_on(name, port, more)
    }

    /// Starts with the data that are there.
    fn go_on(name: &str, port: u16, more: &[&str]) -> Self {
        let folder = format!("/tmp/etcd-{name}");
        let (clients, peers) = (
            format!("http://127.0.0.1:{port}"),
            format!("http://127.0.0.1:{}", port + 1),
        );
        let process = Command::new("/usr/bin/etcd")
            .args(["--data-dir", &folder, "--log-level", "error"])
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self {
            process: process.expect("etcd"),
            port,
            folder,
        }
    }

    fn endpoint(&self) -> Endpoint {
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{}", self.port), None);
        endpoint.expect("an endpoint")
    }

    fn client(&self, login: Option<Login>) -> Real {
        let endpoint = self.endpoint();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Real {
            runtime: runtime.expect("a runtime"),
            client: Client::new(vec![endpoint], login),
        }
    }

    /// Returns a client once etcd answers it.
    fn ready(&self) -> Real {
        let mut client = self.client(None);
        wait_for("an answer of etcd", || {
            let answer = client.call(read());
            (!matches!(answer, Err(StoreError::Unavailable(_)))).then_some(())
        });
        client
    }
}

impl Etcd {
    /// Ends it, with its data kept for [`Etcd::go_on`].
    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Real {
    runtime: Runtime,
    client: Client,
}

impl Target for Real {
    fn call(&mut self, request: Request) -> Result<Answer, StoreError> {
        self.runtime.block_on(self.client.call(&request))
    }

    fn changes(&mut self, keys: &Keys, from: Revision) -> Result<Vec<Change>, StoreError> {
        self.runtime.block_on(async {
            let mut watch = self.client.watch(keys, from).await?;
            let mut all = Vec::new();
            // What there is comes at once. An emulated guest may take its time.
            while let Ok(next) = tokio::time::timeout(Duration::from_secs(3), watch.next()).await {
                all.extend(next?);
            }
            Ok(all)
        })
    }

    fn wait(&mut self, time: Duration) {
        std::thread::park_timeout(time);
    }
}

fn read() -> Request {
    Request::Get {
        keys: Keys::One("a".to_owned()),
        at: None,
    }
}

fn put(value: Vec<u8>) -> Request {
    let put = Operation::Put {
        key: "a".to_owned(),
        value,
        lease: None,
    };
    Request::Transact(Transaction {
        then: vec![put],
        ..Transaction::default()
    })
}

#[test]
fn etcd_answers_as_the_simulated_one() {
    let etcd = Etcd::start("answers", 23790, &[]);
    let real = run(&mut etcd.ready(), "test/");
    let simulated = run(&mut Simulation::default(), "test/");
    assert_eq!(real.join("\n"), simulated.join("\n"));
}

#[test]
fn what_etcd_refuses_is_explained() {
    let without = Etcd::start("plain", 23792, &["--enable-grpc-gateway=false"]);
    let answer = without.ready().call(read());
    assert_eq!(answer, Err(StoreError::NoGateway));
    drop(without);

    let small = Etcd::start("small", 23794, &["--quota-backend-bytes", "1048576"]);
    let mut client = small.ready();
    let mut answer = client.call(put(vec![b'x'; 100_000]));
    for _ in 0..100 {
        if answer.is_err() {
            break;
        }
        answer = client.call(put(vec![b'x'; 100_000]));
    }
    assert_eq!(answer, Err(StoreError::Full));
    assert!(client.call(read()).is_ok());
    drop(small);

    let gone = Etcd::start("gone", 23796, &[]);
    let mut client = gone.ready();
    drop(gone);
    let why = client.call(read()).expect_err("nobody answers").to_string();
    assert!(why.contains("127.0.0.1:23796"), "{why}");
    // Another cluster at the same address is none of this client's.
    let other = Etcd::start("other", 23796, &["--initial-cluster-token", "other"]);
    drop(other.ready());
    assert_eq!(client.call(read()), Err(StoreError::OtherCluster));
}

#[test]
fn a_user_of_etcd_may_do_what_it_is_granted() {
    let etcd = Etcd::start("users", 23798, &[]);
    drop(etcd.ready());
    let bare = |path: &str, body: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", 23798)).expect("a connection");
        let length = body.len();
        let request = format!(
            "POST /v3/auth/{path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("a request");
        // It may reset a connection that it has answered.
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(" 200 "), "{path}: {answer} {end:?}");
    };
    bare("user/add", r#"{"name":"root","password":"secret"}"#);
    bare("user/add", r#"{"name":"fleet","password":"quiet"}"#);
    bare("role/add", r#"{"name":"root"}"#);
    bare("role/add", r#"{"name":"fleet"}"#);
    bare("user/grant", r#"{"user":"root","role":"root"}"#);
    bare("user/grant", r#"{"user":"fleet","role":"fleet"}"#);
    // The key `a`, to read and to write.
    let grant = r#"{"name":"fleet","perm":{"permType":"READWRITE","key":"YQ=="}}"#;
    bare("role/grant", grant);
    bare("enable", "{}");
    let login = |user: &str, password: &str| Login {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    let mut fleet = etcd.client(Some(login("fleet", "quiet")));
    assert!(fleet.call(put(b"1".to_vec())).is_ok());
    assert!(fleet.call(read()).is_ok());
    let other = Request::Get {
        keys: Keys::One("b".to_owned()),
        at: None,
    };
    for (mut client, request) in [
        (etcd.client(Some(login("fleet", "quiet"))), other),
        (etcd.client(Some(login("fleet", "wrong"))), read()),
        (etcd.client(Some(login("nobody", "quiet"))), read()),
        (etcd.client(None), read()),
    ] {
        let answer = client.call(request);
        assert!(matches!(answer, Err(StoreError::Denied(_))), "{answer:?}");
    }
}

/// A host allows everything, and what it runs is ready at once.
struct AllowAll;

impl Rules for AllowAll {
    fn refused(
        &mut self,
        _: &BTreeMap<&WorkloadName, Asked<'_>>,
    ) -> BTreeMap<WorkloadName, String> {
        BTreeMap::new()
    }
}

fn workload_name(text: &str) -> WorkloadName {
    WorkloadName::parse(text).expect("a name")
}

fn node_id(number: usize) -> NodeId {
    NodeId::parse(&format!("host-{number}")).expect("a name")
}

/// What is wrong with the replicas of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// They have failed for longer than a scheduler waits.
    Failing,
    /// Their readiness changes twenty times a second.
    Flapping,
}

/// Makes the replicas of a host as they are at this moment.
fn look(seen: &mut BTreeMap<Replica, Seen>, trouble: Trouble, now: Time, round: u64) {
    for one in seen.values_mut() {
        one.health = match trouble {
            Trouble::None => Health::Ready,
            Trouble::Failing => Health::Failing {
                since: Time(now.0.saturating_sub(Duration::from_secs(400))),
            },
            Trouble::Flapping if round.is_multiple_of(2) => Health::Unready { since: None },
            Trouble::Flapping => Health::Ready,
        };
    }
}

/// Lives as a node until it is dropped.
async fn live(number: usize, client: Arc<Client>, trouble: Arc<Mutex<Trouble>>) {
    let about = NodeRecord {
        capacity: Resources {
            memory_bytes: 1000,
            cpu_millis: 1000,
        },
        ..NodeRecord::default()
    };
    let grace = Duration::from_secs(10);
    let node = Node::new("fleet/".to_owned(), node_id(number), grace, about, AllowAll);
    let mut driver = Driver::new(node, client);
    let mut seen = BTreeMap::new();
    driver.host(seen.clone());
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let (mut round, mut known) = (0, Trouble::None);
    loop {
        let news = tokio::select! {
            news = driver.next() => news,
            _ = looks.tick() => {
                let now = *trouble.lock().unwrap();
                if now != known || now == Trouble::Flapping {
                    (round, known) = (round + 1, now);
                    look(&mut seen, now, driver.clock().now(), round);
                    driver.host(seen.clone());
                }
                continue;
            }
        };
        for news in news {
            let ForHost::Run(run) = news else {
                continue;
            };
            let before = std::mem::take(&mut seen);
            let kept = before.into_iter();
            seen.extend(kept.filter(|(replica, _)| run.untouched.contains(replica)));
            for (workload, local) in run.wanted {
                let endpoint = EndpointRecord {
                    address: format!("10.0.0.{number}"),
                    port: 80,
                };
                let ready = Seen {
                    health: Health::Ready,
                    revision: local.revision,
                    endpoints: [(workload.clone(), endpoint)].into(),
                    ..Seen::default()
                };
                let indexes = local.replicas.into_keys();
                seen.extend(indexes.map(|index| {
                    let workload = workload.clone();
                    (Replica { workload, index }, ready.clone())
                }));
            }
            look(&mut seen, known, driver.clock().now(), round);
            driver.host(seen.clone());
        }
    }
}

async fn schedule(client: Arc<Client>) {
    let scheduler = Scheduler::new("fleet/".to_owned(), Settings::default());
    let mut driver = Driver::new(scheduler, client);
    loop {
        driver.next().await;
    }
}

/// Returns the replicas that are ready, and their hosts, as clients find them.
fn endpoints(client: &mut Real) -> Option<Vec<(String, u32, NodeId)>> {
    let keys = Keys::Prefix("fleet/endpoints/".to_owned());
    let Ok(Answer::Got(got)) = client.call(Request::Get { keys, at: None }) else {
        return None;
    };
    let all = got.entries.into_iter().filter_map(|entry| {
        match entry.key.strip_prefix("fleet/").and_then(Key::parse)? {
            Key::Endpoint(service, node, index) => Some((service.to_string(), index, node)),
            _ => None,
        }
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    Some(all)
}

fn wait_for_endpoints(client: &mut Real, hosts: &[usize]) -> Vec<(String, u32, NodeId)> {
    let wanted = [("db", 0), ("web", 0), ("web", 1), ("web", 2), ("web", 3)];
    wait_for("all replicas", || {
        let found = endpoints(client)?;
        let named = found.iter().map(|(name, index, _)| (name.as_str(), *index));
        let is_there = named.eq(wanted);
        let on = |node: &NodeId| hosts.iter().any(|host| node_id(*host) == *node);
        (is_there && found.iter().all(|(.., node)| on(node))).then_some(found)
    })
}

#[test]
fn replicas_are_placed_and_move_over_a_real_etcd() {
    let mut etcd = Etcd::start("fleet", 23770, &[]);
    let mut client = etcd.ready();
    for (workload, replicas, singleton) in [("web", 4, false), ("db", 1, true)] {
        let record = DesiredRecord {
            scheduling: Desired {
                replicas,
                needs: Resources {
                    memory_bytes: 100,
                    cpu_millis: 10,
                },
                singleton,
                ..Desired::default()
            },
            mode: Mode::Enforce,
            workload: serde_json::json!({}),
        };
        let put = Operation::Put {
            key: format!("fleet/{}", Key::Desired(workload_name(workload))),
            value: record.encode(),
            lease: None,
        };
        let transaction = Transaction {
            then: vec![put],
            ..Transaction::default()
        };
        client
            .call(Request::Transact(transaction))
            .expect("a write");
    }
    let runtime = Runtime::new().expect("a runtime");
    // Each has connections of its own, as on a host of its own.
    let own = || Arc::new(Client::new(vec![etcd.endpoint()], None));
    let troubles = [0, 1, 2].map(|_| Arc::new(Mutex::new(Trouble::None)));
    let nodes = [0, 1, 2].map(|number| {
        let trouble = Arc::clone(&troubles[number]);
        runtime.spawn(live(number, own(), trouble))
    });
    wait_for("all nodes", || {
        let keys = Keys::Prefix("fleet/nodes/".to_owned());
        let Ok(Answer::Got(got)) = client.call(Request::Get { keys, at: None }) else {
            return None;
        };
        (got.entries.len() == 3).then_some(())
    });
    let schedulers = [own(), own()].map(|client| runtime.spawn(schedule(client)));
    let placed = wait_for_endpoints(&mut client, &[0, 1, 2]);

    // Half of the replicas fail at once. They move, and the others stay.
    let on = |number: usize| {
        let all = placed.iter();
        all.filter(|(.., node)| *node == node_id(number)).count()
    };
    let sick = (0..3).max_by_key(|number| on(*number)).expect("a node");
    let left: Vec<usize> = (0..3).filter(|number| *number != sick).collect();
    assert!(on(sick) >= 2, "{placed:?}");
    *troubles[sick].lock().unwrap() = Trouble::Failing;
    let moved = wait_for_endpoints(&mut client, &left);
    for one in placed.iter().filter(|(.., node)| *node != node_id(sick)) {
        assert!(moved.contains(one), "{placed:?} {moved:?}");
    }
    *troubles[sick].lock().unwrap() = Trouble::None;

    // Readiness that flaps is written at most once a second, and its last state arrives.
    let flaps = left[0];
    let Ok(Answer::Got(before)) = client.call(read()) else {
        panic!("etcd does not answer");
    };
    *troubles[flaps].lock().unwrap() = Trouble::Flapping;
    std::thread::park_timeout(Duration::from_secs(10));
    *troubles[flaps].lock().unwrap() = Trouble::None;
    assert_eq!(wait_for_endpoints(&mut client, &left), moved);
    let keys = Keys::Prefix(format!("fleet/health/{}/", node_id(flaps)));
    let changes = client
        .changes(&keys, before.revision.next())
        .expect("the changes");
    let writes: BTreeSet<Revision> = changes.iter().map(Change::revision).collect();
    assert!((4..=14).contains(&writes.len()), "{} writes", writes.len());

    // A scheduler ends, and a node: the other scheduler places its replicas elsewhere.
    let [first, second] = schedulers;
    first.abort();
    nodes[flaps].abort();
    // What has not failed on the first node may use it again.
    let others = [sick, left[1]];
    wait_for_endpoints(&mut client, &others);
    second.abort();
    let third = runtime.spawn(schedule(own()));

    // etcd ends and comes back. Nothing moves.
    let before = wait_for_endpoints(&mut client, &others);
    etcd.kill();
    std::thread::park_timeout(Duration::from_secs(2));
    let again = Etcd::go_on("fleet", 23770, &[]);
    drop(again.ready());
    let after = wait_for_endpoints(&mut client, &others);
    assert_eq!(before, after);
    third.abort();
}
