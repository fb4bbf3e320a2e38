//! The answers to another manifest.

use super::*;
use crate::state::WorkloadState;

#[test]
fn a_manifest_that_is_read_in_part_changes_nothing_else() {
    let mut supervisor = Supervisor::new(2);
    let moment = Moment {
        now: MonoTime(0),
        noise: 0,
    };
    let mut handle = |event| supervisor.handle(moment, event);
    drop(handle(configure(WorkloadSpec::default())));
    let other = "other";
    let decision = handle(Event::Agent(AgentEvent::ConfigureReadable {
        manifest: manifest(&[(
            other,
            WorkloadSpec {
                limits: Limits {
                    memory_low: Some(Limit::At(Bytes(1 << 20))),
                    ..Limits::default()
                },
                ..WorkloadSpec::default()
            },
        )]),
        keeps_ceiling: true,
        has_alerts: false,
    }));
    let writes = |action: &Action| matches!(action, Action::Host(_));
    assert!(!decision.actions.iter().any(writes));
    let kinds: Vec<_> = decision
        .transitions
        .iter()
        .map(|reported| (reported.workload.clone(), reported.detail.kind()))
        .collect();
    assert_eq!(kinds[0], (Some(name(other)), "config"));
    assert!(
        kinds.iter().all(|(of, _)| *of == Some(name(other))),
        "{kinds:?}"
    );
    assert!(
        supervisor
            .manifest()
            .workloads
            .contains_key(name(WEB).workload())
    );
}

#[test]
fn changed_limits_are_written_and_nothing_else_happens() {
    let mut changed = spec();
    changed.limits.memory_max = Some(Limit::At(Bytes(1 << 30)));
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, configure(changed.clone())),
            (2, configure(changed)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 config (config)
            1 s:   → write_limits #1
        "#]],
    );
}

fn limited(bytes: u64) -> WorkloadSpec {
    let mut limited = spec();
    limited.limits.memory_max = Some(Limit::At(Bytes(bytes)));
    limited
}

#[test]
fn limits_that_change_during_a_start_are_written_after_it() {
    check(
        spec(),
        vec![(0, configure(limited(1 << 30))), (0, started(1))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 config (config)
            0 s:   → write_limits #1
            0 s: #3 start
        "#]],
    );
}

#[test]
fn refused_limits_are_tried_again_by_the_next_apply() {
    let refused = Event::limits_written(Some(name(WEB)), Vec::new(), Some("write".to_owned()));
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, configure(limited(1 << 30))),
            (1, refused),
            (2, configure(limited(1 << 30))),
            (3, configure(limited(1 << 30))),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 config (config)
            1 s:   → write_limits #1
            1 s: #4 config (config)
            2 s:   → write_limits #1
        "#]],
    );
}

#[test]
fn limits_that_the_kernel_does_not_have_are_known() {
    let answer = |workload, error: Option<&str>| {
        Event::limits_written(workload, Vec::new(), error.map(str::to_owned))
    };
    let mut supervisor = Supervisor::new(2);
    let unwritten = |supervisor: &Supervisor| {
        let unwritten = supervisor.unwritten_limits();
        let texts = unwritten.iter().map(|limits| {
            let of = limits
                .workload
                .as_ref()
                .map_or_else(|| "host".to_owned(), ToString::to_string);
            format!("{of}: {}", limits.refused.as_deref().unwrap_or("under way"))
        });
        texts.collect::<Vec<_>>()
    };
    let mut configured = manifest(&[(WEB, spec())]);
    configured.host.limits.pids_max = Some(Limit::At(100));
    let configure_host = |prune| {
        Event::Agent(AgentEvent::Configure {
            manifest: configured.clone(),
            prune,
        })
    };
    let _ = supervisor.handle(at(0), configure_host(Prune::Nothing));
    assert_eq!(
        unwritten(&supervisor),
        ["host: under way"],
        "web is starting"
    );
    let _ = supervisor.handle(at(0), answer(None, Some("no")));
    assert_eq!(unwritten(&supervisor), ["host: no"]);
    let _ = supervisor.handle(at(1), configure_host(Prune::Nothing));
    assert_eq!(unwritten(&supervisor), ["host: under way"], "tried again");
    let _ = supervisor.handle(at(1), answer(None, None));
    assert!(unwritten(&supervisor).is_empty());

    let _ = supervisor.handle(at(2), started(1));
    let _ = supervisor.handle(at(3), configure(limited(1 << 30)));
    assert_eq!(
        unwritten(&supervisor),
        ["host: under way", "web: under way"]
    );
    let _ = supervisor.handle(at(3), answer(None, None));
    let _ = supervisor.handle(at(3), answer(Some(name(WEB)), Some("no")));
    assert_eq!(unwritten(&supervisor), ["web: no"]);
    // What does not run has no limits to lack.
    let _ = supervisor.handle(at(4), request(Request::Kill));
    let _ = supervisor.handle(at(4), exited(1));
    let _ = supervisor.handle(at(4), reaped(1, ExitStatus::Signal(9), 0));
    assert!(unwritten(&supervisor).is_empty());
}

