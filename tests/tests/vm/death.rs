//! The agent is killed at every step of what it does, again and again, while it is asked
//! for more: the successor finds the same processes, and leaves none unlimited,
//! doubled or forgotten.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_tests::agent::{Agent, pid_of, use_failpoints};
use enforcer_tests::{kernel, slowness, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Every place where `failpoint!` stands in the agent.
const PLACES: [&str; 18] = [
    "event-decided",
    "event-kept",
    "event-dispatched",
    "start-limited",
    "start-forked",
    "start-recorded",
    "start-released",
    "stop-unsignalled",
    "stop-signalled",
    "stop-killed",
    "reap-unread",
    "reap-read",
    "reap-emptied",
    "remove-begun",
    "remove-done",
    "limits-unwritten",
    "limits-written",
    "adopt-found",
];
/// How long an agent may live on if it doesn't come by its place of death.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 9600;
/// The replicas of `pair`, with the one that a rollout adds.
const REPLICAS: [&str; 3] = ["pair.replicas/0", "pair.replicas/1", "pair.replicas/2"];

fn text(memory: u32) -> String {
    let limits = format!("cgroup: {{ memory.max: {memory}M, pids.max: 20 }}");
    let restarts = "recovery: { backoff: off, budget: off }\nstop: { grace: 2s }";
    let mut text = workload(
        "steady",
        "rest",
        "cgroup: { memory.max: 20M, pids.max: 20 }",
    );
    for name in ["asked", "crashed", "stubborn"] {
        let mode = if name == "stubborn" {
            "ignore-term"
        } else {
            "rest"
        };
        text.push_str(&workload(name, mode, &format!("{limits}\n{restarts}")));
    }
    // Two replicas behind the gate.
    let more = format!(
        "{limits}\n{restarts}\nreplicas: 2\nports: {{ http: {{ port: {PORT} }} }}\nrollout: {{ deadline: 1h }}"
    );
    text.push_str(&workload("pair", &format!("http {PORT}"), &more));
    manifest(&text)
}

/// What an operator and the world do to it, one thing after another.
fn disturb(agent: &Agent, step: usize) {
    // Each answer may be lost with the agent.
    let asked = |route: &str, body: &str| drop(agent.post(route, body));
    let kill_all = |name: &str| {
        for pid in kernel::processes(name) {
            let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
        }
    };
    match step % 10 {
        0 => asked("/v1/workloads/asked/restart", ""),
        1 | 5 => kill_all("crashed"),
        2 => {
            agent.write_manifest(&text(20 + u32::try_from(step % 10).unwrap()));
            asked("/v1/apply", "{}");
        }
        3 => asked("/v1/workloads/asked/stop", ""),
        4 => asked("/v1/workloads/asked/start", ""),
        6 => asked("/v1/workloads/stubborn/kill", ""),
        // Its answer would come after the whole rollout.
        7 => {
            let socket = agent.folder().join("run/enforcer.sock");
            if let Ok(mut stream) = UnixStream::connect(socket) {
                let _ = stream.write_all(
                    b"POST /v1/workloads/pair/restart HTTP/1.0\r\nhost: enforcer\r\ncontent-length: 0\r\n\r\n",
                );
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = stream.read(&mut [0]);
            }
        }
        8 => kill_all(REPLICAS[0]),
        _ => asked("/v1/workloads/stubborn/start", ""),
    }
}

/// Nothing runs twice, nothing runs without its limits, and nothing runs that isn't
/// named: whatever the agent was doing when it died.
fn assert_sound(place: &str) {
    let group = kernel::workloads().join("pair.replicas");
    for (folder, prefix) in [(kernel::workloads(), ""), (group, "pair.replicas/")] {
        assert_folder_is_sound(place, &folder, prefix);
    }
}

fn assert_folder_is_sound(place: &str, folder: &std::path::Path, prefix: &str) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if !entry.path().is_dir() || name == "pair.replicas" {
            continue;
        }
        let known = ["steady", "asked", "crashed", "stubborn"];
        assert!(
            known.iter().chain(&REPLICAS).any(|one| *one == name),
            "{place}: a stray cgroup {name}"
        );
        // A zombie waits for init alone, and its number is listed no more.
        let processes = kernel::processes(&name);
        assert!(processes.len() <= 1, "{place}: {name} has {processes:?}");
        if !processes.is_empty() {
            for file in ["memory.max", "pids.max"] {
                let limit = kernel::read(&name, file).unwrap_or_default();
                assert_ne!(limit.trim(), "max", "{place}: {name}'s {file}");
            }
        }
    }
}

#[test]
fn it_may_die_anywhere() {
    // Each place twice on one kernel, and once on the others.
    let rounds = if kernel::release().starts_with("6.1.") {
        2
    } else {
        1
    };
    use_failpoints();
    let mut agent = Agent::start_daemon(&text(20));
    for name in ["steady", "asked", "crashed", "stubborn"] {
        agent.wait_for_state(name, WorkloadState::Running);
    }
    let steady = pid_of(&agent.workload("steady"));
    let (mut deaths, mut where_reported, mut step) = (0, 0, 0);
    for round in 1..=rounds {
        for (number, place) in PLACES.iter().enumerate() {
            let time = 1 + (number + 2 * round) % 4;
            agent.start_doomed(Some(&format!("{place}:{time}")));
            let begun = Instant::now();
            while !agent.has_ended() && begun.elapsed() < PATIENCE.mul_f64(slowness()) {
                wait_for("an answer or an end", || {
                    (agent.answers() || agent.has_ended()).then_some(())
                });
                disturb(&agent, step);
                step += 1;
            }
            where_reported += usize::from(agent.has_ended());
            agent.kill();
            deaths += 1;
            assert_sound(place);
            assert_eq!(kernel::processes("steady"), [steady], "{place}");
        }
        let _ = writeln!(
            std::io::stdout().lock(),
            "{deaths} deaths, {where_reported} at a failpoint, {step} disturbances"
        );
    }
    agent.start_again();
    assert!(agent.cli(&["start", "asked"]).status.success());
    assert!(agent.cli(&["start", "stubborn"]).status.success());
    for name in ["steady", "asked", "crashed", "stubborn"] {
        agent.wait_for_state(name, WorkloadState::Running);
        wait_for("one process of each", || {
            (kernel::processes(name).len() == 1).then_some(())
        });
    }
    wait_for("two replicas", || {
        let all = agent.workloads().into_iter();
        let pair: Vec<_> = all
            .filter(|one| one.name.workload().as_str() == "pair")
            .collect();
        (pair.len() == 2 && pair.iter().all(|one| one.ready)).then_some(())
    });
    std::net::TcpStream::connect(("127.0.0.1", PORT)).unwrap();
    let view = agent.workload("steady");
    assert_eq!((pid_of(&view), view.restarts), (steady, 0));
    assert!(
        where_reported * 10 >= deaths * 8,
        "{where_reported} of {deaths}"
    );
}
