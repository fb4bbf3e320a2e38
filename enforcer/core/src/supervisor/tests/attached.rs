//! Attached services: the agent finds them, observes them and lets them go.

use super::probes::{probe, probed, refused};
use super::*;
use crate::spec::{Attach, Mode, ProbeName};

fn shop() -> WorkloadSpec {
    WorkloadSpec {
        command: Vec::new(),
        attach: Some(Attach::Systemd("shop.service".to_owned())),
        mode: Mode::Observe,
        ..spec()
    }
}

#[test]
fn its_owner_starts_and_ends_it() {
    check(
        shop(),
        vec![
            (60, prepared(1)),
            (60, started(1)),
            (70, exited(1)),
            (70, reaped(1, ExitStatus::Code(3), 0)),
            (90, prepared(2)),
            (90, started(2)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            60 s: #2 start
            70 s:   → reap #1
            70 s: #3 exit
            70 s:   → start #2
            90 s: #4 start
        "#]],
    );
}

#[test]
fn it_is_let_go_at_the_end_and_with_another_manifest() {
    let other = WorkloadSpec {
        attach: None,
        command: vec!["/bin/true".to_owned()],
        mode: Mode::Enforce,
        ..shop()
    };
    check(
        shop(),
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, configure(other)),
            (3, prepared(2)),
            (3, started(2)),
            (4, configure(shop())),
            (5, exited(2)),
            (5, reaped(2, ExitStatus::Signal(15), 0)),
            (6, Event::Agent(AgentEvent::Shutdown)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            2 s: #3 config (config)
            2 s:   → remove_cgroup #1
            2 s:   → start #2
            3 s: #4 start
            4 s: #5 config (config)
            4 s: #6 stop (config)
            4 s:   → signal #2
            5 s:   → reap #2
            5 s: #7 exit because of #6
            5 s: #8 restart (config) because of #7
            5 s:   → remove_cgroup #3
            5 s:   → start #3
            6 s: #9 agent (agent)
            6 s:   → remove_cgroup #3
        "#]],
    );
}

/// Its owner is asked once for each failure, again after a command that failed, and no more than the budget
/// allows. A service that was restarted says so.
#[test]
fn its_owner_is_asked_to_restart_it() {
    let mut spec = WorkloadSpec {
        mode: Mode::Enforce,
        probes: [(ProbeName::Liveness, probe(5, 1))].into(),
        ..shop()
    };
    spec.recovery.budget = Some(Budget {
        restarts: 2,
        within: Duration::from_secs(600),
    });
    let fails = |instance, run| probed(instance, ProbeName::Liveness, run, refused());
    let error = "`systemctl restart shop.service`: exited with code 1".to_owned();
    let wake = || Event::Agent(AgentEvent::Wake);
    check(
        spec,
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, fails(1, 1)),
            (4, wake()),
            (
                5,
                Event::Workload(name(WEB), WorkloadEvent::RemedyFailed { error }),
            ),
            (10, wake()),
            (11, exited(1)),
            (11, reaped(1, ExitStatus::Signal(15), 0)),
            (12, prepared(2)),
            (12, started(2)),
            (13, fails(2, 3)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            1 s:   → ask liveness
            1 s:   → write_limits #1
            2 s: #3 health
            2 s: #4 restart (liveness) because of #3
            2 s:   → ask_owner #1
            5 s: #5 degraded
            5 s: #6 restart (liveness) because of #5
            10 s:   → ask liveness
            10 s:   → ask_owner #1
            11 s:   → reap #1
            11 s: #7 exit because of #6
            11 s: #8 health
            11 s:   → start #2
            12 s: #9 start
            12 s:   → ask liveness
            12 s:   → write_limits #2
            13 s: #10 health
            13 s: #11 breaker (liveness) because of #10
        "#]],
    );
}

/// An owner that was asked and does nothing is asked again.
#[test]
fn an_owner_that_is_late_has_failed() {
    let spec = WorkloadSpec {
        mode: Mode::Enforce,
        probes: [(ProbeName::Liveness, probe(5, 1))].into(),
        ..shop()
    };
    let wake = || Event::Agent(AgentEvent::Wake);
    let fails = probed(1, ProbeName::Liveness, 1, refused());
    check(
        spec,
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, fails),
            (300, wake()),
            (302, wake()),
            (320, wake()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            1 s:   → ask liveness
            1 s:   → write_limits #1
            2 s: #3 health
            2 s: #4 restart (liveness) because of #3
            2 s:   → ask_owner #1
            300 s:   → ask liveness
            302 s: #5 degraded
            302 s: #6 restart (liveness) because of #5
            320 s:   → ask_owner #1
        "#]],
    );
}

/// The agent drops a request to the owner if the service has recovered, or may only be observed.
#[test]
fn its_owner_is_not_asked_without_a_reason() {
    let mut enforced = WorkloadSpec {
        mode: Mode::Enforce,
        probes: [(ProbeName::Liveness, probe(5, 1))].into(),
        ..shop()
    };
    enforced.recovery.backoff = Some(Backoff {
        initial: Duration::from_secs(30),
        max: Duration::from_secs(30),
        jitter: Percent(0),
        ..Backoff::default()
    });
    let observed = WorkloadSpec {
        mode: Mode::Observe,
        ..enforced.clone()
    };
    let error = || "it failed".to_owned();
    let begin = || {
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, probed(1, ProbeName::Liveness, 1, refused())),
            (
                3,
                Event::Workload(name(WEB), WorkloadEvent::RemedyFailed { error: error() }),
            ),
        ]
    };
    let wake = |at| (at, Event::Agent(AgentEvent::Wake));
    let mut recovers = begin();
    recovers.extend([
        wake(6),
        (
            6,
            probed(1, ProbeName::Liveness, 2, crate::probe::Outcome::Passed),
        ),
        wake(60),
    ]);
    check(
        enforced.clone(),
        recovers,
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            1 s:   → ask liveness
            1 s:   → write_limits #1
            2 s: #3 health
            2 s: #4 restart (liveness) because of #3
            2 s:   → ask_owner #1
            3 s: #5 degraded
            3 s: #6 restart (liveness) because of #5
            6 s:   → ask liveness
            6 s: #7 health
            60 s:   → ask liveness
        "#]],
    );
    let mut observes = begin();
    observes.extend([(3, configure(observed)), wake(60)]);
    check(
        enforced,
        observes,
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            1 s:   → ask liveness
            1 s:   → write_limits #1
            2 s: #3 health
            2 s: #4 restart (liveness) because of #3
            2 s:   → ask_owner #1
            3 s: #5 degraded
            3 s: #6 restart (liveness) because of #5
            3 s: #7 config (config)
            3 s: #8 health
            3 s:   → write_limits #1
            60 s:   → ask liveness
        "#]],
    );
}

