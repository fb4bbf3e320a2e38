//! Jobs, the commands at a start and a stop, and reloads.

use super::probes::{hook_ended, remedied};
use super::*;
use crate::event::Hook;
use crate::spec::{Need, Reload, RestartPolicy};
use crate::state::WorkloadState;

fn command(path: &str) -> Vec<Vec<String>> {
    vec![vec![path.to_owned()]]
}

fn hooked() -> WorkloadSpec {
    WorkloadSpec {
        before_start: command("/prepare"),
        after_start: command("/announce"),
        before_stop: command("/drain"),
        ..spec()
    }
}

fn failure() -> StartError {
    StartError {
        stage: "run the commands of before_start".to_owned(),
        errno: None,
        error: "exited with code 1".to_owned(),
    }
}

#[test]
fn commands_run_before_and_after_a_start_and_before_a_stop() {
    check(
        hooked(),
        vec![
            (1, remedied(1, None)),
            (2, started(1)),
            (
                3,
                hook_ended(Hook::AfterStart, 1, Some("exited with code 1")),
            ),
            (4, request(Request::Stop)),
            (5, hook_ended(Hook::BeforeStop, 1, None)),
            (15, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → remedy #1
            1 s:   → start #1
            2 s: #2 start
            2 s:   → after_start #1
            3 s: #3 degraded
            4 s: #4 stop (manual)
            4 s:   → before_stop #1
            5 s:   → signal #1
            15 s:   → kill #1
        "#]],
    );
    // A kill waits for nothing, and a command that does not end holds a stop up for two minutes.
    check(
        hooked(),
        vec![
            (1, remedied(1, None)),
            (2, started(1)),
            (3, request(Request::Stop)),
            (123, Event::Agent(AgentEvent::Wake)),
            (124, request(Request::Kill)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → remedy #1
            1 s:   → start #1
            2 s: #2 start
            2 s:   → after_start #1
            3 s: #3 stop (manual)
            3 s:   → before_stop #1
            123 s:   → signal #1
            124 s:   → kill #1
        "#]],
    );
}

#[test]
fn a_command_before_the_start_that_fails_fails_the_start() {
    check(
        hooked(),
        vec![(1, remedied(1, Some(failure())))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → remedy #1
            1 s: #2 start
            1 s: #3 restart (exit) because of #2
            1 s:   → remedy #2
        "#]],
    );
    // A stop gives it the workload's grace, and a kill none.
    check(
        hooked(),
        vec![
            (1, request(Request::Stop)),
            (11, Event::Agent(AgentEvent::Wake)),
            (11, remedied(1, Some(failure()))),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → remedy #1
            11 s: #2 stop (manual)
            11 s:   → abort_start #1
            11 s: #3 start
            11 s:   → remove_cgroup #1
        "#]],
    );
}

fn reloaded_by(signal: Option<&str>, run: Option<&str>) -> WorkloadSpec {
    WorkloadSpec {
        reload: Some(Reload {
            signal: signal.map(str::to_owned),
            run: run.map(|run| vec![run.to_owned()]),
        }),
        reload_on: vec!["/etc/web.conf".to_owned()],
        ..spec()
    }
}

fn file_changed() -> Event {
    let path = "/etc/web.conf".to_owned();
    Event::Workload(name(WEB), WorkloadEvent::FileChanged { path })
}

#[test]
fn a_reload_is_a_signal_or_a_command() {
    check(
        reloaded_by(Some("SIGHUP"), None),
        vec![
            (0, started(1)),
            (1, request(Request::Reload)),
            (2, file_changed()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 reload (manual)
            1 s:   → signal #1
            2 s: #4 file (config)
            2 s: #5 reload (config) because of #4
            2 s:   → signal #1
        "#]],
    );
    // One command runs at a time, and the last request is not lost.
    check(
        reloaded_by(None, Some("/reload")),
        vec![
            (0, started(1)),
            (1, request(Request::Reload)),
            (2, file_changed()),
            (3, file_changed()),
            (4, hook_ended(Hook::Reload, 1, Some("exited with code 1"))),
            (5, hook_ended(Hook::Reload, 1, None)),
            (6, hook_ended(Hook::Reload, 1, None)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s:   → reload #1
            2 s: #3 file (config)
            3 s: #4 file (config)
            4 s: #5 reload (manual)
            4 s:   → reload #1
            5 s: #6 reload (config) because of #4
        "#]],
    );
}

/// A workload may be removed and named again while the command of its reload runs.
#[test]
fn the_reloads_of_a_name_do_not_overlap() {
    let reloads = |decision: &Decision| {
        let of_reload = |action: &&Action| format!("{action:?}").contains("RunHook");
        decision.actions.iter().filter(of_reload).count()
    };
    let spec = || reloaded_by(None, Some("/reload"));
    let removed = Event::Agent(AgentEvent::Configure {
        manifest: Manifest::default(),
        prune: Prune::All,
    });
    let mut supervisor = Supervisor::new(2);
    let mut handle = |seconds, event| reloads(&supervisor.handle(at(seconds), event));
    for event in [configure(spec()), started(1)] {
        assert_eq!(handle(0, event), 0);
    }
    assert_eq!(handle(1, request(Request::Reload)), 1);
    for event in [
        exited(1),
        removed,
        reaped(1, ExitStatus::Code(0), 0),
        configure(spec()),
        started(2),
        file_changed(),
    ] {
        assert_eq!(handle(2, event), 0);
    }
    let ended = handle(3, hook_ended(Hook::Reload, 1, None));
    assert_eq!(ended, 1, "the change of the file is not lost");
    let ended = handle(4, hook_ended(Hook::Reload, 2, None));
    assert_eq!(ended, 0);
}

#[test]
fn a_changed_file_restarts_what_cannot_reload() {
    let unable = WorkloadSpec {
        reload: None,
        ..reloaded_by(None, None)
    };
    check(
        unable.clone(),
        vec![(0, started(1)), (1, file_changed())],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 file (config)
            1 s: #4 stop (config) because of #3
            1 s:   → signal #1
        "#]],
    );
    // What does not run reads the file when it starts.
    check(
        unable,
        vec![(0, file_changed())],
        &expect![[r#"
        0 s: #1 config (config)
        0 s:   → start #1
    "#]],
    );
}

/// `web` needs `job` to be completed.
fn with_a_job(job: WorkloadSpec) -> Event {
    let mut web = spec();
    web.needs
        .insert(name("job").workload().clone(), Need::Completed);
    Event::Agent(AgentEvent::Configure {
        manifest: manifest(&[("job", job), (WEB, web)]),
        prune: Prune::Nothing,
    })
}

fn job(command: &str) -> WorkloadSpec {
    let mut job = spec();
    job.command = vec![command.to_owned()];
    job.recovery.restart = RestartPolicy::Never;
    job
}

/// Runs the job's instance to its end.
fn run_job(supervisor: &mut Supervisor, instance: u64, code: i32) {
    let instance_of = |event| Event::Instance(name("job"), InstanceId(instance), event);
    let status = ExitStatus::Code(code);
    let counters = Counters::default();
    for event in [
        InstanceEvent::Started { pid: 7 },
        InstanceEvent::MainExited,
        InstanceEvent::Reaped { status, counters },
    ] {
        let _ = supervisor.handle(at(1), instance_of(event));
    }
}

fn state(supervisor: &Supervisor, workload: &str) -> WorkloadState {
    supervisor.view(&name(workload)).expect("a workload").state
}

#[test]
fn a_start_waits_until_a_job_is_completed() {
    let mut supervisor = Supervisor::new(2);
    let _ = supervisor.handle(at(0), with_a_job(job("/migrate")));
    assert_eq!(state(&supervisor, WEB), WorkloadState::Pending);
    let view = supervisor.view(&name(WEB)).expect("a workload");
    assert_eq!(view.reason, "waiting for job to be completed");
    // A job that failed is not completed.
    run_job(&mut supervisor, 1, 3);
    assert_eq!(state(&supervisor, "job"), WorkloadState::Failed);
    assert_eq!(state(&supervisor, WEB), WorkloadState::Pending);
    // Another command is another job.
    let _ = supervisor.handle(at(2), with_a_job(job("/migrate-2")));
    assert_eq!(state(&supervisor, "job"), WorkloadState::Starting);
    run_job(&mut supervisor, 2, 0);
    assert_eq!(state(&supervisor, "job"), WorkloadState::Stopped);
    assert_eq!(state(&supervisor, WEB), WorkloadState::Starting);
}

#[test]
fn the_next_agent_knows_what_is_completed() {
    let mut supervisor = Supervisor::new(2);
    let _ = supervisor.handle(at(0), with_a_job(job("/migrate")));
    run_job(&mut supervisor, 1, 0);
    let kept = kept(&mut supervisor);
    let mut next = Supervisor::new(2);
    let taken = TakenOver {
        workload: name("job"),
        checkpoint: kept,
        found: Found::Nothing,
    };
    let left = AgentEvent::TakeOver {
        workloads: vec![taken],
        groups: Vec::new(),
        last: (Seq(50), InstanceId(9)),
    };
    let _ = next.handle(at(3), Event::Agent(left));
    let decision = next.handle(at(3), with_a_job(changed_job()));
    let starts = decision
        .actions
        .iter()
        .filter(|action| action.name() == "start");
    assert_eq!(starts.count(), 1, "of web alone");
    assert_eq!(state(&next, "job"), WorkloadState::Stopped);
    // A job that an operator has stopped is not completed, even with exit code 0.
    let mut supervisor = Supervisor::new(2);
    let _ = supervisor.handle(at(0), with_a_job(job("/migrate")));
    let of_job = |event| Event::Instance(name("job"), InstanceId(1), event);
    let _ = supervisor.handle(at(1), of_job(InstanceEvent::Started { pid: 7 }));
    let stop = WorkloadEvent::Request {
        request: Request::Stop,
    };
    let _ = supervisor.handle(at(1), Event::Workload(name("job"), stop));
    run_job(&mut supervisor, 1, 0);
    assert_eq!(state(&supervisor, "job"), WorkloadState::Stopped);
    assert_eq!(state(&supervisor, WEB), WorkloadState::Pending);
}

/// Returns the checkpoint of the job, which a change of its grace has written once more.
fn kept(supervisor: &mut Supervisor) -> crate::checkpoint::Checkpoint {
    let decision = supervisor.handle(at(2), with_a_job(changed_job()));
    let mut checkpoints = decision.checkpoints.into_iter();
    let found = checkpoints.find(|(workload, _)| *workload == name("job"));
    let (_, checkpoint) = found.expect("a change");
    checkpoint.expect("a workload that the next agent has to know")
}

fn changed_job() -> WorkloadSpec {
    let mut changed = job("/migrate");
    changed.stop.grace = Duration::from_secs(3);
    changed
}
