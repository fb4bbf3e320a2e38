//! Several replicas of an unmodified server: rollouts, rollbacks and deaths, under clients that never try
//! again.

use crate::gate::{Clients, asked, get, httpd, kill_now, probed, server, wget};
use crate::manifest;
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Detail, Drained, Hang, RolloutChange, RolloutState, Scaled};
use enforcer_model::oom::Incident;
use enforcer_model::views::Replicas;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::wait_for;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

/// A server with this many replicas, each of which is probed itself.
fn replicated(port: u16, replicas: u16, more: &str) -> String {
    let probe = asked(port);
    let text = format!(
        "unready_wait: 1h\nreplicas: {replicas}\nprobes: {{ {probe} }}\nenvironment: {{ NUMBER: \"{{replica}}\" }}\n{more}"
    );
    httpd("web", port, &text)
}

const PATIENT: &str = "rollout: { drain: 10m, deadline: 1h }\n";

fn replicas(agent: &Agent) -> Replicas {
    wait_for("the replicas", || agent.get("/v1/workloads/web/rollout"))
}

fn wait_until_ready(agent: &Agent, count: u16) {
    wait_for("replicas that are ready", || {
        let found = replicas(agent);
        (found.ready == count && found.rollout.is_none()).then_some(())
    });
}

/// Counts the fewest replicas that were ready at the same time, twenty times a second.
struct Least {
    ended: Arc<AtomicBool>,
    least: Arc<AtomicU16>,
    thread: std::thread::JoinHandle<()>,
}

impl Least {
    fn watch(socket: std::path::PathBuf) -> Self {
        let (ended, least) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU16::new(99)),
        );
        let (until, lowest) = (Arc::clone(&ended), Arc::clone(&least));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // While no agent lives, the gate goes on with what it has.
                if let Some(ready) = ready_at(&socket) {
                    lowest.fetch_min(ready, Ordering::Relaxed);
                }
                std::thread::park_timeout(Duration::from_millis(50));
            }
        });
        Self {
            ended,
            least,
            thread,
        }
    }

    fn end(self) -> u16 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.least.load(Ordering::Relaxed)
    }
}

fn ready_at(socket: &std::path::Path) -> Option<u16> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let request = "GET /v1/workloads/web/rollout HTTP/1.0\r\nhost: enforcer\r\n\r\n";
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let found: Replicas = serde_json::from_str(body)
        .ok()
        .filter(|_| head.contains(" 200 "))?;
    Some(found.ready)
}