/// A thread that must not be traced is not examined by the next agent either.
#[test]
fn the_next_agent_traces_no_more_than_this_one() {
    let mut supervisor = Supervisor::new(2);
    let spec = WorkloadSpec {
        watch: crate::spec::Watch {
            cpu_loop: Some(crate::spec::CpuLoopWatch::default()),
            ..crate::spec::Watch::default()
        },
        ..shop()
    };
    let mut kept = None;
    for event in [
        Event::Agent(AgentEvent::EbpfAttached(true)),
        configure(spec),
        prepared(1),
        started(1),
        super::loops::suspect(7),
    ] {
        let decision = supervisor.handle(at(1), event);
        let examined = decision.actions.iter().any(is_investigation);
        assert!(!examined);
        kept = decision
            .checkpoints
            .into_iter()
            .find_map(|(_, kept)| kept)
            .or(kept);
    }
    let checkpoint = kept.expect("a checkpoint");
    let mut next = Supervisor::new(2);
    let found = Found::Running(CgroupId(1), Counters::default(), 101);
    let taken = TakenOver {
        workload: name(WEB),
        checkpoint,
        found,
    };
    let take_over = AgentEvent::TakeOver {
        workloads: vec![taken],
        groups: Vec::new(),
        last: (Seq(9), InstanceId(1)),
    };
    for event in [
        Event::Agent(take_over),
        Event::Agent(AgentEvent::EbpfAttached(true)),
        Event::Agent(AgentEvent::Wake),
    ] {
        let decision = next.handle(at(2), event);
        assert!(!decision.actions.iter().any(is_investigation));
    }
}

