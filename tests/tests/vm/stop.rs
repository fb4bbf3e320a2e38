//! Stopping: no process and no cgroup is left, whatever the workload does.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Exit, RestartPlan};
use enforcer_model::oom::Incident;
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, slowness, wait_for};

const SHORT: &str = "stop: { grace: 200ms }";

/// Stops by the command line; returns the processes that were there before.
fn stop(agent: &Agent, name: &str) -> Vec<u32> {
    let before = kernel::processes(name);
    let stopped = agent.cli(&["stop", name]);
    assert!(
        stopped.status.success(),
        "{}",
        String::from_utf8_lossy(&stopped.stderr)
    );
    before
}

fn assert_nothing_left(name: &str, processes: &[u32]) {
    assert!(!processes.is_empty());
    wait_for("the cgroup to go", || {
        (!kernel::cgroup(name).exists()).then_some(())
    });
    for pid in processes {
        // Init collects them in its own time; none of them may still run.
        let state = kernel::status(*pid, "State");
        assert!(
            state
                .as_ref()
                .is_none_or(|state| state.starts_with(['Z', 'X'])),
            "{pid} is {state:?}"
        );
    }
}

#[test]
fn a_program_that_ends_on_its_signal_gets_no_kill() {
    let agent = Agent::start(&manifest(&workload("calm", "rest", "")));
    agent.wait_for_state("calm", WorkloadState::Running);
    let before = stop(&agent, "calm");
    assert_nothing_left("calm", &before);
    let exit = agent.wait_for_event::<Exit>("calm");
    assert_eq!(exit.details.signal, Some(libc::SIGTERM));
    assert_eq!(agent.workload("calm").state, WorkloadState::Stopped);
    assert_eq!(agent.workload("calm").restarts, 0);
    assert!(agent.events::<RestartPlan>("calm").is_empty());
}

#[test]
fn who_ignores_the_signal_is_killed_after_the_grace() {
    let agent = Agent::start(&manifest(&workload("stubborn", "ignore-term", SHORT)));
    wait_for("it to ignore SIGTERM", || {
        agent.output("stubborn").contains("ready").then_some(())
    });
    let before = stop(&agent, "stubborn");
    assert_nothing_left("stubborn", &before);
    let exit = agent.wait_for_event::<Exit>("stubborn");
    assert_eq!(exit.details.signal, Some(libc::SIGKILL));
    assert!(!exit.details.oom_killed);
}

#[test]
fn daemons_do_not_escape() {
    let agent = Agent::start(&manifest(&workload("daemon", "double-fork", SHORT)));
    wait_for("the daemon", || {
        (kernel::processes("daemon").len() == 2).then_some(())
    });
    let before = stop(&agent, "daemon");
    assert_nothing_left("daemon", &before);
}

#[test]
fn a_fork_bomb_is_contained_and_killed_whole() {
    let more = "cgroup: { pids.max: 64, memory.max: 64M, cpu.max: 50% }\nstop: { grace: 100ms }";
    let agent = Agent::start(&manifest(&workload("bomb", "fork-bomb", more)));
    wait_for("the bomb to meet its limit", || {
        (kernel::field("bomb", "pids.events", "max")? > 0).then_some(())
    });
    // A fork that is refused is counted until it has been.
    wait_for("as many processes as it may have", || {
        (kernel::read("bomb", "pids.current").as_deref() == Some("64")).then_some(())
    });
    let before = stop(&agent, "bomb");
    assert_nothing_left("bomb", &before);
}

#[test]
fn kill_waits_for_no_grace() {
    let agent = Agent::start(&manifest(&workload(
        "stubborn",
        "ignore-term",
        "stop: { grace: 1h }",
    )));
    wait_for("it to ignore SIGTERM", || {
        agent.output("stubborn").contains("ready").then_some(())
    });
    let before = kernel::processes("stubborn");
    assert!(agent.cli(&["kill", "stubborn"]).status.success());
    assert_nothing_left("stubborn", &before);
}

#[test]
fn ctrl_c_leaves_the_host_as_it_was() {
    let hog = workload("hog", "hog", "cgroup: { memory.max: 8M }");
    let mut agent = Agent::start(&manifest(&(workload("calm", "rest", "") + &hog)));
    agent.wait_for_state("calm", WorkloadState::Running);
    agent.wait_for_events::<Incident>("hog", 2);
    let processes = kernel::processes("calm");
    assert!(agent.interrupt());
    assert!(!enforcer_tests::slot::root().exists());
    for pid in processes {
        assert_eq!(
            kernel::status(pid, "State").filter(|state| !state.starts_with(['Z', 'X'])),
            None
        );
    }
}

#[test]
fn what_is_left_beside_an_exited_main_process_is_killed_first() {
    // The main process goes by itself; its child was asked to stay.
    let agent = Agent::start(&manifest(&workload(
        "brief",
        "brief-with-child",
        "recovery: { restart: never }",
    )));
    agent.wait_for_state("brief", WorkloadState::Stopped);
    // Its cgroup goes right after the report, and only goes once it is empty.
    wait_for("the cgroup to go", || {
        (!kernel::cgroup("brief").exists()).then_some(())
    });
}

#[test]
fn a_real_time_signal_by_its_name_ends_a_program() {
    let more = "stop: { signal: SIGRTMIN+3 }";
    let agent = Agent::start(&manifest(&workload("calm", "rest", more)));
    agent.wait_for_state("calm", WorkloadState::Running);
    stop(&agent, "calm");
    let exit = agent.wait_for_event::<Exit>("calm");
    assert_eq!(exit.details.signal, Some(37));
    let reported = agent.cli(&["why", "calm"]);
    let reported = String::from_utf8_lossy(&reported.stdout).into_owned();
    assert!(reported.contains("SIGRTMIN+3"), "{reported}");
}

#[test]
fn the_signal_goes_to_the_main_process_or_to_all() {
    let file = |name: &str| format!("/tmp/stopped-{name}");
    // The one has to be killed when its grace is over, and the other ends by itself.
    let short = (5.0 * slowness()).ceil();
    let of = |name: &str, scope: &str, grace: f64| {
        let mode = format!("tree-on-term {}", file(name));
        workload(
            name,
            &mode,
            &format!("stop: {{ scope: {scope}, grace: {grace}s }}"),
        )
    };
    let agent = Agent::start(&manifest(
        &(of("one", "main", short) + &of("all", "group", 60.0 * short)),
    ));
    for (name, expected) in [("one", vec!["main"]), ("all", vec!["child", "main"])] {
        wait_for("its child", || {
            agent.output(name).contains("ready").then_some(())
        });
        let before = stop(&agent, name);
        assert_nothing_left(name, &before);
        let said = std::fs::read_to_string(file(name)).unwrap();
        let mut said: Vec<&str> = said.lines().collect();
        said.sort_unstable();
        assert_eq!(said, expected, "{name}");
    }
}
