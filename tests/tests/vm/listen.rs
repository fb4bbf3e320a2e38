//! Sockets that are kept for a workload: no client is refused while it is restarted, or while no
//! agent lives.

use crate::gate::{Clients, kill_now};
use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Start;
use enforcer_model::views::Replicas;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// It tells each client who it is, and ends between two clients.
const SERVER: &str = "
import os, select, signal, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()), os.environ
names = os.environ['LISTEN_FDNAMES'].split(':')
assert os.environ['LISTEN_FDS'] == str(len(names)), os.environ
sockets = [socket.socket(fileno=3 + index) for index in range(len(names))]
signal.set_wakeup_fd(-1)
ending = False
def end(*_):
    global ending
    ending = True
signal.signal(signal.SIGTERM, end)
while not ending:
    ready, _, _ = select.select(sockets, [], [], 0.2)
    for one in ready:
        client, _ = one.accept()
        client.sendall(f'{names[sockets.index(one)]} {os.getpid()}'.encode())
        client.close()
";
const PATH: &str = "/tmp/kept.sock";

fn server(name: &str, listen: &str, more: &str) -> String {
    let script = "/tmp/kept-server.py";
    fs::write(script, SERVER).unwrap();
    let text = workload(name, "rest", &format!("listen: {listen}\n{more}"));
    text.replace(
        "[/bin/fixture, \"rest\"]",
        &format!("[/usr/bin/python3, {script}]"),
    )
}

/// Connects, and returns what the server says of itself.
fn ask(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    match said.is_empty() {
        true => Err(io::ErrorKind::UnexpectedEof.into()),
        false => Ok(said),
    }
}

