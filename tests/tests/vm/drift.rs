//! Another process changes limits, moves processes and removes cgroups. The agent reports both
//! values, writes its own again, and gives up after three times a minute.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Conflict, DriftFound, Exit, Start};
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for, wait_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup/cgroup.procs";

fn start() -> (Agent, String) {
    let limits = "cgroup: { memory.max: 30M, cpu.max: 50%, pids.max: 40 }";
    let agent = Agent::start(&manifest(&workload("web", "rest", limits)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running)).to_string();
    (agent, pid)
}

fn place(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

fn wait_until_home(pid: &str) {
    wait_for("it to be back in its cgroup", || {
        (place(pid).trim() == format!("0::{}", kernel::path("web"))).then_some(())
    });
}

#[test]
fn a_changed_limit_is_reported_repaired_and_then_left_alone() {
    let (agent, _) = start();
    let file = kernel::cgroup("web").join("memory.max");
    let right = kernel::read("web", "memory.max").unwrap();
    for repair in 1..=3 {
        fs::write(&file, "max").unwrap();
        let reported = agent.wait_for_events::<DriftFound>("web", repair);
        let drift = &reported[repair - 1].details.drifts[0];
        assert_eq!(drift.what, "memory.max");
        assert_eq!((&*drift.expected, &*drift.found), (&*right, "max"));
        wait_for("it to be put right", || {
            (kernel::read("web", "memory.max")? == right).then_some(())
        });
    }
    fs::write(&file, "max").unwrap();
    let reported = agent.wait_for_events::<Conflict>("web", 1);
    assert_eq!(reported[0].details.drifts[0].found, "max", "{reported:#?}");
    // A minute later it is tried once more: what counts is what came before.
    let left = kernel::read("web", "memory.max");
    let repaired = agent.events::<DriftFound>("web");
    assert!(left.as_deref() == Some("max") || repaired.len() > 3);
    let before = repaired.iter().filter(|drift| drift.seq < reported[0].seq);
    assert_eq!(before.count(), 3, "{repaired:#?}");
    // A person may put it right at once.
    assert!(
        agent
            .cli(&["throttle", "web", "--cpu", "20%"])
            .status
            .success()
    );
    assert_eq!(kernel::read("web", "memory.max"), Some(right));
}

#[test]
fn what_the_agent_does_itself_is_no_drift() {
    let (agent, _) = start();
    assert!(
        agent
            .cli(&["throttle", "web", "--cpu", "20%"])
            .status
            .success()
    );
    assert!(agent.cli(&["release", "web"]).status.success());
    let other = "cgroup: { memory.max: 25M, cpu.max: 30%, pids.max: 30 }";
    agent.write_manifest(&manifest(&workload("web", "rest", other)));
    assert!(agent.cli(&["apply"]).status.success());
    assert!(agent.cli(&["restart", "web"]).status.success());
    agent.wait_for_events::<Start>("web", 2);
    assert_eq!(agent.events::<DriftFound>("web").len(), 0);
    assert_eq!(agent.events::<Conflict>("web").len(), 0);
}

#[test]
fn a_process_that_was_moved_out_is_brought_home() {
    let (agent, pid) = start();
    fs::write(ROOT, &pid).unwrap();
    let reported = agent.wait_for_events::<DriftFound>("web", 1);
    let drift = &reported[0].details.drifts[0];
    assert_eq!(drift.what, "cgroup", "{drift:?}");
    assert_eq!(drift.found, "/", "{drift:?}");
    assert_eq!(drift.expected, kernel::path("web"), "{drift:?}");
    wait_until_home(&pid);
    assert_eq!(pid_of(&agent.workload("web")).to_string(), pid);
    assert_eq!(agent.events::<Exit>("web").len(), 0);
}

/// eBPF reports it.
#[test]
fn a_main_process_that_leaves_others_behind_is_brought_home() {
    leaves_others_behind(&[], Duration::from_secs(20));
}

/// Nothing reports it: it is found when its turn has come.
#[test]
fn without_ebpf_a_main_process_that_leaves_others_behind_is_brought_home_later() {
    leaves_others_behind(&["--ebpf", "off"], Duration::from_secs(180));
}

fn leaves_others_behind(arguments: &[&str], limit: Duration) {
    let agent = Agent::start_with(&manifest(&workload("web", "herd 1", "")), arguments);
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running)).to_string();
    let members = || kernel::read("web", "cgroup.procs").unwrap_or_default();
    wait_for("its child", || {
        (members().lines().count() > 1).then_some(())
    });
    fs::write(ROOT, &pid).unwrap();
    wait_within(limit, "it to be back", || {
        (place(&pid).trim() == format!("0::{}", kernel::path("web"))).then_some(())
    });
    assert_eq!(agent.events::<DriftFound>("web").len(), 1);
    assert_eq!(agent.events::<Exit>("web").len(), 0);
}

#[test]
fn a_cgroup_that_was_taken_away_is_made_again_with_its_limits() {
    let (agent, pid) = start();
    let held = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    let before = ["memory.max", "cpu.max", "pids.max"].map(|file| kernel::read("web", file));
    kill(held, Signal::SIGSTOP).unwrap();
    fs::write(ROOT, &pid).unwrap();
    fs::remove_dir(kernel::cgroup("web")).unwrap();
    kill(held, Signal::SIGCONT).unwrap();
    agent.wait_for_events::<DriftFound>("web", 1);
    wait_until_home(&pid);
    wait_for("its limits to be there", || {
        let now = ["memory.max", "cpu.max", "pids.max"].map(|file| kernel::read("web", file));
        (now == before).then_some(())
    });
    // A change between a write and the agent's check of it would look like a refusal of the kernel, so
    // the answer of `apply` is waited for, which comes when no limit is on its way.
    let applied = agent.cli(&["apply"]);
    assert!(applied.status.success(), "{applied:?}");
    // It is watched on as if nothing had been.
    fs::write(kernel::cgroup("web").join("pids.max"), "max").unwrap();
    agent.wait_for_events::<DriftFound>("web", 2);
    wait_for("it to be put right", || {
        (kernel::read("web", "pids.max")? == "40").then_some(())
    });
    assert!(agent.cli(&["restart", "web"]).status.success());
    assert_eq!(agent.workload("web").state, WorkloadState::Running);
}

#[test]
fn a_change_while_no_agent_ran_is_reported_by_the_next() {
    let (mut agent, pid) = start();
    agent.kill();
    fs::write(kernel::cgroup("web").join("memory.max"), "max").unwrap();
    agent.start_again();
    let reported = agent.wait_for_events::<DriftFound>("web", 1);
    assert_eq!(reported[0].details.drifts[0].found, "max", "{reported:#?}");
    assert_ne!(kernel::read("web", "memory.max").as_deref(), Some("max"));
    assert_eq!(pid_of(&agent.workload("web")).to_string(), pid);
}
