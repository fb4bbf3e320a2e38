//! Daemons that fork: another process becomes the main one.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Adopted, Exit, MainChange, RestartPlan};
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// Waits until the workload's main process is one that it has named.
fn forked(agent: &Agent, count: usize) -> u32 {
    let changes = agent.wait_for_events::<MainChange>("daemon", count);
    let pid = changes[count - 1].details.pid;
    wait_for("its new main process", || {
        (agent.workload("daemon").pid == Some(pid)).then_some(())
    });
    pid
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

#[test]
fn a_daemon_that_forks_is_followed() {
    let more = "main_pid_file: /tmp/daemon.pid
        recovery: { backoff: off }";
    let text = manifest(&workload("daemon", "fork-away /tmp/daemon.pid", more));
    let mut agent = Agent::start_daemon(&text);
    let pid = forked(&agent, 1);
    assert_eq!(kernel::processes("daemon"), [pid]);
    assert!(agent.events::<Exit>("daemon").is_empty());
    // The next agent knows it, though it has never executed a program.
    agent.kill();
    agent.start_again();
    let adopted = agent.wait_for_event::<Adopted>("daemon");
    assert_eq!(adopted.details.pid, pid);
    assert_eq!(
        agent.wait_for_state("daemon", WorkloadState::Running).pid,
        Some(pid)
    );
    // Its end is that of the workload.
    send(pid, Signal::SIGKILL);
    let exit = agent.wait_for_event::<Exit>("daemon").details;
    assert!(
        exit.signal.is_none_or(|signal| signal == libc::SIGKILL),
        "{exit:?}"
    );
    agent.wait_for_event::<RestartPlan>("daemon");
    let next = forked(&agent, 2);
    assert!(next != pid && kernel::processes("daemon") == [next]);
    assert!(agent.cli(&["stop", "daemon"]).status.success());
    wait_for("no cgroup", || {
        (!kernel::cgroup("daemon").exists()).then_some(())
    });
}

#[test]
fn a_daemon_that_forks_without_an_agent_is_found() {
    let more = "main_pid_file: /tmp/daemon.pid\nstart_timeout: 300s";
    fs::write("/tmp/daemon.pid", "1\n").unwrap();
    fs::set_permissions("/tmp/daemon.pid", fs::Permissions::from_mode(0o666)).unwrap();
    let text = manifest(&workload(
        "daemon",
        "fork-when-told /tmp/daemon.pid /tmp/go",
        more,
    ));
    let mut agent = Agent::start_daemon(&text);
    let first = pid_of(&agent.wait_for_state("daemon", WorkloadState::Running));
    agent.kill();
    fs::write("/tmp/go", "").unwrap();
    let named = wait_for("the fork", || {
        let text = fs::read_to_string("/tmp/daemon.pid").ok()?;
        text.trim().parse::<u32>().ok().filter(|pid| *pid != 1)
    });
    wait_for("the first process to end", || {
        (kernel::processes("daemon") == [named]).then_some(())
    });
    agent.start_again();
    let adopted = agent.wait_for_event::<Adopted>("daemon");
    assert_eq!(adopted.details.pid, named);
    assert_ne!(named, first);
    assert!(agent.events::<Exit>("daemon").is_empty());
}

/// A file may name anyone. Only a process of the workload is believed.
#[test]
fn a_stranger_is_no_main_process() {
    fs::write("/tmp/daemon.pid", format!("{}\n", std::process::id())).unwrap();
    let more = "main_pid_file: /tmp/daemon.pid
        start_timeout: 2s
        recovery: { restart: never }";
    let agent = Agent::start(&manifest(&workload("daemon", "brief-with-child 1", more)));
    let exit = agent.wait_for_event::<Exit>("daemon").details;
    assert_eq!(exit.code, Some(0));
    assert!(agent.events::<MainChange>("daemon").is_empty());
    wait_for("what it left to be gone", || {
        (!kernel::cgroup("daemon").exists()).then_some(())
    });
}

#[test]
fn a_program_names_its_main_process_by_a_message() {
    let more = "probes: { startup: { notify: {}, period: 1s, failure_threshold: 1000 } }";
    let agent = Agent::start(&manifest(&workload("daemon", "name-child 3000", more)));
    let pid = forked(&agent, 1);
    wait_for("the first process to end", || {
        (kernel::processes("daemon") == [pid]).then_some(())
    });
    wait_for("it to be ready", || {
        agent.workload("daemon").ready.then_some(())
    });
    assert!(agent.events::<Exit>("daemon").is_empty());
}