#[test]
fn a_repair_under_way_is_reported_and_counted_once() {
    let drifted = || {
        Event::Workload(
            name(WEB),
            WorkloadEvent::Drifted {
                found: vec![Drifted {
                    what: "pids.max".to_owned(),
                    expected: "40".to_owned(),
                    found: "max".to_owned(),
                }],
            },
        )
    };
    let written = Event::limits_written(Some(name(WEB)), Vec::new(), None);
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, drifted()),
            (1, drifted()),
            (2, written),
            (2, drifted()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 drift (drift)
            1 s:   → write_limits #1
            2 s: #4 drift (drift)
            2 s:   → write_limits #1
        "#]],
    );
}

#[test]
fn what_was_stopped_by_hand_is_not_started_by_an_apply() {
    let mut other = spec();
    other.command.push("again".to_owned());
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, request(Request::Stop)),
            (1, configure(other)),
            (1, exited(1)),
            (1, reaped(1, ExitStatus::Signal(15), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 stop (manual)
            1 s:   → signal #1
            1 s: #4 config (config)
            1 s:   → reap #1
            1 s: #5 exit because of #3
            1 s:   → remove_cgroup #1
        "#]],
    );
}

#[test]
fn a_users_file_prunes_the_workloads_of_that_user_alone() {
    let removed = |user: &str| {
        let nothing = Event::Agent(AgentEvent::Configure {
            manifest: Manifest::default(),
            prune: Prune::Of(user.to_owned()),
        });
        let spec = WorkloadSpec {
            delegate: Some("shop".to_owned()),
            ..spec()
        };
        let mut supervisor = Supervisor::new(2);
        for event in [configure(spec), started(1), nothing] {
            let _ = supervisor.handle(at(0), event);
        }
        let mut views = supervisor.views();
        views.next().map(|view| (view.state, view.managed))
    };
    assert_eq!(removed("shop"), Some((WorkloadState::Stopping, false)));
    assert_eq!(removed("other"), Some((WorkloadState::Running, false)));
}

#[test]
fn what_is_pruned_and_named_again_comes_back() {
    let nothing = Event::Agent(AgentEvent::Configure {
        manifest: Manifest::default(),
        prune: Prune::All,
    });
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, nothing),
            (1, configure(spec())),
            (1, exited(1)),
            (1, reaped(1, ExitStatus::Signal(15), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 stop (config)
            1 s:   → signal #1
            1 s: #4 config (config)
            1 s:   → reap #1
            1 s: #5 exit because of #3
            1 s: #6 restart (config) because of #5
            1 s:   → start #2
        "#]],
    );
}

#[test]
fn a_command_that_is_mended_while_the_broken_one_starts_is_tried() {
    let error = StartError {
        stage: "execute /x".to_owned(),
        errno: Some(2),
        error: "gone".to_owned(),
    };
    let mut mended = spec();
    mended.command.push("mended".to_owned());
    check(
        spec(),
        vec![
            (0, configure(mended)),
            (
                0,
                Event::Instance(
                    name(WEB),
                    InstanceId(1),
                    InstanceEvent::StartFailed { error },
                ),
            ),
            (0, started(2)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 config (config)
            0 s: #3 start
            0 s:   → start #2
            0 s: #4 start
        "#]],
    );
}
