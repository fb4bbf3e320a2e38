//! Probes, readiness, health, and what is done about them.

use super::*;
use crate::event::{Hook, HostMeasured, Measured};
use crate::probe::{Failure, Load, Outcome};
use crate::spec::{Check, Mode, Need, Port, Probe, ProbeName, Reload, Strategy, Threshold};

pub(super) fn probe(period: u64, failures: u32) -> Probe {
    Probe {
        period: Duration::from_secs(period),
        failure_threshold: failures,
        ..Probe::of(Check::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 80,
        })
    }
}

pub(super) fn probed(instance: u64, probe: ProbeName, run: u64, outcome: Outcome) -> Event {
    Event::Instance(
        name(WEB),
        InstanceId(instance),
        InstanceEvent::Probed {
            probe,
            run,
            outcome,
            took: Duration::from_millis(1),
        },
    )
}

pub(super) fn refused() -> Outcome {
    Outcome::Failed(Failure {
        why: "refused".to_owned(),
        ..Failure::default()
    })
}

fn slow(cpu: u32) -> Outcome {
    Outcome::Failed(Failure {
        why: "no answer".to_owned(),
        slow: true,
        load: Load {
            cpu: Some(Percent(cpu)),
            memory: None,
        },
    })
}

fn with_probes(probes: &[(ProbeName, Probe)]) -> WorkloadSpec {
    WorkloadSpec {
        probes: probes.iter().cloned().collect(),
        ..spec()
    }
}

/// Returns a workload with all that can go on at once.
pub(super) fn everything() -> WorkloadSpec {
    let mut spec = WorkloadSpec {
        on_ready: Some(vec!["/join".to_owned()]),
        on_unready: Some(vec!["/leave".to_owned()]),
        before_start: vec![vec!["/prepare".to_owned()]],
        after_start: vec![vec!["/announce".to_owned()]],
        before_stop: vec![vec!["/drain".to_owned()]],
        reload: Some(Reload {
            signal: None,
            run: Some(vec!["/reload".to_owned()]),
        }),
        reload_on: vec!["/etc/web.conf".to_owned()],
        ports: [("http".to_owned(), Port::plain(8080))].into(),
        ..with_probes(&[
            (ProbeName::Startup, probe(1, 3)),
            (ProbeName::Liveness, probe(5, 3)),
            (ProbeName::Readiness, probe(2, 1)),
        ])
    };
    spec.recovery.strategies.default = vec![Strategy::Restart, Strategy::Recreate];
    spec
}

pub(super) fn answer(run: &crate::event::ProbeRun, outcome: u8) -> Event {
    let outcome = match outcome {
        0 | 1 => Outcome::Passed,
        2 => refused(),
        3 => slow(90),
        _ => Outcome::Unknown("ours".to_owned()),
    };
    probed(run.instance.0, run.probe, run.run, outcome)
}

pub(super) fn memory(used: u32) -> Event {
    Event::Host(HostEvent::Measured {
        workloads: vec![(name(WEB), Measured::default())],
        host: HostMeasured {
            memory: Some(Percent(used)),
            ..HostMeasured::default()
        },
    })
}

fn live() -> WorkloadSpec {
    with_probes(&[(ProbeName::Liveness, probe(5, 3))])
}

#[test]
fn a_liveness_probe_past_its_threshold_restarts() {
    let fails = |seconds, run| (seconds, probed(1, ProbeName::Liveness, run, refused()));
    check(
        live(),
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Liveness, 1, Outcome::Passed)),
            (5, Event::Agent(AgentEvent::Wake)),
            fails(5, 2),
            (10, Event::Agent(AgentEvent::Wake)),
            fails(10, 3),
            (15, Event::Agent(AgentEvent::Wake)),
            fails(15, 4),
            (15, exited(1)),
            (15, reaped(1, ExitStatus::Signal(15), 0)),
            (15, started(2)),
            (15, probed(2, ProbeName::Liveness, 5, Outcome::Passed)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask liveness
            0 s: #3 health
            5 s:   → ask liveness
            5 s: #4 health
            10 s:   → ask liveness
            15 s:   → ask liveness
            15 s: #5 health
            15 s: #6 stop (liveness) because of #5
            15 s:   → signal #1
            15 s:   → reap #1
            15 s: #7 exit because of #6
            15 s: #8 restart (liveness) because of #7
            15 s: #9 health
            15 s:   → start #2
            15 s: #10 start
            15 s:   → ask liveness
            15 s: #11 health
        "#]],
    );
}

