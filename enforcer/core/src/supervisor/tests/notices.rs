//! These tests send notifications, sd_notify(3), and read how the agent answers them.

use super::*;
use crate::health::Health;
use crate::notice::Notice;
use crate::spec::{Check, Probe, ProbeName};
use crate::state::WorkloadState;

/// Returns a probe with the thresholds that the manifest gives it.
fn notify(name: ProbeName, within: Option<u64>) -> Probe {
    Probe {
        period: Duration::from_secs(10),
        failure_threshold: if name == ProbeName::Startup { 3 } else { 1 },
        ..Probe::of(Check::Notify {
            within: within.map(Duration::from_secs),
        })
    }
}

fn heard(probes: &[(ProbeName, Option<u64>)]) -> WorkloadSpec {
    let probes = probes
        .iter()
        .map(|(name, within)| (*name, notify(*name, *within)));
    WorkloadSpec {
        probes: probes.collect(),
        ..spec()
    }
}

fn says(instance: u64, text: &str) -> Event {
    let notice = Notice::parse(text.as_bytes());
    let said = InstanceEvent::Notified { notice };
    Event::Instance(name(WEB), InstanceId(instance), said)
}

fn wake() -> Event {
    Event::Agent(AgentEvent::Wake)
}

/// Returns a supervisor that has taken the workload over an hour after the last checkpoint.
fn taken_over(decision: Decision) -> Supervisor {
    let (_, kept) = decision
        .checkpoints
        .into_iter()
        .next_back()
        .expect("a change");
    let taken = TakenOver {
        workload: name(WEB),
        checkpoint: kept.expect("a workload"),
        found: Found::Running(CgroupId(1), Counters::default(), 101),
    };
    let left = AgentEvent::TakeOver {
        workloads: vec![taken],
        groups: Vec::new(),
        last: (Seq(50), InstanceId(1)),
    };
    let mut next = Supervisor::new(2);
    let _ = next.handle(at(3600), Event::Agent(left));
    next
}

#[test]
fn a_start_is_over_when_the_program_says_so() {
    let mut supervisor = Supervisor::new(2);
    let spec = heard(&[(ProbeName::Startup, None), (ProbeName::Readiness, None)]);
    let view = |supervisor: &Supervisor| supervisor.view(&name(WEB)).expect("a workload");
    for event in [configure(spec), started(1)] {
        let decision = supervisor.handle(at(0), event);
        assert!(decision.probes.is_empty(), "no edge is asked");
    }
    assert!(!view(&supervisor).ready);
    let _ = supervisor.handle(at(3), says(1, "READY=1\nSTATUS=serving"));
    let seen = view(&supervisor);
    assert!(seen.ready, "at once, and not at the next check");
    assert_eq!(seen.reason, "running: serving");
    assert_eq!(seen.status_text.as_deref(), Some("serving"));
    let _ = supervisor.handle(at(4), says(1, "RELOADING=1"));
    assert!(!view(&supervisor).ready);
    let _ = supervisor.handle(at(5), says(1, "READY=1"));
    assert!(view(&supervisor).ready);
    // An earlier instance says nothing about this one.
    let _ = supervisor.handle(at(6), says(0, "STOPPING=1\nSTATUS=old"));
    assert!(view(&supervisor).ready);
    let _ = supervisor.handle(at(7), says(1, "STOPPING=1"));
    assert!(!view(&supervisor).ready);
}