fn pid_in(said: &str) -> u32 {
    said.split_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn no_client_is_refused_while_a_workload_is_restarted() {
    const PORT: u16 = 9071;
    let listen = format!(
        "{{ ctl: {{ unix: {PATH}, mode: \"0660\" }}, api: {{ tcp: \"127.0.0.1:{PORT}\" }} }}"
    );
    let mut agent = Agent::start(&manifest(&server("web", &listen, "")));
    let first = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    assert_eq!(ask(PORT).unwrap(), format!("api {first}"));
    let mut said = String::new();
    let mut local = UnixStream::connect(PATH).unwrap();
    local.read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("ctl {first}"));
    let found = fs::metadata(PATH).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.mode() & 0o777, found.uid()), (0o660, 1000));

    // Clients that never try again.
    let ended = Arc::new(AtomicBool::new(false));
    let clients = {
        let ended = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                answers.push(ask(PORT));
            }
            answers
        })
    };
    for _ in 0..4 {
        assert!(agent.cli(&["restart", "web"]).status.success());
    }
    let last = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    wait_for("the last one to answer", || {
        (pid_in(&ask(PORT).ok()?) == last).then_some(())
    });
    ended.store(true, Ordering::Relaxed);
    let answers = clients.join().unwrap();
    let lost: Vec<&io::Error> = answers
        .iter()
        .filter_map(|one| one.as_ref().err())
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {}: {lost:?}",
        lost.len(),
        answers.len()
    );

    // Another holder gets the sockets of the agent.
    let holder = || {
        let listed = enforcer_tests::slot::root().join("holder/cgroup.procs");
        fs::read_to_string(listed).ok()?.trim().parse::<i32>().ok()
    };
    let first_holder = holder().unwrap();
    kill(Pid::from_raw(first_holder), Signal::SIGKILL).unwrap();
    wait_for("another holder", || {
        holder().filter(|pid| *pid != first_holder)
    });
    assert!(agent.cli(&["restart", "web"]).status.success());
    let last = pid_of(&agent.wait_for_state("web", WorkloadState::Running));

    // Neither an agent nor a server lives, and a client waits for both.
    agent.kill();
    kill(Pid::from_raw(i32::try_from(last).unwrap()), Signal::SIGKILL).unwrap();
    wait_for("it to be gone", || {
        (!Path::new(&format!("/proc/{last}/exe")).exists()).then_some(())
    });
    let waiting = std::thread::spawn(|| ask(PORT));
    std::thread::park_timeout(Duration::from_millis(200));
    agent.start_again();
    let next = waiting.join().unwrap().unwrap();
    assert_ne!(pid_in(&next), last);

    // At rest it has none. The sockets are closed one after the other.
    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("the port to be closed", || {
        let kind = ask(PORT).err()?.kind();
        (kind == io::ErrorKind::ConnectionRefused).then_some(())
    });
    wait_for("the file to go", || {
        (!Path::new(PATH).exists()).then_some(())
    });
    assert!(agent.cli(&["start", "web"]).status.success());
    wait_for("it to answer", || ask(PORT).ok());

    // Another address is another socket.
    let moved = listen.replace(&PORT.to_string(), "9072");
    agent.write_manifest(&manifest(&server("web", &moved, "")));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for("it to answer there", || ask(9072).ok());
    assert_eq!(
        ask(PORT).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn each_replica_has_a_socket_of_its_own_behind_the_gate() {
    const PORT: u16 = 9074;
    let listen = format!(
        "{{ api: {{ tcp: \"127.0.0.1:{PORT}\" }}, ctl: {{ unix: \"/tmp/kept-{{replica}}.sock\" }} }}"
    );
    let version = |replicas: &str, nice: u32| {
        let more = format!("{replicas}nice: {nice}\n");
        manifest(&server("web", &listen, &more))
    };
    let rules = "unready_wait: 1h\nrollout: { drain: 10m, deadline: 1h }\n";
    let (three, one) = (&format!("replicas: 3\n{rules}"), "");
    let ready = |agent: &Agent, count: usize| {
        wait_for("replicas that are ready", || {
            let all = agent.workloads();
            let is_ready = all.len() == count && all.iter().all(|one| one.ready);
            let rollout: Replicas = agent.get("/v1/workloads/web/rollout")?;
            (is_ready && rollout.rollout.is_none()).then_some(())
        });
    };
    let asking = || Clients::asking(3, PORT, |port| ask(port).map(|said| said.len()));
    let mut agent = Agent::start(&version(three, 1));
    ready(&agent, 3);
    for index in 0..3 {
        let mut said = String::new();
        let mut local = UnixStream::connect(format!("/tmp/kept-{index}.sock")).unwrap();
        local.read_to_string(&mut said).unwrap();
        let pid = pid_of(&agent.workload(&format!("web/{index}")));
        assert_eq!(said, format!("ctl {pid}"));
    }

    // A rollout, and one in which the agent dies.
    let clients = asking();
    assert!(agent.cli(&["restart", "web"]).status.success());
    ready(&agent, 3);
    agent.write_manifest(&version(three, 2));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for("a stop", || {
        let mut all = agent.workloads().into_iter();
        all.any(|one| one.state == WorkloadState::Stopping)
            .then_some(())
    });
    agent.kill();
    std::thread::park_timeout(Duration::from_millis(300));
    agent.start_again();
    ready(&agent, 3);
    // One replica less: what waits at its socket goes to the others.
    assert!(agent.cli(&["scale", "web", "2"]).status.success());
    ready(&agent, 2);
    let (count, lost) = clients.end();
    assert!(lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
    assert!(count > 30, "{count}");
    assert!(!Path::new("/tmp/kept-2.sock").exists());
    let (_, text) = agent.raw("GET /metrics/prometheus", "");
    for index in 0..2 {
        let label = format!("replica=\"{index}\"");
        let mut lines = text.lines().filter(|line| line.contains(&label));
        assert!(
            lines.any(|line| {
                line.starts_with("enforcer_gate_connections_total")
                    && line.contains("port=\"api\"")
                    && !line.ends_with(" 0")
            }),
            "replica {index}: {text}"
        );
    }

    // All of them are killed at once, and no client is refused. Each loses what it had accepted at most.
    for _ in 0..4 {
        let clients = asking();
        wait_for("an answer", || ask(PORT).ok());
        for one in agent.workloads() {
            kill_now(pid_of(&one));
        }
        ready(&agent, 2);
        wait_for("an answer", || ask(PORT).ok());
        let (count, lost) = clients.end();
        let refused = |error: &&io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        assert_eq!(lost.iter().filter(refused).count(), 0, "{lost:?}");
        assert!(lost.len() <= 2, "{} of {count}: {lost:?}", lost.len());
    }

    // One instance has the address alone, and replicas may take it again.
    for (version, names) in [
        (version(one, 2), vec!["web"]),
        (version(three, 2), vec!["web/0", "web/1", "web/2"]),
    ] {
        agent.write_manifest(&version);
        assert!(agent.cli(&["apply"]).status.success());
        wait_for("the other kind", || {
            let all = agent.workloads();
            let is_same = all
                .iter()
                .map(|one| one.name.to_string())
                .eq(names.iter().copied());
            (is_same && all.iter().all(|one| one.ready)).then_some(())
        });
        wait_for("it to answer", || ask(PORT).ok());
    }
    assert!(agent.cli(&["stop", "web"]).status.success());
    let refused = ask(PORT).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_address_that_is_taken_is_a_start_error() {
    fs::write("/tmp/no-socket", "kept").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:9073").unwrap();
    let once = "recovery: { restart: never }";
    let mut text = server("late", "{ api: { tcp: \"127.0.0.1:9073\" } }", once);
    text.push_str(&server("file", "{ api: { unix: /tmp/no-socket } }", once));
    text.push_str(&server(
        "elsewhere",
        "{ api: { tcp: \"192.0.2.99:9073\" } }",
        once,
    ));
    let agent = Agent::start(&manifest(&text));
    for (name, stage, why) in [
        ("late", "listen at 127.0.0.1:9073", "Address already in use"),
        ("file", "listen at /tmp/no-socket", "Address already in use"),
        (
            "elsewhere",
            "listen at 192.0.2.99:9073",
            "Cannot assign requested address",
        ),
    ] {
        let start = agent.wait_for_event::<Start>(name).details;
        let error = start.error().unwrap();
        assert_eq!(
            (error.stage.as_str(), error.error.as_str()),
            (stage, why),
            "{name}"
        );
    }
    assert_eq!(fs::read_to_string("/tmp/no-socket").unwrap(), "kept");
    drop(taken);
    assert!(agent.cli(&["start", "late"]).status.success());
    wait_for("it to answer", || ask(9073).ok());
}