#[test]
fn one_failure_beside_a_proof_is_enough() {
    check(
        live(),
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Liveness, 1, Outcome::Passed)),
            (1, loops::suspect(1)),
            (2, loops::evidence(1, Verdict::DeadLoop)),
            (5, Event::Agent(AgentEvent::Wake)),
            (5, probed(1, ProbeName::Liveness, 2, slow(90))),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask liveness
            0 s: #3 health
            1 s:   → investigate #1
            2 s: #4 cpu_loop
            2 s: #5 throttle (cpu_loop) because of #4
            2 s: #6 health
            2 s:   → write_limits #1
            5 s:   → ask liveness
            5 s: #7 health
            5 s: #8 stop (liveness) because of #7
            5 s:   → kill #1
        "#]],
    );
}

#[test]
fn what_is_held_back_gets_grace_and_no_more() {
    let mut events = vec![(0, started(1)), (0, request(Request::Throttle(Percent(5))))];
    for run in 1..=9 {
        let seconds = (run - 1) * 5;
        events.push((seconds, Event::Agent(AgentEvent::Wake)));
        events.push((seconds, probed(1, ProbeName::Liveness, run, slow(0))));
    }
    check(
        live(),
        events,
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask liveness
            0 s: #3 throttle (manual)
            0 s: #4 health
            0 s:   → write_limits #1
            5 s:   → ask liveness
            10 s:   → ask liveness
            10 s: #5 health
            15 s:   → ask liveness
            20 s:   → ask liveness
            25 s:   → ask liveness
            30 s:   → ask liveness
            35 s:   → ask liveness
            40 s:   → ask liveness
            40 s: #6 health
            40 s: #7 stop (liveness) because of #6
            40 s:   → signal #1
        "#]],
    );
}

#[test]
fn a_refused_connection_is_no_slowness() {
    let mut events = vec![(0, started(1)), (0, request(Request::Throttle(Percent(5))))];
    for run in 1..=3 {
        let seconds = (run - 1) * 5;
        events.push((seconds, Event::Agent(AgentEvent::Wake)));
        events.push((seconds, probed(1, ProbeName::Liveness, run, refused())));
    }
    check(
        live(),
        events,
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask liveness
            0 s: #3 throttle (manual)
            0 s: #4 health
            0 s:   → write_limits #1
            5 s:   → ask liveness
            10 s:   → ask liveness
            10 s: #5 health
            10 s: #6 stop (liveness) because of #5
            10 s:   → signal #1
        "#]],
    );
}

#[test]
fn startup_gates_the_others() {
    let gated = with_probes(&[
        (ProbeName::Startup, probe(1, 2)),
        (ProbeName::Liveness, probe(5, 3)),
        (ProbeName::Readiness, probe(5, 3)),
    ]);
    check(
        gated,
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Startup, 1, refused())),
            (7, Event::Agent(AgentEvent::Wake)),
            (7, probed(1, ProbeName::Startup, 2, Outcome::Passed)),
            (7, probed(1, ProbeName::Readiness, 4, Outcome::Passed)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask startup
            7 s:   → ask startup
            7 s: #3 health
            7 s:   → ask liveness
            7 s:   → ask readiness
            7 s: #4 ready
        "#]],
    );
}