#[test]
fn a_program_that_does_not_say_so_is_restarted_unless_it_asks_for_time() {
    check(
        heard(&[(ProbeName::Startup, None)]),
        vec![(0, started(1)), (10, wake()), (20, wake())],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            20 s: #3 health
            20 s: #4 stop (startup) because of #3
            20 s:   → signal #1
        "#]],
    );
    check(
        heard(&[(ProbeName::Startup, None)]),
        vec![
            (0, started(1)),
            (5, says(1, "EXTEND_TIMEOUT_USEC=60000000")),
            (10, wake()),
            (20, wake()),
            (30, wake()),
            (70, wake()),
            (80, wake()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            80 s: #3 health
            80 s: #4 stop (startup) because of #3
            80 s:   → signal #1
        "#]],
    );
}

#[test]
fn a_program_that_is_silent_for_too_long_is_restarted() {
    let spec = || heard(&[(ProbeName::Liveness, Some(30))]);
    check(
        spec(),
        vec![
            (0, started(1)),
            (10, wake()),
            (20, wake()),
            (25, says(1, "WATCHDOG=1")),
            (30, wake()),
            (40, wake()),
            (50, wake()),
            (60, wake()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s: #3 health
            60 s: #4 health
            60 s: #5 stop (liveness) because of #4
            60 s:   → signal #1
        "#]],
    );
    // It may find by itself that it does not work.
    check(
        spec(),
        vec![(0, started(1)), (3, says(1, "WATCHDOG=trigger"))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s: #3 health
            3 s: #4 health
            3 s: #5 stop (liveness) because of #4
            3 s:   → signal #1
        "#]],
    );
}

/// A start may take longer than `within`, and so may a night of the host's.
#[test]
fn the_watchdog_counts_only_while_it_is_watched() {
    let mut supervisor = Supervisor::new(2);
    let spec = heard(&[(ProbeName::Startup, None), (ProbeName::Liveness, Some(30))]);
    let state = |supervisor: &Supervisor| {
        let view = supervisor.view(&name(WEB)).expect("a workload");
        (view.state, view.health)
    };
    for event in [configure(spec), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    let _ = supervisor.handle(at(5), says(1, "EXTEND_TIMEOUT_USEC=60000000"));
    for seconds in [10, 20, 30] {
        let _ = supervisor.handle(at(seconds), wake());
    }
    let _ = supervisor.handle(at(40), says(1, "READY=1"));
    let well = (WorkloadState::Running, Health::Healthy);
    assert_eq!(state(&supervisor), well);
    let _ = supervisor.handle(at(50), wake());
    let _ = supervisor.handle(at(30_000), wake());
    assert_eq!(state(&supervisor), well, "the host slept");
    for seconds in [30_010, 30_020, 30_030] {
        let _ = supervisor.handle(at(seconds), wake());
        assert_eq!(state(&supervisor), well);
    }
    let _ = supervisor.handle(at(30_040), wake());
    assert_eq!(state(&supervisor).0, WorkloadState::Stopping);
}

/// A probe that is added while the workload runs asks a program without a socket.
#[test]
fn a_program_without_a_socket_is_not_judged() {
    let mut supervisor = Supervisor::new(2);
    for event in [configure(spec()), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    let spec = heard(&[
        (ProbeName::Readiness, None),
        (ProbeName::Liveness, Some(30)),
    ]);
    for seconds in [100, 110, 120, 130, 140, 150] {
        let _ = supervisor.handle(at(seconds), configure(spec.clone()));
        let _ = supervisor.handle(at(seconds), wake());
        let view = supervisor.view(&name(WEB)).expect("a workload");
        assert_eq!((view.state, view.restarts), (WorkloadState::Running, 0));
    }
}

/// The next agent knows that the instance has no socket.
#[test]
fn a_program_without_a_socket_is_not_judged_after_a_take_over() {
    let mut supervisor = Supervisor::new(2);
    for event in [configure(spec()), prepared(1), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    let spec = heard(&[(ProbeName::Liveness, Some(30))]);
    let decision = supervisor.handle(at(1), configure(spec.clone()));
    let mut next = taken_over(decision);
    for seconds in [3600, 3610, 3620, 3630, 3640, 3650] {
        let _ = next.handle(at(seconds), configure(spec.clone()));
        let _ = next.handle(at(seconds), wake());
        let view = next.view(&name(WEB)).expect("a workload");
        assert_eq!((view.state, view.restarts), (WorkloadState::Running, 0));
    }
}

#[test]
fn a_stop_takes_longer_if_the_program_asks_for_it() {
    let grace = spec().stop.grace.as_secs();
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, request(Request::Stop)),
            (2, says(1, "EXTEND_TIMEOUT_USEC=30000000")),
            (1 + grace, wake()),
            (32, wake()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 stop (manual)
            1 s:   → signal #1
            32 s:   → kill #1
        "#]],
    );
    // Not for ever.
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, request(Request::Stop)),
            (2, says(1, "EXTEND_TIMEOUT_USEC=3600000000")),
            (100, wake()),
            (1 + 10 * grace, wake()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 stop (manual)
            1 s:   → signal #1
            101 s:   → kill #1
        "#]],
    );
}

/// A fast program speaks before the agent knows that its start has succeeded.
#[test]
fn what_is_said_before_the_start_is_known_counts() {
    let mut supervisor = Supervisor::new(2);
    let spec = heard(&[(ProbeName::Startup, None)]);
    for event in [configure(spec), says(1, "READY=1"), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    assert!(supervisor.view(&name(WEB)).expect("a workload").ready);
    // It does not count for the next instance.
    for event in [
        exited(1),
        reaped(1, ExitStatus::Code(1), 0),
        says(1, "READY=1"),
        started(2),
    ] {
        let _ = supervisor.handle(at(1), event);
    }
    let view = supervisor.view(&name(WEB)).expect("a workload");
    assert_eq!((view.instance, view.ready), (InstanceId(2), false));
}

#[test]
fn another_process_may_become_the_main_one() {
    let mut supervisor = Supervisor::new(2);
    for event in [configure(spec()), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    let changed = |instance| {
        let changed = InstanceEvent::MainChanged { pid: 7 };
        Event::Instance(name(WEB), InstanceId(instance), changed)
    };
    let _ = supervisor.handle(at(1), changed(0));
    let decision = supervisor.handle(at(1), changed(1));
    let kinds = decision.transitions.iter().map(|one| one.detail.kind());
    assert_eq!(kinds.collect::<Vec<_>>(), ["main"]);
    let view = supervisor.view(&name(WEB)).expect("a workload");
    assert_eq!(view.pid, Some(7));
    // The same once more is no news.
    let decision = supervisor.handle(at(1), changed(1));
    assert!(decision.transitions.is_empty());
    // It may come before the news of the start.
    let mut supervisor = Supervisor::new(2);
    for event in [configure(spec()), changed(1), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    let view = supervisor.view(&name(WEB)).expect("a workload");
    assert_eq!(view.pid, Some(7));
}

#[test]
fn the_next_agent_knows_what_was_said() {
    let spec = heard(&[
        (ProbeName::Readiness, None),
        (ProbeName::Liveness, Some(30)),
    ]);
    let mut supervisor = Supervisor::new(2);
    for event in [configure(spec.clone()), prepared(1), started(1)] {
        let _ = supervisor.handle(at(0), event);
    }
    let decision = supervisor.handle(at(1), says(1, "READY=1"));
    // An hour without an agent is no silence of the program.
    let mut next = taken_over(decision);
    let _ = next.handle(at(3600), configure(spec));
    let _ = next.handle(at(3601), wake());
    let view = next.view(&name(WEB)).expect("a workload");
    assert_eq!(view.state, WorkloadState::Running);
    assert!(view.ready);
    assert_eq!(view.health, Health::Healthy);
}
