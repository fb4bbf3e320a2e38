//! Changing what runs.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::RestartPlan;
use enforcer_model::ids::Cause;
use enforcer_model::oom::Incident;
use enforcer_model::views::WorkloadView;
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_for};

fn with(limits: &str) -> String {
    manifest(&workload(
        "web",
        "hog 20",
        &format!("cgroup: {{ {limits} }}"),
    ))
}

fn filled(agent: &Agent) -> WorkloadView {
    let view = agent.wait_for_state("web", WorkloadState::Running);
    wait_for("web to fill its memory", || {
        let used: u64 = kernel::read("web", "memory.current")?.parse().ok()?;
        (used > 20 << 20).then_some(())
    });
    view
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn limits_change_while_it_runs() {
    let agent = Agent::start(&with("memory.max: 64M, cpu.max: 50%, cpu.max.burst: 40ms"));
    let before = filled(&agent);
    agent.write_manifest(&with(
        "memory.max: 32M, cpu.weight: 10, pids.max: 7, cpu.max: 20%, cpu.max.burst: 10ms",
    ));
    let applied = agent.cli(&["apply"]);
    assert!(applied.status.success(), "{}", stderr(&applied));
    // It answers when the kernel has them.
    for (file, value) in [
        ("pids.max", "7"),
        ("memory.max", "33554432"),
        ("cpu.weight", "10"),
        ("cpu.max", "20000 100000"),
        ("cpu.max.burst", "10000"),
    ] {
        assert_eq!(kernel::read("web", file).as_deref(), Some(value), "{file}");
    }
    // What is left out goes back to the default.
    agent.write_manifest(&with("memory.max: 32M"));
    assert!(agent.cli(&["apply"]).status.success());
    assert_eq!(
        kernel::read("web", "cpu.max").as_deref(),
        Some("max 100000")
    );
    let after = agent.workload("web");
    assert_eq!((before.pid, after.restarts), (after.pid, 0));
    // Applied twice is applied once.
    let again = agent.cli(&["apply"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "nothing to do\n");
}

#[test]
fn limits_that_the_kernel_refuses_fail_the_apply() {
    let agent = Agent::start(&with("cpuset.cpus: 0"));
    let before = filled(&agent);
    // No guest has that many CPUs.
    agent.write_manifest(&with("cpuset.cpus: 0-4095, pids.max: 9"));
    let refused = agent.cli(&["apply"]);
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(
        text.contains("web: the kernel refused the limits: ") && text.contains("cpuset.cpus"),
        "{text}"
    );
    let again = agent.cli(&["apply"]);
    assert_eq!(again.status.code(), Some(1), "it is tried again");
    agent.write_manifest(&with("cpuset.cpus: 0, pids.max: 9"));
    let applied = agent.cli(&["apply"]);
    assert!(applied.status.success(), "{}", stderr(&applied));
    assert_eq!(kernel::read("web", "pids.max").as_deref(), Some("9"));
    assert_eq!(agent.workload("web").pid, before.pid);
}

#[test]
fn shrinking_below_what_is_in_use_needs_force() {
    let agent = Agent::start(&with("memory.max: 64M"));
    filled(&agent);
    agent.write_manifest(&with("memory.max: 10M"));
    let refused = agent.cli(&["apply"]);
    assert_eq!(refused.status.code(), Some(1));
    let reported = stderr(&refused);
    // Twenty, and what the kernel charges in batches on top.
    let in_use = reported.split_once("memory.max 10M is below the ");
    let in_use = in_use.and_then(|(_, rest)| rest.split_once('M')?.0.parse::<f64>().ok());
    assert!(
        in_use.is_some_and(|used| (20.0..25.0).contains(&used)) && reported.contains("--force"),
        "{reported}"
    );
    assert_eq!(
        kernel::read("web", "memory.max").as_deref(),
        Some("67108864")
    );
    assert!(agent.cli(&["apply", "--force"]).status.success());
    // Without swap there is nowhere to go: the kernel kills, and that is reported.
    agent.wait_for_events::<Incident>("web", 1);
}

#[test]
fn a_bad_manifest_changes_nothing() {
    let agent = Agent::start(&with("memory.max: 64M"));
    let before = filled(&agent);
    agent.write_manifest(&with("memroy.max: 64M"));
    let refused = agent.cli(&["apply"]);
    assert_eq!(refused.status.code(), Some(1));
    let reported = stderr(&refused);
    assert!(
        reported.contains("unknown key `memroy.max`")
            && reported.contains("did you mean `memory.max`?"),
        "{reported}"
    );
    assert_eq!(agent.workload("web").pid, before.pid);
}

#[test]
fn a_changed_command_restarts_and_costs_nothing() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let before = agent.wait_for_state("web", WorkloadState::Running);
    agent.write_manifest(&manifest(&workload("web", "rest again", "")));
    let plan = agent.cli(&[
        "plan",
        "-f",
        agent.folder().join("manifest.yaml").to_str().unwrap(),
    ]);
    let shown = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(
        shown.contains("~ web: command /bin/fixture rest → /bin/fixture rest again (restart)"),
        "{shown}"
    );
    assert!(agent.cli(&["apply"]).status.success());
    wait_for("another process", || {
        let view = agent.workload("web");
        (view.state == WorkloadState::Running && view.pid != before.pid).then_some(())
    });
    assert_eq!(agent.workload("web").restarts, 0);
    assert_eq!(
        agent.events::<RestartPlan>("web")[0].reason,
        Some(Cause::Config)
    );
}

#[test]
fn what_is_named_no_more_runs_on_until_it_is_pruned() {
    let two = workload("one", "rest", "") + &workload("two", "rest", "");
    let agent = Agent::start(&manifest(&two));
    agent.wait_for_state("two", WorkloadState::Running);
    agent.write_manifest(&manifest(&workload("one", "rest", "")));
    assert!(agent.cli(&["apply"]).status.success());
    let two = agent.inspect("two");
    assert_eq!(
        (two.workload.state, two.managed),
        (WorkloadState::Running, false)
    );
    assert!(agent.cli(&["apply", "--prune"]).status.success());
    wait_for("two to go", || {
        (!kernel::cgroup("two").exists() && agent.find("two").is_none()).then_some(())
    });
    assert_eq!(agent.workload("one").state, WorkloadState::Running);
}

#[test]
fn a_file_is_installed_before_it_is_applied() {
    let agent = Agent::start(&manifest(&workload("one", "rest", "")));
    let other = agent.folder().join("other.yaml");
    std::fs::write(
        &other,
        manifest(&(workload("one", "rest", "") + &workload("two", "rest", ""))),
    )
    .unwrap();
    assert!(
        agent
            .cli(&["apply", "-f", other.to_str().unwrap()])
            .status
            .success()
    );
    agent.wait_for_state("two", WorkloadState::Running);
    assert_eq!(
        std::fs::read(agent.folder().join("manifest.yaml")).unwrap(),
        std::fs::read(other).unwrap()
    );
}
