//! Workloads that run only until a deadline.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::state::WorkloadState;

fn leased() -> WorkloadSpec {
    WorkloadSpec {
        leased: true,
        ..spec()
    }
}

fn until(seconds: u64) -> Event {
    request(Request::Deadline(MonoTime(seconds * 1_000_000_000)))
}

fn wake() -> Event {
    Event::Agent(AgentEvent::Wake)
}

#[test]
fn it_runs_while_its_deadline_is_ahead() {
    check(
        leased(),
        vec![
            // Without a deadline nothing starts, for a person neither.
            (1, request(Request::Start)),
            (2, until(30)),
            (3, started(1)),
            (20, until(50)),
            (31, wake()),
            (50, wake()),
            // It has not ended, and its grace of 10 s is over.
            (60, wake()),
            (61, exited(1)),
            (61, reaped(1, ExitStatus::Signal(9), 0)),
            (62, until(40)),
            (63, until(100)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            1 s: #2 restart (manual)
            2 s: #3 restart (deadline)
            2 s:   → start #1
            3 s: #4 start
            50 s: #5 stop (deadline)
            50 s:   → signal #1
            60 s:   → kill #1
            61 s:   → reap #1
            61 s: #6 exit because of #5
            61 s:   → remove_cgroup #1
            63 s: #7 restart (deadline)
            63 s:   → start #2
        "#]],
    );
}

#[test]
fn a_drain_and_commands_do_not_outlast_the_deadline() {
    let spec = WorkloadSpec {
        before_stop: vec![vec!["/drain".to_owned()]],
        ..leased()
    };
    check(
        spec.clone(),
        vec![
            (1, until(30)),
            (2, started(1)),
            (29, request(Request::Stop)),
            (30, wake()),
            (40, wake()),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            1 s: #2 restart (deadline)
            1 s:   → start #1
            2 s: #3 start
            29 s: #4 stop (manual)
            29 s:   → before_stop #1
            40 s:   → kill #1
        "#]],
    );
    check(
        spec,
        vec![(1, until(30)), (2, started(1)), (30, wake())],
        &expect![[r#"
            0 s: #1 config (config)
            1 s: #2 restart (deadline)
            1 s:   → start #1
            2 s: #3 start
            30 s: #4 stop (deadline)
            30 s:   → signal #1
        "#]],
    );
}

#[test]
fn a_failed_one_starts_again_only_in_time() {
    check(
        leased(),
        vec![
            (1, until(30)),
            (2, started(1)),
            (28, exited(1)),
            (28, reaped(1, ExitStatus::Code(1), 0)),
            (31, wake()),
            (32, until(90)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            1 s: #2 restart (deadline)
            1 s:   → start #1
            2 s: #3 start
            28 s:   → reap #1
            28 s: #4 exit
            28 s: #5 restart (exit) because of #4
            28 s:   → start #2
        "#]],
    );
}

#[test]
fn one_that_was_killed_while_no_agent_ran_waits_for_time() {
    let mut supervisor = Supervisor::new(2);
    let events = [
        (1, configure(leased())),
        (1, until(30)),
        (1, started(1)),
        // The next agent finds that it has ended.
        (50, exited(1)),
        (50, wake()),
        (50, reaped(1, ExitStatus::Signal(9), 0)),
    ];
    for (seconds, event) in events {
        let _ = supervisor.handle(at(seconds), event);
    }
    let state = |supervisor: &Supervisor| supervisor.views().next().map(|view| view.state);
    assert_eq!(state(&supervisor), Some(WorkloadState::Stopped));
    let _ = supervisor.handle(at(51), until(90));
    assert_eq!(state(&supervisor), Some(WorkloadState::Starting));
}

#[test]
fn another_agent_keeps_the_deadline() {
    let mut supervisor = Supervisor::new(2);
    let mut kept: Option<Checkpoint> = None;
    for event in [configure(leased()), until(30), started(1)] {
        let decision = supervisor.handle(at(1), event);
        let all = decision.checkpoints.into_iter();
        kept = all.filter_map(|(_, kept)| kept).next_back().or(kept);
    }
    let text = serde_json::to_string(&kept.expect("a checkpoint")).expect("it can be written");
    let kept: Checkpoint = serde_json::from_str(&text).expect("a checkpoint");
    assert_eq!(kept.lease(), Some((at(30).now, at(40).now)));

    let instance = kept.instance();
    let take_over = Event::Agent(AgentEvent::TakeOver {
        workloads: vec![TakenOver {
            workload: name(WEB),
            checkpoint: kept,
            found: Found::Running(CgroupId(1), Counters::default(), 101),
        }],
        groups: Vec::new(),
        last: (Seq(9), instance),
    });
    let mut next = Supervisor::new(2);
    let decision = next.handle(at(20), take_over.clone());
    assert_eq!(decision.wake, Some(at(30).now));
    // The deadline passes while there is no agent.
    let mut late = Supervisor::new(2);
    for event in [take_over, wake()] {
        let _ = late.handle(at(35), event);
    }
    let state = late.views().next().map(|view| view.state);
    assert_eq!(state, Some(WorkloadState::Stopping));
}
