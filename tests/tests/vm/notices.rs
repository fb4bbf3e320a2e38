//! These tests send notifications, sd_notify(3), and read how the agent answers them.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Exit, HealthChange, ReadyChange, RestartPlan};
use enforcer_model::health::Health;
use enforcer_model::ids::Cause;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, slot, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

const STARTUP: &str = "startup: { notify: {}, period: 1s, failure_threshold: 1000 }";
const BOTH: &str =
    "startup: { notify: {}, period: 1s, failure_threshold: 1000 }, readiness: { notify: {} }";

fn heard(name: &str, mode: &str, probes: &str) -> String {
    workload(name, mode, &format!("probes: {{ {probes} }}"))
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// Waits until the program takes signals, and returns its process.
fn listening(agent: &Agent, name: &str) -> u32 {
    let pid = pid_of(&agent.wait_for_state(name, WorkloadState::Running));
    wait_for("it to take signals", || {
        agent.output(name).contains("ready").then_some(())
    });
    pid
}

fn wait_for_ready(agent: &Agent, name: &str, ready: bool) {
    wait_for(&format!("ready to be {ready}"), || {
        (agent.workload(name).ready == ready).then_some(())
    });
}

fn holder() -> Option<u32> {
    let listed = fs::read_to_string(slot::root().join("holder/cgroup.procs")).ok()?;
    listed.trim().parse().ok()
}

#[test]
fn a_workload_is_ready_when_it_says_so() {
    let web = heard("web", "notify-on-signals", BOTH);
    let child = heard("child", "notify-from-child READY=1", STARTUP);
    let agent = Agent::start(&manifest(&format!("{web}{child}")));
    let pid = listening(&agent, "web");
    let path = agent.folder().join("run/notify/web");
    let socket = fs::metadata(&path).unwrap();
    let own = kernel::status(pid, "Uid").unwrap();
    assert_eq!(
        own.split_whitespace().next().unwrap(),
        socket.uid().to_string()
    );
    assert_eq!(socket.mode() & 0o777, 0o600);
    assert!(!agent.workload("web").ready);
    send(pid, Signal::SIGUSR1);
    wait_for_ready(&agent, "web", true);
    let view = agent.workload("web");
    assert_eq!(view.status_text.as_deref(), Some("serving"));
    let shown = agent.cli(&["ps"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("running: serving"), "{shown}");
    send(pid, Signal::SIGHUP);
    wait_for_ready(&agent, "web", false);
    send(pid, Signal::SIGUSR1);
    wait_for_ready(&agent, "web", true);
    // The process that said it is gone by then, and is known by its user.
    wait_for_ready(&agent, "child", true);
    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("its socket to go", || (!path.exists()).then_some(()));
}

#[test]
fn no_stranger_speaks_for_a_workload() {
    let web = heard("web", "notify-on-signals", BOTH);
    let agent = Agent::start(&manifest(&web));
    let path = agent.folder().join("run/notify/web").display().to_string();
    let pid = listening(&agent, "web");
    // Another workload of the same user, which is still there; and root.
    let stranger = workload("other", &format!("notify-to {path} READY=1 rest"), "");
    agent.write_manifest(&manifest(&format!("{web}{stranger}")));
    assert!(agent.cli(&["apply"]).status.success());
    wait_for("the stranger's message", || {
        agent.output("other").contains("Ok(7)").then_some(())
    });
    let sent = Command::new("/bin/fixture")
        .args(["notify-to", &path, "READY=1"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&sent.stdout), "Ok(7)\n");
    // The holder reads in order: with the answer to this, everything before it was heard.
    send(pid, Signal::SIGHUP);
    wait_for("its own message", || {
        let health = agent.events::<HealthChange>("web");
        let reloads = |event: &_| -> bool {
            let event: &enforcer_tests::agent::Event<HealthChange> = event;
            event.details.why.contains("it reloads")
        };
        health.iter().any(reloads).then_some(())
    });
    assert!(agent.events::<ReadyChange>("web").is_empty());
}

#[test]
fn a_workload_that_is_silent_for_too_long_is_restarted() {
    let web = heard(
        "web",
        "notify-on-signals",
        "liveness: { notify: { within: 2s } }",
    );
    let agent = Agent::start(&manifest(&web));
    let before = listening(&agent, "web");
    let said = agent.output("web");
    assert!(said.contains("Ok(\"2000000\")"), "{said}");
    let restart = agent.wait_for_event::<RestartPlan>("web");
    assert_eq!(restart.reason, Some(Cause::Liveness));
    let health = agent.events::<HealthChange>("web");
    let mut whys = health.iter().map(|event| event.details.why.as_str());
    assert!(whys.any(|why| why.contains("no WATCHDOG=1 within 2s")));
    wait_for("another process", || {
        agent.workload("web").pid.filter(|pid| *pid != before)
    });
}

#[test]
fn nothing_that_is_said_between_two_agents_is_lost() {
    let mut agent = Agent::start_daemon(&manifest(&heard("web", "notify-on-signals", BOTH)));
    let pid = listening(&agent, "web");
    assert!(!agent.workload("web").ready);
    agent.kill();
    send(pid, Signal::SIGUSR1);
    agent.start_again();
    wait_for_ready(&agent, "web", true);
    let view = agent.workload("web");
    assert_eq!((pid_of(&view), view.restarts), (pid, 0));
    assert_eq!(view.status_text.as_deref(), Some("serving"));
    // A holder that has died is replaced, and the next one listens at the same place.
    let before = holder().unwrap();
    send(before, Signal::SIGKILL);
    wait_for("another holder", || holder().filter(|pid| *pid != before));
    wait_for("it to be heard again", || {
        send(pid, Signal::SIGHUP);
        (!agent.workload("web").ready).then_some(())
    });
    assert!(agent.events::<Exit>("web").is_empty());
}

/// An agent that has taken a program over starts it again with all that it had.
#[test]
fn the_next_instance_speaks_to_the_next_agent() {
    let probes = format!(
        "{STARTUP}, liveness: {{ exec: {{ command: [/bin/fixture, exists, /] }}, period: 500ms, timeout: 20s }}"
    );
    let mut agent = Agent::start_daemon(&manifest(&heard("web", "notify-on-signals", &probes)));
    let pid = listening(&agent, "web");
    send(pid, Signal::SIGUSR1);
    wait_for_ready(&agent, "web", true);
    agent.kill();
    agent.start_again();
    wait_for("a check by the next agent", || {
        let probes = agent.inspect("web").probes;
        probes
            .into_iter()
            .find_map(|probe| probe.last.filter(|_| !probe.at_rest))
    });
    send(pid, Signal::SIGKILL);
    let next = wait_for("another process", || {
        agent.workload("web").pid.filter(|next| *next != pid)
    });
    wait_for("it to take signals", || {
        (agent.output("web").matches("ready").count() == 2).then_some(())
    });
    send(next, Signal::SIGUSR1);
    wait_for_ready(&agent, "web", true);
}

/// A program in C that uses no library for it, in a root of its own and without one.
#[test]
fn a_c_program_says_that_it_is_ready_and_alive() {
    let root = "/tmp/root-of-notifier";
    for folder in ["proc", "dev", "run", "usr/bin"] {
        fs::create_dir_all(format!("{root}/{folder}")).unwrap();
    }
    fs::copy("/usr/bin/notifier", format!("{root}/usr/bin/notifier")).unwrap();
    let more = "probes: { startup: { notify: {}, failure_threshold: 1000 }, liveness: { notify: { within: 60s } } }";
    let plain = workload("plain", "rest", more);
    let rooted = workload("rooted", "rest", &format!("root: {root}\n{more}"))
        .replace("user: web", "user: \"1000:1000\"");
    let text = (plain + &rooted).replace("/bin/fixture", "/usr/bin/notifier");
    let agent = Agent::start(&manifest(&text));
    for name in ["plain", "rooted"] {
        wait_for("it to be ready and healthy", || {
            let view = agent.workload(name);
            let said = view.status_text.as_deref() == Some("of C");
            (said && view.ready && view.health == Health::Healthy).then_some(())
        });
    }
}