#[test]
fn rollouts_of_an_unmodified_server_lose_no_connection() {
    const PORT: u16 = 9091;
    let version = |nice: u32| {
        let more = format!("{PATIENT}nice: {nice}\n");
        manifest(&replicated(PORT, 3, &more))
    };
    let mut agent = Agent::start(&version(1));
    wait_until_ready(&agent, 3);
    let clients = Clients::begin(4, PORT);
    let least = Least::watch(agent.folder().join("run/enforcer.sock"));

    // Two restarts of all, one replica after the other, and two other versions.
    for _ in 0..2 {
        assert!(agent.cli(&["restart", "web"]).status.success());
        wait_until_ready(&agent, 3);
    }
    for nice in [2, 3] {
        agent.write_manifest(&version(nice));
        assert!(agent.cli(&["apply"]).status.success());
        if nice == 3 {
            // An agent dies in the middle of a rollout, and the next one completes it.
            wait_for("a drain", || {
                let mut all = agent.workloads().into_iter();
                all.any(|one| one.state == WorkloadState::Stopping)
                    .then_some(())
            });
            agent.kill();
            std::thread::park_timeout(Duration::from_millis(300));
            agent.start_again();
        }
        wait_until_ready(&agent, 3);
    }
    wait_for("the surge to go", || {
        (agent.workloads().len() == 3).then_some(())
    });
    for one in agent.workloads() {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid_of(&one))).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        assert_eq!(fields[16], "3", "{} has the last version", one.name);
    }
    let (count, lost) = clients.end();
    let drained: Vec<_> = (0..4)
        .flat_map(|index| agent.events::<Drained>(&format!("web/{index}")))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {count}: {lost:?}, {drained:?}",
        lost.len()
    );
    assert!(count > 100, "{count}");
    println!("{count} connections");
    assert_eq!(least.end(), 3);
    let names: Vec<String> = agent
        .workloads()
        .iter()
        .map(|one| one.name.to_string())
        .collect();
    assert_eq!(names, ["web/0", "web/1", "web/2"]);

    let states: Vec<RolloutState> = agent
        .events::<RolloutChange>("web")
        .iter()
        .map(|event| event.details.state)
        .collect();
    let (began, completed) = (RolloutState::Began, RolloutState::Completed);
    assert_eq!(states, [began, completed].repeat(4));
    assert!(
        drained.iter().all(|event| event.details.left == 0),
        "{drained:?}"
    );
    // Each has its own cgroup, log and number.
    let one = agent.workload("web/1");
    assert!(
        one.cgroup.ends_with("/workloads/web.replicas/1"),
        "{}",
        one.cgroup
    );
    let environment = fs::read(format!("/proc/{}/environ", pid_of(&one))).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    for expected in ["NUMBER=1\0", "ENFORCER_REPLICA=1\0"] {
        assert!(environment.contains(expected), "{environment:?}");
    }
    assert!(agent.folder().join("state/logs/web.1.log").exists());
    // All of them share the load.
    let (_, text) = agent.raw("GET /metrics/prometheus", "");
    for index in 0..3 {
        let label = format!("replica=\"{index}\"");
        let given = text.lines().find(|line| {
            let is_given = line.contains("result=\"given\"") && line.contains(&label);
            line.starts_with("enforcer_gate_connections_total") && is_given
        });
        let given = given.and_then(|line| line.rsplit_once(' ')).unwrap().1;
        assert_ne!(given, "0", "replica {index}");
    }

    // One of three is killed: no connection of the others is lost, and none is refused.
    let clients = Clients::begin(4, PORT);
    std::thread::park_timeout(Duration::from_secs(2));
    kill_now(pid_of(&agent.workload("web/1")));
    wait_until_ready(&agent, 3);
    let (count, lost) = clients.end();
    assert!(lost.len() <= 4, "{} of {count}: {lost:?}", lost.len());
    let refused = |error: &&std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    assert_eq!(lost.iter().filter(refused).count(), 0, "{lost:?}");

    assert!(agent.cli(&["scale", "web", "1"]).status.success());
    wait_for("one replica", || {
        (agent.workloads().len() == 1).then_some(())
    });
    let clients = Clients::begin(2, PORT);
    assert!(agent.cli(&["scale", "web", "2"]).status.success());
    wait_until_ready(&agent, 2);
    let (_, lost) = clients.end();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(agent.cli(&["stop", "web"]).status.success());
    let refused = get(PORT).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_version_that_never_becomes_ready_is_rolled_back() {
    const PORT: u16 = 9092;
    let rules = "rollout: { drain: 10m, deadline: 15s }\n";
    let agent = Agent::start(&manifest(&replicated(PORT, 2, rules)));
    wait_until_ready(&agent, 2);
    let clients = Clients::begin(2, PORT);
    let least = Least::watch(agent.folder().join("run/enforcer.sock"));
    // It listens, but its page is not there.
    let broken = replicated(PORT, 2, rules).replace("/tmp/served]", "/usr]");
    agent.write_manifest(&manifest(&broken));
    assert!(agent.cli(&["apply"]).status.success());
    let change = wait_for("the way back", || {
        let events = agent.events::<RolloutChange>("web");
        events
            .into_iter()
            .find(|event| event.details.state == RolloutState::RolledBack)
    });
    assert_eq!(change.details.ready, 2, "{change:?}");
    let (count, lost) = clients.end();
    assert!(lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
    assert_eq!(least.end(), 2);
    let found = replicas(&agent);
    assert!(found.differs && found.rollout.is_none(), "{found:?}");
    // The same file changes nothing, and an earlier one agrees with what runs.
    let seq = agent.history().last().unwrap().seq;
    assert!(agent.cli(&["apply"]).status.success());
    let later = agent
        .history()
        .into_iter()
        .filter(|record| record.seq > seq);
    let rolls = later.filter(|record| matches!(record.detail, Detail::Rollout(_)));
    assert_eq!(rolls.count(), 0);
    let shown = agent.cli(&["rollout", "status", "web"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("what runs differs from the manifest"),
        "{shown}"
    );
}

#[test]
fn an_oom_kill_is_known_by_the_replica() {
    let text = "  web:\n    command: [/bin/fixture, hog-on-signal]\n    user: web\n    replicas: 2\n    cgroup: { memory.max: 24M }\n";
    let agent = Agent::start(&manifest(text));
    let one = agent.wait_for_state("web/1", WorkloadState::Running);
    agent.wait_for_output("web.1", "ready");
    enforcer_tests::agent::send(&one, nix::sys::signal::Signal::SIGUSR1);
    let incident = agent.wait_for_event::<Incident>("web/1");
    assert_eq!(incident.details.victims.len(), 1, "{incident:?}");
    assert_eq!(agent.workload("web/0").oom_kills, 0);
}

#[test]
fn a_workload_gets_replicas_and_loses_them_without_a_gap() {
    const PORT: u16 = 9093;
    let single = replicated(PORT, 2, PATIENT)
        .replace("    replicas: 2\n", "")
        .replace(", deadline: 1h", "")
        .replace("{replica}", "none");
    let agent = Agent::start(&manifest(&single));
    wait_for("it to answer", || get(PORT).ok());
    let clients = Clients::begin(2, PORT);
    agent.write_manifest(&manifest(&replicated(PORT, 2, PATIENT)));
    assert!(agent.cli(&["apply"]).status.success());
    wait_until_ready(&agent, 2);
    wait_for("the single one to go", || {
        (agent.workloads().len() == 2).then_some(())
    });
    agent.write_manifest(&manifest(&single));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for("the replicas to go", || {
        let all = agent.workloads();
        (all.len() == 1 && all[0].ready && all[0].name.index().is_none()).then_some(())
    });
    let (count, lost) = clients.end();
    assert!(lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
}

#[test]
fn a_replica_that_hangs_alone_is_found_and_explained() {
    const PORT: u16 = 9094;
    let command = wget(PORT);
    let probe = |more: &str| {
        format!("{{ exec: {{ command: {command} }}, period: 2s, timeout: 20s, {more} }}")
    };
    let text = format!(
        "replicas: 3\nrecovery: {{ backoff: off }}\nprobes: {{ startup: {}, liveness: {} }}\n",
        probe("failure_threshold: 60"),
        probe("failure_threshold: 1")
    );
    let agent = Agent::start(&manifest(&httpd("web", PORT, &text)));
    wait_until_ready(&agent, 3);
    let hung = agent.workload("web/1");
    enforcer_tests::agent::send(&hung, nix::sys::signal::Signal::SIGSTOP);
    let hang = agent.wait_for_event::<Hang>("web/1");
    let [thread] = hang.details.threads.as_slice() else {
        panic!("{hang:?}");
    };
    assert_eq!((thread.pid, thread.state.as_str()), (pid_of(&hung), "T"));
    assert!(!thread.kernel_stack.is_empty(), "{thread:?}");
    wait_for("another instance", || {
        agent
            .workload("web/1")
            .pid
            .filter(|pid| *pid != pid_of(&hung))
    });
    // Its peers are behind the same port, and pass.
    for peer in ["web/0", "web/2"] {
        assert_eq!(agent.workload(peer).restarts, 0, "{peer}");
    }
    wait_until_ready(&agent, 3);
}

#[test]
fn each_replica_has_ports_of_its_own_and_all_have_limits_together() {
    let limits = "cgroup: { memory.low: 4M }\nreplicas_cgroup: { memory.max: 200M }\n";
    let text = httpd("web", 9100, &format!("replicas: 2\n{limits}")).replace(
        "port: 9100 }",
        "port: 9100, to: each, target: 9099, address: \"*\" }",
    );
    // All of them bind one port, and each gets another one.
    let text = text.replace("127.0.0.1:9100", "127.0.0.1:9099");
    let agent = Agent::start(&manifest(&text));
    for index in 0..2 {
        wait_for("an answer", || get(9100 + index).ok());
    }
    let refused = get(9099).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    // They are reached at every address of the host.
    std::net::TcpStream::connect(("127.0.0.2", 9101)).unwrap();
    let cgroup = agent.workload("web/0").cgroup;
    let group = std::path::Path::new(&cgroup).parent().unwrap();
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    assert_eq!(read("memory.max").trim(), (200 << 20).to_string());
    // Two replicas and one of a rollout.
    assert_eq!(read("memory.low").trim(), (12 << 20).to_string());
    assert_eq!(read("memory.oom.group").trim(), "0");
}

#[test]
fn the_number_of_replicas_follows_their_cpu_time() {
    let text = "  busy:\n    command: [/bin/fixture, spin]\n    user: web\n    cgroup: { cpu.max: 2% }\n    watch: { cpu_loop: off }\n    replicas: { min: 1, max: 3, cpu: 50% }\n";
    let agent = Agent::start(&manifest(text));
    wait_for("three replicas", || {
        (agent.workloads().len() == 3).then_some(())
    });
    let scaled = agent.events::<Scaled>("busy");
    let last = &scaled.last().unwrap().details;
    assert_eq!(last.to, 3, "{scaled:?}");
    assert!(last.why.starts_with("CPU use is "), "{scaled:?}");
}

/// etcd has a lasting connection to its own port, as its gateway.
#[test]
fn a_connection_of_a_program_to_itself_does_not_hold_up_its_drain() {
    const PORT: u16 = 9099;
    let script = format!(
        "import socket, threading\n\
         server = socket.create_server(('127.0.0.1', {PORT}))\n\
         def answer(client):\n    \
             if client.recv(4096):\n        \
                 client.sendall(b'HTTP/1.0 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n')\n        \
                 client.close()\n\
         own = socket.create_connection(('127.0.0.1', {PORT}))\n\
         while True:\n    \
             threading.Thread(target=answer, args=[server.accept()[0]]).start()\n"
    );
    fs::write("/tmp/itself.py", script).unwrap();
    let command = "[/usr/bin/python3, /tmp/itself.py]";
    let agent = Agent::start(&manifest(&server("web", PORT, command, &probed(PORT))));
    wait_for("it to be ready", || {
        agent.workload("web").ready.then_some(())
    });
    assert!(agent.cli(&["restart", "web"]).status.success());
    let drained = agent.wait_for_event::<Drained>("web").details;
    assert_eq!(drained.left, 0, "{drained:?}");
}
