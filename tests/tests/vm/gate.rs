//! The gate in front of a workload's ports: unmodified servers, and clients that never try again.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Drained;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The length of the page that is asked for: more than a socket's first window.
const PAGE: usize = 100_000;

/// A server that nobody here wrote.
pub(crate) fn server(name: &str, port: u16, command: &str, more: &str) -> String {
    // A host's kernel loads them by itself.
    enforcer_tests::modules::load(&["inet_diag", "tcp_diag"]);
    let text = workload(
        name,
        "rest",
        &format!("ports: {{ http: {{ port: {port} }} }}\n{more}"),
    );
    fs::create_dir_all("/tmp/served").unwrap();
    // Clients may read it already: another version of a manifest is made while they do.
    if !fs::exists("/tmp/served/page").unwrap() {
        fs::write("/tmp/served/page", vec![b'x'; PAGE]).unwrap();
    }
    text.replace("[/bin/fixture, \"rest\"]", command)
}

/// The server of busybox: a process for each connection.
pub(crate) fn httpd(name: &str, port: u16, more: &str) -> String {
    let command =
        format!("[/usr/bin/busybox, httpd, -f, -p, \"127.0.0.1:{port}\", -h, /tmp/served]");
    server(name, port, &command, more)
}

/// A probe that asks the server for its page.
pub(crate) fn asked(port: u16) -> String {
    format!("readiness: {{ http: {{ port: {port}, path: /page }}, period: 1s, timeout: 10s }}")
}

/// A server that is probed. A busy guest may take long to start it.
pub(crate) fn probed(port: u16) -> String {
    let probe = asked(port);
    format!("unready_wait: 1h\nrollout: {{ drain: 10m }}\nprobes: {{ {probe} }}\n")
}

/// A command that asks the server for its page.
pub(crate) fn wget(port: u16) -> String {
    format!("[/usr/bin/busybox, wget, -q, -O, /dev/null, \"http://127.0.0.1:{port}/page\"]")
}

/// Asks once, and returns the length of the whole answer.
pub(crate) fn get(port: u16) -> io::Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let short = || io::Error::other(format!("a short answer of {} bytes", answer.len()));
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.len() - head.ok_or_else(short)? - 4;
    match body == PAGE {
        true => Ok(body),
        false => Err(short()),
    }
}

/// Clients that ask one time after the other, and never again for what has failed.
pub(crate) struct Clients {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<io::Result<usize>>>>,
}

impl Clients {
    pub(crate) fn begin(count: usize, port: u16) -> Self {
        Self::asking(count, port, get)
    }

    /// Clients that ask in a way of their own.
    pub(crate) fn asking(count: usize, port: u16, ask: fn(u16) -> io::Result<usize>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                let mut failures = 0;
                // More would say nothing new.
                while !ended.load(Ordering::Relaxed) && failures < 20 {
                    answers.push(ask(port));
                    // Others use the guest as well.
                    std::thread::park_timeout(Duration::from_millis(5));
                    failures += usize::from(answers.last().is_some_and(Result::is_err));
                }
                answers
            })
        };
        Self {
            threads: (0..count).map(client).collect(),
            ended,
        }
    }

    /// Returns the number of answers, and the failures.
    pub(crate) fn end(self) -> (usize, Vec<io::Error>) {
        self.ended.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        let answers: Vec<_> = threads.flat_map(|thread| thread.join().unwrap()).collect();
        let count = answers.len();
        (count, answers.into_iter().filter_map(Result::err).collect())
    }
}

/// Returns the agent's count of connections with this result.
fn counted(agent: &Agent, result: &str) -> u64 {
    let (_, text) = agent.raw("GET /metrics/prometheus", "");
    let line = text.lines().find(|line| {
        line.starts_with("enforcer_gate_connections_total{")
            && line.contains(&format!("result=\"{result}\""))
    });
    let value = line.and_then(|line| line.rsplit_once(' '));
    value.map_or(0, |(_, value)| value.parse().unwrap())
}