fn is_investigation(action: &Action) -> bool {
    matches!(
        action,
        Action::Workload(WorkloadAction {
            change: WorkloadChange::Step(Step::Investigate { .. }),
            ..
        })
    )
}

/// Its owner takes a quota, so it can be throttled by hand. A container's owner takes no weight, so that rung is only reported.
#[test]
fn its_owner_lowers_its_cpu_time() {
    use super::loops::{evidence, suspect};
    let mut unit = WorkloadSpec {
        mode: Mode::Enforce,
        prove: true,
        ..shop()
    };
    unit.watch.cpu_loop = Some(crate::spec::CpuLoopWatch {
        respond: vec![crate::cpu_loop::Rung::Demote],
        ..crate::spec::CpuLoopWatch::default()
    });
    let container = WorkloadSpec {
        attach: Some(Attach::Docker("shop".to_owned())),
        ..unit.clone()
    };
    let ask = |request| Event::Workload(name(WEB), WorkloadEvent::Request { request });
    let events = || {
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, suspect(1)),
            (3, evidence(1, crate::cpu_loop::Verdict::DeadLoop)),
            (4, ask(Request::Throttle(crate::units::Percent(20)))),
            (5, ask(Request::Release)),
        ]
    };
    check(
        unit,
        events(),
        &expect![[r#"
        0 s: #1 config (config)
        0 s:   → start #1
        1 s: #2 start
        1 s:   → write_limits #1
        2 s:   → investigate #1
        3 s: #3 cpu_loop
        3 s: #4 throttle (cpu_loop) because of #3
        3 s: #5 health
        3 s:   → write_limits #1
        4 s: #6 throttle (manual)
        4 s:   → write_limits #1
        5 s: #7 release (manual)
        5 s:   → write_limits #1
    "#]],
    );
    check(
        container,
        events(),
        &expect![[r#"
        0 s: #1 config (config)
        0 s:   → start #1
        1 s: #2 start
        1 s:   → write_limits #1
        2 s:   → investigate #1
        3 s: #3 cpu_loop
        3 s: #4 throttle (cpu_loop) because of #3
        3 s: #5 health
        4 s: #6 throttle (manual)
        4 s:   → write_limits #1
        5 s: #7 release (manual)
        5 s:   → write_limits #1
    "#]],
    );
}

#[test]
fn a_thread_that_is_hot_already_is_traced_once_the_spec_asks_for_proof() {
    use super::loops::{evidence, suspect};
    let mut told = shop();
    told.watch.cpu_loop = Some(crate::spec::CpuLoopWatch::default());
    let proved = WorkloadSpec {
        prove: true,
        ..told.clone()
    };
    check(
        told.clone(),
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (2, suspect(1)),
            (3, configure(proved)),
            (3, Event::Agent(AgentEvent::Wake)),
            (4, evidence(1, crate::cpu_loop::Verdict::DeadLoop)),
            (5, configure(told)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            2 s: #3 cpu_loop
            3 s: #4 config (config)
            3 s:   → write_limits #1
            3 s:   → investigate #1
            4 s: #5 cpu_loop
            4 s: #6 throttle (cpu_loop) because of #5
            4 s: #7 health
            5 s: #8 config (config)
            5 s:   → write_limits #1
        "#]],
    );
}
