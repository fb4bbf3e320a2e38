//! The client of etcd, with the etcd of this Debian.

use super::*;
use enforcer_fleet::etcd::{Client, Endpoint, Login};
use enforcer_fleet_core::Time;
use enforcer_fleet_core::store::conformance::{Target, run};
use enforcer_fleet_core::store::simulated::Simulated;
use enforcer_fleet_core::store::{
    Answer, Change, Keys, Operation, Request, Revision, StoreError, Transaction,
};
use std::io::Read as _;
use std::net::TcpStream;
use std::process::Child;
use tokio::runtime::Runtime;

/// An etcd of its own, which ends with this.
struct Etcd {
    process: Child,
    port: u16,
}

impl Etcd {
    fn start(name: &str, port: u16, more: &[&str]) -> Self {
        let folder = format!("/tmp/etcd-{name}");
        let _ = std::fs::remove_dir_all(&folder);
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
        }
    }

    fn client(&self, login: Option<Login>) -> Real {
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{}", self.port), None);
        let endpoint = endpoint.expect("an endpoint");
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

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
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

struct Simulation {
    store: Simulated,
    now: Time,
}

impl Target for Simulation {
    fn call(&mut self, request: Request) -> Result<Answer, StoreError> {
        self.store.handle(self.now, request)
    }

    fn changes(&mut self, keys: &Keys, from: Revision) -> Result<Vec<Change>, StoreError> {
        self.store.changes(keys, from)
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now.after(time);
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
    let mut simulation = Simulation {
        store: Simulated::default(),
        now: Time::default(),
    };
    let simulated = run(&mut simulation, "test/");
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
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains(" 200 "), "{path}: {answer}");
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