pub(crate) fn kill_now(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn planned_restarts_of_an_unmodified_server_lose_no_connection() {
    const PORT: u16 = 9081;
    let mut agent = Agent::start(&manifest(&httpd("web", PORT, &probed(PORT))));
    wait_for("it to answer", || get(PORT).ok());
    let clients = Clients::begin(4, PORT);
    assert!(agent.cli(&["restart", "web"]).status.success());
    wait_for("it to be ready", || {
        agent.workload("web").ready.then_some(())
    });
    // An agent dies in the middle of a restart, and the next one completes it.
    let before = pid_of(&agent.workload("web"));
    let (route, folder) = ("/v1/workloads/web/restart", agent.folder().to_owned());
    let asked = std::thread::spawn(move || {
        let socket = folder.join("run/enforcer.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        let request =
            format!("POST {route} HTTP/1.0\r\nhost: enforcer\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    wait_for("the drain", || (!agent.workload("web").ready).then_some(()));
    agent.kill();
    asked.join().unwrap();
    std::thread::park_timeout(Duration::from_millis(300));
    agent.start_again();
    wait_for("another instance", || {
        let now = agent.workload("web");
        (now.ready && now.pid != Some(before)).then_some(())
    });
    wait_for("it to answer", || get(PORT).ok());
    let (count, lost) = clients.end();
    assert!(lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
    assert!(count > 10, "{count}");
    let drained = agent.events::<Drained>("web");
    // Nothing drains where a busy guest has made it unready before.
    assert!(!drained.is_empty(), "{drained:?}");
    assert!(
        drained.iter().all(|event| event.details.left == 0),
        "{drained:?}"
    );
    assert_ne!(counted(&agent, "given"), 0);

    // At rest nothing waits.
    assert!(agent.cli(&["stop", "web"]).status.success());
    let refused = get(PORT).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// Returns the number of sockets that listen at a port of 127.0.0.1.
fn listening(port: u16) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let listens = format!(" 0100007F:{port:04X} 00000000:0000 0A ");
    table.matches(&listens).count()
}

/// Returns the time since the start of the kernel.
fn up() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_killed_server_loses_what_it_had_and_refuses_no_one() {
    const PORT: u16 = 9082;
    let more = format!("{}recovery: {{ backoff: off }}\n", probed(PORT));
    let agent = Agent::start(&manifest(&httpd("web", PORT, &more)));
    wait_for("it to answer", || get(PORT).ok());
    // The agent joins the port when the server has begun to listen.
    wait_for("the socket where clients wait", || {
        (listening(PORT) >= 2).then_some(())
    });
    let clients = Clients::asking(4, PORT, |port| {
        let timed = |error: io::Error| io::Error::new(error.kind(), format!("{error} at {}", up()));
        get(port).map_err(timed)
    });
    let mut kills = Vec::new();
    for _ in 0..2 {
        let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
        wait_for("it to answer", || get(PORT).ok());
        kills.push(format!("{} with {} sockets", up(), listening(PORT)));
        kill_now(pid);
        wait_for("another one", || {
            agent.workload("web").pid.filter(|next| *next != pid)
        });
    }
    wait_for("it to answer", || get(PORT).ok());
    let (count, lost) = clients.end();
    // The server answers each connection in a process of its own, so each client may have had one there.
    let refused = lost
        .iter()
        .filter(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    assert_eq!(refused.count(), 0, "{count}: {lost:?}, killed {kills:?}");
    assert!(lost.len() <= 2 * 4, "{} of {count}: {lost:?}", lost.len());
    assert_ne!(counted(&agent, "parked"), 0);
}

/// It is ready while a file is there.
fn told(name: &str, port: u16, more: &str) -> String {
    let ready = format!("/tmp/{name}-is-ready");
    let _ = fs::remove_file(&ready);
    let probe = format!(
        "probes: {{ readiness: {{ file: {{ path: {ready}, fresh_within: 1h }}, period: 1s, failure_threshold: 1 }} }}\n{more}"
    );
    httpd(name, port, &probe)
}

#[test]
fn a_connection_waits_until_the_workload_is_ready_and_is_refused_after_a_while() {
    const PORT: u16 = 9083;
    let agent = Agent::start(&manifest(&told("late", PORT, "unready_wait: 1h\n")));
    agent.wait_for_state("late", WorkloadState::Running);
    // It listens, and is not ready. The gate learns its address by that.
    wait_for("a connection that waits", || {
        drop(TcpStream::connect(("127.0.0.1", PORT)));
        (counted(&agent, "parked") > 0).then_some(())
    });
    let waiting = std::thread::spawn(|| get(PORT));
    std::thread::park_timeout(Duration::from_secs(2));
    assert!(!waiting.is_finished());
    fs::write("/tmp/late-is-ready", "").unwrap();
    waiting.join().unwrap().unwrap();

    agent.write_manifest(&manifest(&told("late", PORT, "unready_wait: 2s\n")));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for("it to be unready", || {
        (!agent.workload("late").ready).then_some(())
    });
    let refused = wait_for("a refusal", || get(PORT).err());
    let kinds = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::ConnectionReset,
    ];
    assert!(kinds.contains(&refused.kind()), "{refused:?}");
    let refused = get(PORT).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    fs::write("/tmp/late-is-ready", "").unwrap();
    wait_for("it to answer", || get(PORT).ok());
}

#[test]
fn a_workloads_own_commands_and_probes_reach_it_before_it_is_ready() {
    const PORT: u16 = 9084;
    let (command, asked) = (wget(PORT), asked(PORT));
    let probes = format!(
        "probes: {{ startup: {{ exec: {{ command: {command} }}, period: 1s, timeout: 60s, failure_threshold: 30 }}, {asked} }}\n"
    );
    let agent = Agent::start(&manifest(&httpd("web", PORT, &probes)));
    wait_for("it to be ready", || {
        agent.workload("web").ready.then_some(())
    });
    get(PORT).unwrap();
}

#[test]
fn a_program_may_bind_another_port_than_its_clients_connect_to() {
    // Only root may bind a port below 1024, or who has been given it.
    const PORT: u16 = 86;
    const TARGET: u16 = 9087;
    let probe = format!(
        "probes: {{ startup: {{ exec: {{ command: {} }}, period: 1s, timeout: 60s, failure_threshold: 30 }} }}\n",
        wget(TARGET)
    );
    let text = httpd("web", PORT, &probe)
        .replace("port: 86 }", "port: 86, target: 9087 }")
        .replace("127.0.0.1:86", "127.0.0.1:9087");
    let agent = Agent::start(&manifest(&text));
    // Its own command asks the port that it binds.
    wait_for("it to be ready", || {
        agent.workload("web").ready.then_some(())
    });
    get(PORT).unwrap();
    let refused = get(TARGET).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn no_other_program_gets_a_connection_to_a_port() {
    const PORT: u16 = 9085;
    let agent = Agent::start(&manifest(&httpd("web", PORT, &probed(PORT))));
    wait_for("it to answer", || get(PORT).ok());
    let taken = TcpListener::bind(("127.0.0.1", PORT)).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    // Another program of the same user, which shares the port as it may.
    let script = "/tmp/impostor.py";
    fs::write(
        script,
        format!(
            "import os, socket\nos.setgid(1000)\nos.setuid(1000)\ns = socket.socket()\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\ns.bind(('127.0.0.1', {PORT}))\n\
             s.listen()\nprint('listens', flush=True)\nwhile True:\n    s.accept()[0].close()\n    \
             print('got one', flush=True)\n"
        ),
    )
    .unwrap();
    let mut impostor = std::process::Command::new("/usr/bin/python3")
        .arg(script)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = impostor.stdout.take().unwrap();
    let mut first = [0; 8];
    said.read_exact(&mut first).unwrap();
    for _ in 0..20 {
        get(PORT).unwrap();
    }
    assert!(agent.cli(&["restart", "web"]).status.success());
    for _ in 0..5 {
        get(PORT).unwrap();
    }
    impostor.kill().unwrap();
    impostor.wait().unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.trim(), "");
}
