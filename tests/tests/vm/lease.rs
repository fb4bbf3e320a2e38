//! Workloads that run only until a deadline of the boot clock.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::wait_for;
use nix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::time::Duration;

fn boot_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// Moves the deadline to so many seconds from now on. Returns the deadline.
fn set(agent: &Agent, seconds: u64) -> Duration {
    let until = boot_clock() + Duration::from_secs(seconds);
    let body = format!("{{\"boot_seconds\": {}}}", until.as_secs_f64());
    let answer = agent.post("/v1/workloads/db/deadline", &body);
    assert_eq!(
        answer.as_ref().map(|(code, _)| *code),
        Some(200),
        "{answer:?}"
    );
    until
}

/// Waits until a process is gone. Returns the time of the boot clock.
fn gone(pid: u32) -> Duration {
    let folder = format!("/proc/{pid}");
    wait_for("the process to go", || {
        (!Path::new(&folder).exists()).then(boot_clock)
    })
}

fn leased() -> String {
    let own = "leased: true\nstop: { grace: 1s }";
    manifest(&(workload("db", "rest", own) + &workload("web", "rest", "")))
}

#[test]
fn a_leased_workload_runs_until_its_deadline() {
    let agent = Agent::start(&leased());
    agent.wait_for_state("web", WorkloadState::Running);
    let rests = agent.wait_for_state("db", WorkloadState::Stopped);
    assert!(rests.reason.contains("deadline"), "{rests:?}");
    assert_eq!(agent.inspect("db").deadline_in_seconds, Some(0.0));

    set(&agent, 600);
    agent.wait_for_state("db", WorkloadState::Running);
    let left = agent.inspect("db").deadline_in_seconds.unwrap();
    assert!((1.0..=600.0).contains(&left), "{left}");
    // It may be moved nearer as well.
    let until = set(&agent, 3);
    let view = agent.workload("db");
    assert!(gone(pid_of(&view)) >= until);
    let rests = agent.wait_for_state("db", WorkloadState::Stopped);
    assert!(rests.reason.contains("deadline"), "{rests:?}");
    set(&agent, 600);
    agent.wait_for_state("db", WorkloadState::Running);

    for (name, body, code) in [
        ("web", "{\"boot_seconds\": 1}", 409),
        ("db", "{\"boot_seconds\": 1e9}", 400),
        ("db", "{\"boot_seconds\": -1}", 400),
        ("db", "{}", 400),
        ("none", "{\"boot_seconds\": 1}", 404),
    ] {
        let answer = agent.post(&format!("/v1/workloads/{name}/deadline"), body);
        assert_eq!(
            answer.as_ref().map(|(code, _)| *code),
            Some(code),
            "{answer:?}"
        );
    }
    agent.wait_for_state("db", WorkloadState::Running);
}

#[test]
fn the_holder_kills_what_no_agent_stops() {
    let mut agent = Agent::start(&leased());
    agent.wait_for_state("db", WorkloadState::Stopped);
    let until = set(&agent, 10);
    let db = pid_of(&agent.wait_for_state("db", WorkloadState::Running));
    let web = agent.workload("web").pid;
    agent.kill();
    // The next agent moves the deadline, and dies as well.
    agent.start_again();
    assert_eq!(agent.workload("db").pid, Some(db));
    let later = set(&agent, 15);
    assert!(later > until);
    agent.kill();
    assert!(gone(db) >= later);

    agent.start_again();
    agent.wait_for_state("db", WorkloadState::Stopped);
    assert_eq!(agent.workload("web").pid, web);
    set(&agent, 600);
    agent.wait_for_state("db", WorkloadState::Running);
}
