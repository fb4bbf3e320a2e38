//! Alerts: each reaches its target, in order and at least once, whichever process dies meanwhile;
//! and its end is sent under the name that it had.

use crate::{manifest, workload};
use enforcer_model::detail::{AlertChange, AlertState, Degraded};
use enforcer_model::requests::AlertMessage;
use enforcer_model::spec::Severity;
use enforcer_model::{ReplicaId, WorkloadState};
use enforcer_tests::agent::{Agent, Event};
use enforcer_tests::wait_for;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FAILS: u8 = 0;
const HANGS: u8 = 1;
const WORKS: u8 = 2;

/// A webhook's other end.
#[derive(Clone)]
struct Receiver {
    port: u16,
    mode: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
    taken: Arc<Mutex<Vec<AlertMessage>>>,
}

impl Receiver {
    fn start(mode: u8) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            port: listener.local_addr().unwrap().port(),
            mode: Arc::new(AtomicU8::new(mode)),
            asked: Arc::default(),
            taken: Arc::default(),
        };
        let own = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || own.answer(stream));
            }
        });
        this
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        let body = loop {
            let read = stream.read(&mut piece).unwrap_or(0);
            if read == 0 {
                return;
            }
            bytes.extend_from_slice(&piece[..read]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            assert!(head.starts_with("POST /hook?a=1 HTTP/1.1"), "{head}");
            assert!(head.contains("x-token: secret"), "{head}");
            if let Ok(body) = serde_json::from_str::<AlertMessage>(body) {
                break body;
            }
        };
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.mode.load(Ordering::SeqCst) {
            FAILS => {
                let _ = stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n");
            }
            HANGS => {
                // Until the client has gone.
                while stream.read(&mut piece).is_ok_and(|read| read > 0) {}
            }
            _ => {
                self.taken.lock().unwrap().push(body);
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn wait_until_asked_again(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        wait_for("it to be asked again", || {
            (self.asked.load(Ordering::SeqCst) > before).then_some(())
        });
    }

    /// How many were taken, and the number of the last one.
    fn last(&self) -> Option<(usize, u64)> {
        let taken = self.taken.lock().unwrap();
        Some((taken.len(), taken.last()?.seq.0))
    }

    /// The numbers of what was taken, each once.
    fn numbers(&self) -> Vec<u64> {
        let taken = self.taken.lock().unwrap();
        let mut numbers: Vec<u64> = taken.iter().map(|message| message.seq.0).collect();
        // What was taken and not answered in time may come twice, and nothing out of order.
        assert!(numbers.is_sorted(), "{numbers:?}");
        numbers.dedup();
        numbers
    }
}

fn alerts_of(agent: &Agent) -> Vec<Event<AlertChange>> {
    agent.all_events()
}

#[test]
fn alerts_reach_a_receiver_that_fails_and_hangs_and_then_works() {
    let receiver = Receiver::start(FAILS);
    let hog = "cgroup: { memory.max: 8M }\nrecovery: { backoff: off, budget: { restarts: 2, within: 1h }, \
               breaker: { cooldown: 1h } }";
    let text = manifest(&(workload("hog", "hog", hog) + &workload("web", "rest", "")));
    let text = text.replace(
        "workloads:\n",
        &format!(
            "alerts:\n  repeat: off\n  targets:\n    pager: {{ webhook: {{ url: 'http://127.0.0.1:{}/hook?a=1', headers: {{ x-token: secret }} }} }}\n  \
             rules:\n    oom: {{ event: oom_kill }}\n    breaker: {{ state: breaker_open, severity: critical }}\n    \
             stopped: {{ state: stopped, workloads: [web] }}\nworkloads:\n",
            receiver.port
        ),
    );
    let mut agent = Agent::start_daemon(&text);
    // Whoever isn't reached holds nothing up.
    agent.wait_for_state("hog", WorkloadState::BreakerOpen);
    let fired = wait_for("both alerts", || {
        let reported = alerts_of(&agent);
        (reported.len() >= 2).then_some(reported)
    });
    assert_eq!(fired[0].details.rule, "oom");
    assert_eq!(fired[0].workload, ReplicaId::parse("hog"));
    assert_eq!(fired[1].details.rule, "breaker");
    assert_eq!(fired[1].details.severity, Severity::Critical);
    receiver.wait_until_asked_again();
    receiver.set(HANGS);
    receiver.wait_until_asked_again();
    let reported = || {
        let degraded = agent.all_events::<Degraded>();
        let reported = degraded.iter();
        reported
            .filter(|event| event.details.what == "alerts to pager")
            .count()
    };
    wait_for("that to be reported", || (reported() > 0).then_some(()));
    receiver.wait_until_asked_again();
    assert_eq!(reported(), 1);
    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("a third alert", || {
        let mut reported = alerts_of(&agent).into_iter();
        reported.find(|event| event.details.rule == "stopped")
    });
    assert!(receiver.numbers().is_empty());

    // Another agent knows the standing alerts, and those that no target has taken.
    agent.kill();
    receiver.set(WORKS);
    agent.start_again();
    let all = |agent: &Agent| -> Vec<u64> {
        let reported = alerts_of(agent);
        reported.iter().map(|event| event.seq.0).collect()
    };
    wait_for("all of them to arrive", || {
        (receiver.numbers() == all(&agent)).then_some(())
    });
    assert!(agent.cli(&["start", "web"]).status.success());
    wait_for("that it is over", || {
        let reported = alerts_of(&agent);
        let over = reported.iter().any(|event| {
            event.details.state == AlertState::Resolved && event.details.rule == "stopped"
        });
        over.then_some(())
    });
    wait_for("that to arrive", || {
        (receiver.numbers() == all(&agent)).then_some(())
    });
    let reported = alerts_of(&agent);
    let firing: Vec<_> = reported
        .iter()
        .filter(|event| event.details.state == AlertState::Firing)
        .collect();
    assert_eq!(firing.len(), 3, "{reported:#?}");
    let taken = receiver.taken.lock().unwrap().clone();
    let of = |state| -> BTreeSet<String> {
        let some = taken.iter().filter(|message| message.state == state);
        some.map(|message| message.id.clone()).collect()
    };
    assert_eq!(of(AlertState::Firing).len(), 3, "{taken:#?}");
    // The OOM kill is over by itself after five minutes, which may have passed.
    let over = of(AlertState::Resolved);
    let stopped = taken.iter().filter(|message| message.rule == "stopped");
    let stopped = stopped.filter(|message| message.state == AlertState::Resolved);
    let stopped: BTreeSet<&str> = stopped.map(|message| &*message.id).collect();
    assert_eq!(stopped.len(), 1, "{taken:#?}");
    assert!(over.is_subset(&of(AlertState::Firing)), "{taken:#?}");

    // What was taken, as the agent has noted, is not sent again.
    let noted = agent.folder().join("state/alerts/pager.json");
    let (before, last) = wait_for("the last one to be noted", || {
        let (count, last) = receiver.last()?;
        let noted = std::fs::read_to_string(&noted).ok()?;
        let is_noted = noted.contains(&format!("\"delivered\":{last}}}"));
        is_noted.then_some((count, last))
    });
    agent.kill();
    agent.start_again();
    agent.wait_for_state("web", WorkloadState::Running);
    let reported = all(&agent).len();
    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("the next one", || {
        let all = all(&agent);
        (all.len() > reported && receiver.numbers() == all).then_some(())
    });
    let taken = receiver.taken.lock().unwrap().clone();
    let again = taken
        .iter()
        .skip(before)
        .find(|message| message.seq.0 <= last);
    assert!(again.is_none(), "{again:?}");
}

#[test]
fn a_level_is_reported_by_a_command_when_it_held_and_when_it_is_over() {
    let file = "/tmp/alerts-noted";
    std::fs::remove_file(file).ok();
    let manifest_with = |max: &str| {
        let limits = format!("cgroup: {{ memory.max: {max} }}");
        let text = manifest(&workload("web", "keep-warm 20", &limits));
        text.replace(
            "workloads:\n",
            "alerts:\n  targets: { mail: { command: [/bin/fixture, note, /tmp/alerts-noted, ENFORCER_ALERT] } }\n  \
             rules: { full: { memory: 60%, for: 6s } }\nworkloads:\n",
        )
    };
    let agent = Agent::start(&manifest_with("30M"));
    let reported = || -> Vec<AlertMessage> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let first = wait_for("it to be reported", || reported().into_iter().next());
    assert_eq!(first.state, AlertState::Firing, "{first:?}");
    assert_eq!(first.rule, "full");
    assert_eq!(first.workload, ReplicaId::parse("web"));
    assert!(first.stood >= Duration::from_secs(6), "{first:?}");
    let text = &first.text;
    assert!(
        text.starts_with("memory at ") && text.ends_with("from 60 % on"),
        "{text}"
    );
    agent.write_manifest(&manifest_with("90M"));
    assert!(agent.cli(&["apply"]).status.success());
    // The first one is sent again if its command took too long.
    let second = wait_for("it to be over", || {
        let mut reported = reported().into_iter();
        reported.find(|message| message.state == AlertState::Resolved)
    });
    assert_eq!(second.id, first.id);
}

/// A webhook over TLS, to a server that nobody here wrote: python's own.
#[test]
fn a_server_of_python_gets_an_alert_over_tls() {
    const CERTIFICATE: &str = include_str!("../../../enforcer/src/tls/testdata/own.pem");
    const KEY: &str = include_str!("../../../enforcer/src/tls/testdata/own.key");
    const SCRIPT: &str = "
import http.server, ssl
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        with open('/tmp/received-alerts', 'ab') as file:
            file.write(body + b'\\n')
        self.send_response(204)
        self.end_headers()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tmp/receiver.pem', '/tmp/receiver.key')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 9044), Receiver)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
";
    const RECEIVED: &str = "/tmp/received-alerts";
    for (path, text) in [
        ("/tmp/receiver.pem", CERTIFICATE),
        ("/tmp/receiver.key", KEY),
        ("/tmp/receiver.py", SCRIPT),
    ] {
        std::fs::write(path, text).unwrap();
    }
    let _ = std::fs::remove_file(RECEIVED);
    let probes = format!("probes: {{ {} }}", crate::until_it_listens(9044));
    let receiver = workload("receiver", "rest", &probes);
    let receiver = receiver.replace(
        "[/bin/fixture, \"rest\"]",
        "[/usr/bin/python3, /tmp/receiver.py]",
    );
    let text = manifest(&(receiver + &workload("web", "rest", "")));
    let alerts = |ca_file: &str| {
        format!(
            "alerts:\n  repeat: off\n  targets:\n    pager: {{ webhook: {{ url: 'https://localhost:9044/hook', \
             ca_file: {ca_file} }} }}\n  rules:\n    stopped: {{ state: stopped, workloads: [web] }}\nworkloads:\n"
        )
    };
    let agent = Agent::start(&text.replace("workloads:\n", &alerts("/tmp/receiver.pem")));
    wait_for("the receiver to listen", || {
        (agent.workload("receiver").health == enforcer_model::health::Health::Healthy).then_some(())
    });
    agent.wait_for_state("web", WorkloadState::Running);
    assert!(agent.cli(&["stop", "web"]).status.success());
    let message: AlertMessage = wait_for("the alert", || {
        let received = std::fs::read_to_string(RECEIVED).ok()?;
        serde_json::from_str(received.lines().next()?).ok()
    });
    let sent = alerts_of(&agent);
    assert_eq!(message.seq, sent[0].seq);
}