#[test]
fn what_does_not_come_up_is_restarted() {
    check(
        with_probes(&[(ProbeName::Startup, probe(1, 2))]),
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Startup, 1, refused())),
            (1, Event::Agent(AgentEvent::Wake)),
            (1, probed(1, ProbeName::Startup, 2, refused())),
            (11, Event::Agent(AgentEvent::Wake)),
            (11, exited(1)),
            (11, reaped(1, ExitStatus::Signal(9), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask startup
            1 s:   → ask startup
            1 s: #3 health
            1 s: #4 stop (startup) because of #3
            1 s:   → signal #1
            11 s:   → kill #1
            11 s:   → reap #1
            11 s: #5 exit because of #4
            11 s: #6 restart (startup) because of #5
            11 s: #7 health
            11 s:   → start #2
        "#]],
    );
}

#[test]
fn observe_mode_reports_once_what_it_would_do() {
    let mut events = vec![(0, started(1))];
    for run in 1..=5 {
        let seconds = (run - 1) * 5;
        events.push((seconds, Event::Agent(AgentEvent::Wake)));
        events.push((seconds, probed(1, ProbeName::Liveness, run, refused())));
    }
    let observed = WorkloadSpec {
        mode: Mode::Observe,
        ..live()
    };
    check(
        observed,
        events,
        &expect![[r#"
        0 s: #1 config (config)
        0 s:   → start #1
        0 s: #2 start
        0 s:   → ask liveness
        0 s: #3 health
        5 s:   → ask liveness
        10 s:   → ask liveness
        10 s: #4 health
        10 s: #5 restart (liveness) because of #4
        15 s:   → ask liveness
        20 s:   → ask liveness
    "#]],
    );
}

fn hooked() -> WorkloadSpec {
    WorkloadSpec {
        on_ready: Some(vec!["/join".to_owned()]),
        on_unready: Some(vec!["/leave".to_owned()]),
        ..with_probes(&[(ProbeName::Readiness, probe(1, 1))])
    }
}

pub(super) fn hook_done(hook: Hook) -> Event {
    hook_ended(hook, 1, None)
}

pub(super) fn hook_ended(hook: Hook, instance: u64, error: Option<&str>) -> Event {
    let done = WorkloadEvent::HookDone {
        hook,
        instance: InstanceId(instance),
        error: error.map(str::to_owned),
    };
    Event::Workload(name(WEB), done)
}

#[test]
fn a_stop_waits_until_no_one_sends_work_any_more() {
    check(
        hooked(),
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Readiness, 1, Outcome::Passed)),
            (0, hook_done(Hook::OnReady)),
            (3, request(Request::Stop)),
            (4, hook_done(Hook::OnUnready)),
            (14, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask readiness
            0 s: #3 health
            0 s: #4 ready
            0 s:   → on_ready #1
            3 s: #5 stop (manual)
            3 s: #6 ready
            3 s:   → on_unready #1
            4 s:   → signal #1
            14 s:   → kill #1
        "#]],
    );
}

#[test]
fn hooks_run_one_at_a_time_and_the_last_one_is_true() {
    check(
        hooked(),
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Readiness, 1, Outcome::Passed)),
            (1, Event::Agent(AgentEvent::Wake)),
            (1, probed(1, ProbeName::Readiness, 2, refused())),
            (2, Event::Agent(AgentEvent::Wake)),
            (2, probed(1, ProbeName::Readiness, 3, Outcome::Passed)),
            (3, Event::Agent(AgentEvent::Wake)),
            (3, probed(1, ProbeName::Readiness, 4, refused())),
            (4, hook_done(Hook::OnReady)),
            (5, hook_done(Hook::OnUnready)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask readiness
            0 s: #3 health
            0 s: #4 ready
            0 s:   → on_ready #1
            1 s:   → ask readiness
            1 s: #5 health
            1 s: #6 ready
            2 s:   → ask readiness
            2 s: #7 health
            2 s: #8 ready
            3 s:   → ask readiness
            3 s: #9 health
            3 s: #10 ready
            4 s:   → on_unready #1
        "#]],
    );
}

