//! Jobs, the commands at a start and a stop, and reloads.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Degraded, FileChange, Reloaded, RestartPlan, Start};
use enforcer_model::ids::Cause;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for};
use std::fs;

const FILE: &str = "/tmp/said";
/// Fails once, and is not tried again.
const ONCE: &str = "recovery: { restart: never }";

fn said() -> Vec<String> {
    let text = fs::read_to_string(FILE).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn append(word: &str) -> String {
    format!("[/bin/fixture, append, {FILE}, {word}]")
}

#[test]
fn commands_run_around_the_program_in_their_order() {
    let more = format!(
        "before_start: [{}, {}]
        after_start: [{}]
        before_stop: [{}]
        stop: {{ grace: 20s }}",
        append("before-1"),
        append("before-2"),
        append("after"),
        append("drained"),
    );
    let mode = format!("append-on-term {FILE}");
    let agent = Agent::start(&manifest(&workload("web", &mode, &more)));
    agent.wait_for_state("web", WorkloadState::Running);
    wait_for("it to take the signal", || {
        (agent.output("web").contains("ready") && said().len() == 3).then_some(())
    });
    assert_eq!(said(), ["before-1", "before-2", "after"]);
    assert!(agent.cli(&["stop", "web"]).status.success());
    assert_eq!(said()[3..], ["drained", "term"]);
    wait_for("nothing to be left of its commands", || {
        (!kernel::probes().join("web").exists()).then_some(())
    });
}

#[test]
fn a_command_before_the_start_that_fails_is_a_failed_start_with_its_words() {
    let more = format!(
        "before_start: [[/bin/fixture, complain, /tmp/complaints], {}]
        {ONCE}",
        append("never")
    );
    let agent = Agent::start(&manifest(&workload("web", "rest", &more)));
    let start = agent.wait_for_event::<Start>("web");
    let error = start.details.error().unwrap();
    assert_eq!(error.stage, "run the commands of before_start");
    assert!(
        error
            .error
            .starts_with("/bin/fixture: exited with code 3: complaint by uid "),
        "{}",
        error.error
    );
    assert!(
        !error.error.ends_with("uid 0"),
        "it runs as the workload's user"
    );
    agent.wait_for_state("web", WorkloadState::Failed);
    assert!(said().is_empty());
}

#[test]
fn a_stop_ends_a_command_before_the_start() {
    let more = "before_start: [[/bin/fixture, ignore-term]]
        stop: { grace: 200ms }";
    let agent = Agent::start(&manifest(&workload("web", "rest", more)));
    let place = kernel::probes().join("web/before_start");
    let populated = || fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    wait_for("the command", || (!populated().is_empty()).then_some(()));
    assert!(agent.cli(&["stop", "web"]).status.success());
    assert_eq!(agent.workload("web").state, WorkloadState::Stopped);
    wait_for("its end", || populated().is_empty().then_some(()));
    assert!(
        agent
            .events::<Start>("web")
            .iter()
            .all(|start| start.details.pid().is_none())
    );
}

#[test]
fn a_command_after_the_start_that_fails_is_reported() {
    let more = "after_start: [[/bin/fixture, crash, '4']]";
    let agent = Agent::start(&manifest(&workload("web", "rest", more)));
    let degraded = agent.wait_for_event::<Degraded>("web").details;
    assert_eq!(degraded.what, "after_start");
    assert_eq!(degraded.why, "exited with code 4");
    agent.wait_for_state("web", WorkloadState::Running);
}

#[test]
fn a_job_runs_once_and_then_what_needs_it() {
    let job = workload("job", &format!("append {FILE} migrated"), ONCE);
    let web = workload(
        "web",
        &format!("append-on-term {FILE}"),
        "needs: { job: completed }",
    );
    let mut agent = Agent::start_daemon(&manifest(&format!("{job}{web}")));
    agent.wait_for_state("web", WorkloadState::Running);
    let job = agent.workload("job");
    assert_eq!(job.state, WorkloadState::Stopped);
    let pid = pid_of(&agent.workload("web"));
    // The next agent does not run it again, ...
    agent.kill();
    agent.start_again();
    agent.wait_for_state("job", WorkloadState::Stopped);
    assert_eq!(
        pid_of(&agent.wait_for_state("web", WorkloadState::Running)),
        pid
    );
    assert_eq!(said(), ["migrated"]);
    // ... and another job runs.
    let other = workload("job", &format!("append {FILE} again"), ONCE);
    let web = workload(
        "web",
        &format!("append-on-term {FILE}"),
        "needs: { job: completed }",
    );
    agent.write_manifest(&manifest(&format!("{other}{web}")));
    wait_for("the other job", || {
        (said() == ["migrated", "again"]).then_some(())
    });
    assert_eq!(pid_of(&agent.workload("web")), pid);
}

#[test]
fn a_job_that_failed_holds_back_what_needs_it() {
    let job = workload("job", "crash 3", ONCE);
    let web = workload("web", "rest", "needs: { job: completed }");
    let agent = Agent::start(&manifest(&format!("{job}{web}")));
    agent.wait_for_state("job", WorkloadState::Failed);
    let view = agent.workload("web");
    assert_eq!(view.state, WorkloadState::Pending);
    assert_eq!(view.reason, "waiting for job to be completed");
}

#[test]
fn a_reload_by_a_signal_keeps_the_process() {
    let more = "reload: { signal: hup }";
    let web = workload("web", &format!("append-on-hangup {FILE}"), more);
    let none = workload("none", "rest", "");
    let agent = Agent::start(&manifest(&format!("{web}{none}")));
    agent.wait_for_state("none", WorkloadState::Running);
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    wait_for("it to take the signal", || {
        agent.output("web").contains("ready").then_some(())
    });
    let answer = agent.cli(&["reload", "web"]);
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        format!("web: reloaded (pid {pid})\n")
    );
    wait_for("the reload", || (said() == ["reloaded"]).then_some(()));
    let event = agent.wait_for_event::<Reloaded>("web");
    assert_eq!(
        (event.reason, event.details.signal.as_deref()),
        (Some(Cause::Manual), Some("SIGHUP"))
    );
    assert_eq!(pid_of(&agent.workload("web")), pid);
    // Without `reload`, and without a process, there is nothing to do.
    let refused = agent.cli(&["reload", "none"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && error.contains("its manifest has no `reload`"),
        "{error}"
    );
    assert!(agent.cli(&["stop", "web"]).status.success());
    let refused = agent.cli(&["reload", "web"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("it is stopped: there is nothing to reload"),
        "{error}"
    );
}

#[test]
fn a_reload_by_a_command_answers_with_its_error() {
    let more = "reload: { run: [/bin/fixture, complain, /tmp/complaints] }";
    let agent = Agent::start(&manifest(&workload("web", "rest", more)));
    agent.wait_for_state("web", WorkloadState::Running);
    let refused = agent.cli(&["reload", "web"]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("exited with code 3: complaint by uid "),
        "{error}"
    );
    let event = agent.wait_for_event::<Reloaded>("web").details;
    assert!(event.error.is_some() && event.signal.is_none());
    assert_eq!(agent.workload("web").state, WorkloadState::Running);
}

#[test]
fn a_changed_file_reloads_or_restarts() {
    let file = "/tmp/conf/web.conf";
    fs::create_dir_all("/tmp/conf").unwrap();
    fs::write(file, "one").unwrap();
    let on = format!("reload_on: [{file}]");
    let able = format!("reload: {{ signal: SIGHUP }}\n{on}");
    let web = workload("web", &format!("append-on-hangup {FILE}"), &able);
    let old = workload("old", "rest", &on);
    let agent = Agent::start(&manifest(&format!("{web}{old}")));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let before = pid_of(&agent.wait_for_state("old", WorkloadState::Running));
    wait_for("it to take the signal", || {
        agent.output("web").contains("ready").then_some(())
    });
    // As an editor does it: a new file in the place of the old one.
    fs::write("/tmp/conf/new", "two, and more").unwrap();
    fs::rename("/tmp/conf/new", file).unwrap();
    wait_for("the reload", || (said() == ["reloaded"]).then_some(()));
    assert_eq!(pid_of(&agent.workload("web")), pid);
    wait_for("the restart", || {
        let view = agent.workload("old");
        (view.state == WorkloadState::Running && view.pid != Some(before)).then_some(())
    });
    for name in ["web", "old"] {
        let event = agent.wait_for_event::<FileChange>(name);
        assert_eq!(
            (event.reason, event.details.path.as_str()),
            (Some(Cause::Config), file)
        );
    }
    let why = agent.cli(&["why", "old"]);
    let why = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(why.contains("/tmp/conf/web.conf has changed"), "{why}");
    let restart = agent.wait_for_event::<RestartPlan>("old");
    assert_eq!(
        (restart.reason, restart.details.attempt),
        (Some(Cause::Config), 0)
    );
}
