//! The gate in front of ports, and the drain before a stop.

use super::probes::hook_ended;
use super::*;
use crate::event::{Drained, Hook};
use crate::spec::{Port, Rollout};
use std::time::Duration;

fn behind_gate() -> WorkloadSpec {
    WorkloadSpec {
        ports: [("http".to_owned(), Port::plain(8080))].into(),
        rollout: Rollout {
            drain: Duration::from_secs(30),
            ..Rollout::default()
        },
        ..spec()
    }
}

pub(super) fn drained(instance: u64, left: u32) -> Event {
    let drained = Drained {
        took: Duration::from_secs(2),
        connections: 3,
        left,
        unknown: None,
    };
    Event::Instance(
        name(WEB),
        InstanceId(instance),
        InstanceEvent::Drained { drained },
    )
}

fn wake() -> Event {
    Event::Agent(AgentEvent::Wake)
}

#[test]
fn a_restart_closes_the_gate_drains_and_opens_it_again() {
    check(
        behind_gate(),
        vec![
            (1, started(1)),
            (2, request(Request::Restart)),
            (4, drained(1, 0)),
            (5, exited(1)),
            (6, reaped(1, ExitStatus::Code(0), 0)),
            (7, started(2)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 stop (manual)
            2 s: #5 ready
            2 s:   → wait #1
            2 s:   → drain #1
            4 s: #6 drain (manual) because of #4
            4 s:   → signal #1
            5 s:   → reap #1
            6 s: #7 exit because of #4
            6 s: #8 restart (manual) because of #7
            6 s:   → start #2
            7 s: #9 start
            7 s: #10 ready
            7 s:   → open #2
        "#]],
    );
}

#[test]
fn a_stop_refuses_and_waits_for_hook_and_connections() {
    let spec = WorkloadSpec {
        on_unready: Some(vec!["/announce".to_owned()]),
        ..behind_gate()
    };
    check(
        spec.clone(),
        vec![
            (1, started(1)),
            (2, request(Request::Stop)),
            (3, hook_ended(Hook::OnUnready, 1, None)),
            (4, drained(1, 1)),
            (5, exited(1)),
            (6, reaped(1, ExitStatus::Code(0), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 stop (manual)
            2 s: #5 ready
            2 s:   → on_unready #1
            2 s:   → refuse #1
            2 s:   → drain #1
            4 s: #6 drain (manual) because of #4
            4 s:   → signal #1
            5 s:   → reap #1
            6 s: #7 exit because of #4
            6 s:   → remove_cgroup #1
        "#]],
    );
    // Without an answer, the wait ends by itself. A kill waits for nothing.
    check(
        spec,
        vec![
            (1, started(1)),
            (2, request(Request::Stop)),
            (3, hook_ended(Hook::OnUnready, 1, None)),
            (33, wake()),
            (34, drained(1, 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 stop (manual)
            2 s: #5 ready
            2 s:   → on_unready #1
            2 s:   → refuse #1
            2 s:   → drain #1
            33 s:   → signal #1
        "#]],
    );
    check(
        behind_gate(),
        vec![
            (1, started(1)),
            (2, request(Request::Kill)),
            (3, drained(1, 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 stop (manual)
            2 s: #5 ready
            2 s:   → refuse #1
            2 s:   → kill #1
        "#]],
    );
}

#[test]
fn connections_wait_for_a_while_after_a_failure_and_are_refused_then() {
    check(
        behind_gate(),
        vec![
            (1, started(1)),
            (2, exited(1)),
            (2, reaped(1, ExitStatus::Code(1), 0)),
            (3, wake()),
            (4, started(2)),
            (5, exited(2)),
            (5, reaped(2, ExitStatus::Code(1), 0)),
            (7, wake()),
            (10, wake()),
            (11, started(3)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 ready
            2 s:   → reap #1
            2 s:   → wait #1
            2 s: #5 exit
            2 s: #6 restart (exit) because of #5
            2 s:   → start #2
            4 s: #7 start
            4 s: #8 ready
            4 s:   → open #2
            5 s: #9 ready
            5 s:   → reap #2
            5 s:   → wait #2
            5 s: #10 exit
            5 s: #11 restart (exit) because of #10
            5 s: #12 health
            7 s: #13 health
            7 s:   → start #3
            10 s:   → refuse #3
            11 s: #14 start
            11 s: #15 ready
            11 s:   → open #3
        "#]],
    );
    let off = WorkloadSpec {
        unready_wait: None,
        ..behind_gate()
    };
    check(
        off,
        vec![(1, started(1)), (2, exited(1))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → refuse #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 ready
            2 s:   → reap #1
            2 s:   → refuse #1
        "#]],
    );
}

#[test]
fn the_gate_waits_for_the_first_readiness() {
    // A workload that never becomes ready refuses after the wait, and a workload without ports has
    // no gate.
    check(
        behind_gate(),
        vec![(4, wake()), (5, wake()), (6, started(1))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            5 s:   → refuse #1
            6 s: #2 start
            6 s: #3 ready
            6 s:   → open #1
        "#]],
    );
    check(
        spec(),
        vec![(1, started(1)), (2, request(Request::Stop))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            2 s: #3 stop (manual)
            2 s:   → signal #1
        "#]],
    );
}

#[test]
fn connections_wait_as_long_as_others_drain_and_then_for_their_time() {
    check(
        behind_gate(),
        vec![
            (1, started(1)),
            (2, request(Request::Restart)),
            (8, wake()),
            (20, drained(1, 0)),
            (21, exited(1)),
            (22, reaped(1, ExitStatus::Code(0), 0)),
            (24, wake()),
            (25, wake()),
            (26, started(2)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 stop (manual)
            2 s: #5 ready
            2 s:   → wait #1
            2 s:   → drain #1
            20 s: #6 drain (manual) because of #4
            20 s:   → signal #1
            21 s:   → reap #1
            22 s: #7 exit because of #4
            22 s: #8 restart (manual) because of #7
            22 s:   → start #2
            25 s:   → refuse #2
            26 s: #9 start
            26 s: #10 ready
            26 s:   → open #2
        "#]],
    );
}

#[test]
fn a_shutdown_of_the_host_does_not_drain() {
    check(
        behind_gate(),
        vec![(1, started(1)), (2, Event::Agent(AgentEvent::Shutdown))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 agent (agent)
            2 s: #5 stop (agent)
            2 s: #6 ready
            2 s:   → refuse #1
            2 s:   → signal #1
        "#]],
    );
}

#[test]
fn ports_that_the_manifest_drops_are_closed_and_drained() {
    check(
        behind_gate(),
        vec![(1, started(1)), (2, configure(spec())), (4, drained(1, 0))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → wait #0
            0 s:   → start #1
            1 s: #2 start
            1 s: #3 ready
            1 s:   → open #1
            2 s: #4 config (config)
            2 s: #5 stop (config)
            2 s:   → refuse #1
            2 s:   → drain #1
            4 s: #6 drain (config) because of #5
            4 s:   → signal #1
        "#]],
    );
}