#[test]
fn late_answers_change_nothing() {
    let mut supervisor = Supervisor::new(2);
    let moment = |seconds: u64| Moment {
        now: MonoTime(seconds * 1_000_000_000),
        noise: 0,
    };
    for event in [configure(live()), started(1)] {
        let _ = supervisor.handle(moment(0), event);
    }
    for stale in [
        probed(0, ProbeName::Liveness, 1, refused()),
        probed(1, ProbeName::Liveness, 9, refused()),
        probed(1, ProbeName::Startup, 1, refused()),
        hook_done(Hook::OnReady),
    ] {
        let decision = supervisor.handle(moment(1), stale);
        assert!(decision.transitions.is_empty() && decision.actions.is_empty());
    }
}

pub(super) fn remedied(instance: u64, error: Option<StartError>) -> Event {
    Event::Instance(
        name(WEB),
        InstanceId(instance),
        InstanceEvent::Remedied { error },
    )
}

#[test]
fn a_remedy_comes_before_the_start_and_may_fail_as_one() {
    let mut spec = spec();
    spec.recovery.strategies.default = vec![Strategy::Restart, Strategy::Recreate];
    let error = StartError {
        stage: "set the log aside".to_owned(),
        errno: None,
        error: "no room".to_owned(),
    };
    check(
        spec,
        vec![
            (0, started(1)),
            (0, exited(1)),
            (0, reaped(1, ExitStatus::Code(3), 0)),
            (0, started(2)),
            (0, exited(2)),
            (0, reaped(2, ExitStatus::Code(3), 0)),
            (1, Event::Agent(AgentEvent::Wake)),
            (1, remedied(3, Some(error))),
            (3, Event::Agent(AgentEvent::Wake)),
            (3, remedied(4, None)),
            (3, started(4)),
            (3, exited(4)),
            (3, reaped(4, ExitStatus::Code(3), 0)),
            (7, Event::Agent(AgentEvent::Wake)),
            // Asked to stop while its remedy is under way, it is not started at all.
            (7, request(Request::Stop)),
            (8, remedied(5, None)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → reap #1
            0 s: #3 exit
            0 s: #4 restart (exit) because of #3
            0 s:   → start #2
            0 s: #5 start
            0 s:   → reap #2
            0 s: #6 exit
            0 s: #7 restart (exit) because of #6
            0 s: #8 health
            1 s: #9 health
            1 s:   → remedy #3
            1 s: #10 start
            1 s: #11 restart (exit) because of #10
            1 s: #12 health
            3 s: #13 health
            3 s:   → remedy #4
            3 s:   → start #4
            3 s: #14 start
            3 s:   → reap #4
            3 s: #15 exit
            3 s: #16 restart (exit) because of #15
            3 s: #17 health
            7 s: #18 health
            7 s:   → remedy #5
            8 s:   → remove_cgroup #5
        "#]],
    );
}

/// Which workloads are started by each event.
fn starts(supervisor: &mut Supervisor, seconds: u64, event: Event) -> Vec<String> {
    let moment = Moment {
        now: MonoTime(seconds * 1_000_000_000),
        noise: 0,
    };
    let actions = supervisor.handle(moment, event).actions;
    let started = actions.into_iter().filter_map(|action| match action {
        Action::Workload(WorkloadAction {
            workload,
            change: WorkloadChange::Step(Step::Start { .. }),
            ..
        }) => Some(workload.to_string()),
        Action::Workload(_) | Action::Host(_) => None,
    });
    started.collect()
}

fn up(text: &str, instance: u64) -> Event {
    Event::Instance(
        name(text),
        InstanceId(instance),
        InstanceEvent::Started { pid: 7 },
    )
}

#[test]
fn starts_take_turns_by_priority() {
    let of = |priority| WorkloadSpec { priority, ..spec() };
    let mut all = manifest(&[("a", of(10)), ("b", of(90)), ("c", of(50)), ("d", of(80))]);
    all.host.starts_at_once = Some(2);
    let mut supervisor = Supervisor::new(2);
    let first = starts(
        &mut supervisor,
        0,
        Event::Agent(AgentEvent::Configure {
            manifest: all,
            prune: Prune::Nothing,
        }),
    );
    assert_eq!(first, ["b", "d"]);
    assert_eq!(starts(&mut supervisor, 1, up("d", 2)), ["c"]);
    assert_eq!(starts(&mut supervisor, 2, up("b", 1)), ["a"]);
}

#[test]
fn a_dependant_waits_until_what_it_needs_is_ready() {
    let mut web = spec();
    web.needs.insert(name("db").workload().clone(), Need::Ready);
    let db = with_probes(&[(ProbeName::Readiness, probe(1, 1))]);
    let mut supervisor = Supervisor::new(2);
    let all = Event::Agent(AgentEvent::Configure {
        manifest: manifest(&[("db", db), (WEB, web)]),
        prune: Prune::Nothing,
    });
    assert_eq!(starts(&mut supervisor, 0, all), ["db"]);
    assert!(starts(&mut supervisor, 1, up("db", 1)).is_empty());
    let view = supervisor.view(&name(WEB)).expect("a view");
    assert_eq!(
        (view.state, view.reason.as_str()),
        (crate::WorkloadState::Pending, "waiting for db to be ready")
    );
    let ready = Event::Instance(
        name("db"),
        InstanceId(1),
        InstanceEvent::Probed {
            probe: ProbeName::Readiness,
            run: 1,
            outcome: Outcome::Passed,
            took: Duration::ZERO,
        },
    );
    assert_eq!(starts(&mut supervisor, 2, ready), [WEB]);
}

#[test]
fn what_needs_nothing_any_more_starts() {
    let mut web = spec();
    web.needs.insert(name("db").workload().clone(), Need::Ready);
    let db = with_probes(&[(ProbeName::Readiness, probe(1, 1))]);
    let all = |web| {
        Event::Agent(AgentEvent::Configure {
            manifest: manifest(&[("db", db.clone()), (WEB, web)]),
            prune: Prune::Nothing,
        })
    };
    let mut supervisor = Supervisor::new(2);
    assert_eq!(starts(&mut supervisor, 0, all(web)), ["db"]);
    assert!(starts(&mut supervisor, 1, up("db", 1)).is_empty());
    assert_eq!(starts(&mut supervisor, 2, all(spec())), [WEB]);
}

/// What the host's shortage does, second by second.
#[test]
fn the_least_important_steps_back_first_and_comes_back_last() {
    let of = |priority| WorkloadSpec { priority, ..spec() };
    let mut all = manifest(&[("batch", of(10)), ("cache", of(30)), ("shop", of(90))]);
    all.host.watch.memory = Some(Threshold {
        hold: Duration::ZERO,
        ..Threshold::MEMORY
    });
    let mut supervisor = Supervisor::new(2);
    let mut reported = String::new();
    let reading = |used| {
        Event::Host(HostEvent::Measured {
            workloads: vec![(name("batch"), Measured::default())],
            host: HostMeasured {
                memory: Some(Percent(used)),
                ..HostMeasured::default()
            },
        })
    };
    let exited = |instance| Event::Instance(name("batch"), instance, InstanceEvent::MainExited);
    let reaped = |instance| {
        Event::Instance(
            name("batch"),
            instance,
            InstanceEvent::Reaped {
                status: ExitStatus::Signal(15),
                counters: Counters::default(),
            },
        )
    };
    let mut events = vec![(
        0,
        Event::Agent(AgentEvent::Configure {
            manifest: all,
            prune: Prune::Nothing,
        }),
    )];
    events.extend(
        [("shop", 1), ("cache", 2), ("batch", 3)].map(|(text, instance)| (0, up(text, instance))),
    );
    events.extend([(5, reading(97)), (10, reading(97)), (15, reading(97))]);
    events.extend([(16, exited(InstanceId(3))), (16, reaped(InstanceId(3)))]);
    events.extend([
        (25, reading(97)),
        (35, reading(50)),
        (40, reading(50)),
        (45, reading(50)),
        (55, reading(50)),
    ]);
    for (seconds, event) in events {
        let moment = Moment {
            now: MonoTime(seconds * 1_000_000_000),
            noise: 0,
        };
        for transition in supervisor.handle(moment, event).transitions {
            if let Detail::HostPressure(pressure) = transition.detail {
                let who = transition
                    .workload
                    .map_or_else(|| "host".to_owned(), |name| name.to_string());
                reported.push_str(&format!("{seconds} s: {who} {}\n", pressure.done));
            }
        }
    }
    expect![[r#"
        5 s: host warned
        5 s: batch demoted
        15 s: batch stopped
        25 s: cache demoted
        35 s: host warned
        35 s: cache released
        45 s: batch started again
    "#]]
    .assert_eq(&reported);
}

#[test]
fn our_own_error_turns_nothing_that_grace_has_spared() {
    let mut events = vec![(0, started(1)), (0, request(Request::Throttle(Percent(5))))];
    for run in 1..=4 {
        let seconds = (run - 1) * 5;
        events.push((seconds, Event::Agent(AgentEvent::Wake)));
        events.push((seconds, probed(1, ProbeName::Liveness, run, slow(0))));
    }
    events.push((20, Event::Agent(AgentEvent::Wake)));
    let ours = Outcome::Unknown("no descriptor".to_owned());
    events.push((20, probed(1, ProbeName::Liveness, 5, ours)));
    check(
        live(),
        events,
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask liveness
            0 s: #3 throttle (manual)
            0 s: #4 health
            0 s:   → write_limits #1
            5 s:   → ask liveness
            10 s:   → ask liveness
            10 s: #5 health
            15 s:   → ask liveness
            20 s:   → ask liveness
        "#]],
    );
}

#[test]
fn what_was_only_observed_is_answered_when_it_is_enforced() {
    let observed = WorkloadSpec {
        mode: Mode::Observe,
        ..live()
    };
    let mut events = vec![(0, started(1))];
    for run in 1..=3 {
        let seconds = (run - 1) * 5;
        events.push((seconds, Event::Agent(AgentEvent::Wake)));
        events.push((seconds, probed(1, ProbeName::Liveness, run, refused())));
    }
    events.push((11, configure(live())));
    events.push((15, Event::Agent(AgentEvent::Wake)));
    events.push((15, probed(1, ProbeName::Liveness, 4, refused())));
    check(
        observed,
        events,
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask liveness
            0 s: #3 health
            5 s:   → ask liveness
            10 s:   → ask liveness
            10 s: #4 health
            10 s: #5 restart (liveness) because of #4
            11 s: #6 config (config)
            11 s: #7 health
            11 s:   → write_limits #1
            15 s:   → ask liveness
            15 s: #8 health
            15 s: #9 stop (liveness) because of #8
            15 s:   → signal #1
        "#]],
    );
}

#[test]
fn no_kill_comes_before_the_signal_that_waits_for_its_hook() {
    let mut hooked = hooked();
    hooked.stop.grace = Duration::from_secs(2);
    check(
        hooked,
        vec![
            (0, started(1)),
            (0, probed(1, ProbeName::Readiness, 1, Outcome::Passed)),
            (0, hook_done(Hook::OnReady)),
            (3, request(Request::Stop)),
            (6, Event::Agent(AgentEvent::Wake)),
            (9, hook_done(Hook::OnUnready)),
            (11, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s:   → ask readiness
            0 s: #3 health
            0 s: #4 ready
            0 s:   → on_ready #1
            3 s: #5 stop (manual)
            3 s: #6 ready
            3 s:   → on_unready #1
            9 s:   → signal #1
            11 s:   → kill #1
        "#]],
    );
}

#[test]
fn what_is_pruned_while_it_starts_and_named_again_stays() {
    let nothing = Event::Agent(AgentEvent::Configure {
        manifest: Manifest::default(),
        prune: Prune::All,
    });
    check(
        spec(),
        vec![(0, nothing), (0, configure(spec())), (1, started(1))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 config (config)
            1 s: #3 start
        "#]],
    );
}
