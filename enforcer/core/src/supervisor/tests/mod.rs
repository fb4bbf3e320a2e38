use super::*;
use crate::admission::PROOFS_AT_ONCE;
use crate::cpu_loop::{Thread, Verdict};
use crate::drift::Drifted;
use crate::event::{
    Action, AgentEvent, Aside, CgroupId, Exit, ExitStatus, Found, HostEvent, InstanceEvent,
    InstanceId, Request, StartError, Step, TakenOver, WorkloadAction, WorkloadChange,
    WorkloadEvent,
};
use crate::event::{HostMeasured, Measured};
use crate::limits::Limits;
use crate::oom::{Counters, Victim};
use crate::recovery::TRIAL;
use crate::spec::{Backoff, Budget, Manifest, Recovery, WorkloadSpec};
use crate::units::{Bytes, Limit, MonoTime, Percent};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const WEB: &str = "web";

fn at(seconds: u64) -> Moment {
    Moment {
        now: MonoTime(seconds * 1_000_000_000),
        noise: 0,
    }
}

fn name(text: &str) -> ReplicaId {
    ReplicaId::parse(text).expect("a name")
}

mod alerts;
mod attached;
mod configuration;
mod gate;
mod groups;
mod hooks;
mod lease;
mod loops;
mod notices;
mod probes;
mod sequences;

fn spec() -> WorkloadSpec {
    let backoff = Backoff {
        jitter: Percent(0),
        ..Backoff::default()
    };
    WorkloadSpec {
        command: vec!["/bin/true".to_owned()],
        recovery: Recovery {
            backoff: Some(backoff),
            ..Recovery::default()
        },
        ..WorkloadSpec::default()
    }
}

fn manifest(specs: &[(&str, WorkloadSpec)]) -> Manifest {
    let workloads = specs
        .iter()
        .map(|(text, spec)| (name(text).workload().clone(), Arc::new(spec.clone())))
        .collect();
    Manifest {
        workloads,
        ..Manifest::default()
    }
}

fn configure(spec: WorkloadSpec) -> Event {
    Event::Agent(AgentEvent::Configure {
        manifest: manifest(&[(WEB, spec)]),
        prune: Prune::Nothing,
    })
}

/// The supervisor adds the workloads that the readable files name, and leaves the others alone.
fn prepared(instance: u64) -> Event {
    Event::Instance(
        name(WEB),
        InstanceId(instance),
        InstanceEvent::Prepared {
            cgroup: CgroupId(1),
            counters: Counters::default(),
        },
    )
}

fn started(instance: u64) -> Event {
    Event::Instance(
        name(WEB),
        InstanceId(instance),
        InstanceEvent::Started {
            pid: 100 + u32::try_from(instance).expect("small"),
        },
    )
}

fn exited(instance: u64) -> Event {
    Event::Instance(name(WEB), InstanceId(instance), InstanceEvent::MainExited)
}

fn reaped(instance: u64, status: ExitStatus, oom_kill: u64) -> Event {
    let counters = Counters {
        oom_kill,
        own_oom: oom_kill,
        ..Counters::default()
    };
    Event::Instance(
        name(WEB),
        InstanceId(instance),
        InstanceEvent::Reaped { status, counters },
    )
}

fn request(request: Request) -> Event {
    Event::Workload(name(WEB), WorkloadEvent::Request { request })
}

/// Actions and records of each event, with the time in seconds.
fn check(spec: WorkloadSpec, events: Vec<(u64, Event)>, expected: &Expect) {
    let mut supervisor = Supervisor::new(2);
    let mut reported = String::new();
    let all = [
        (0, Event::Agent(AgentEvent::EbpfAttached(true))),
        (0, configure(spec)),
    ]
    .into_iter()
    .chain(events);
    for (seconds, event) in all {
        let moment = Moment {
            now: MonoTime(seconds * 1_000_000_000),
            noise: 0,
        };
        let is_wake = matches!(event, Event::Agent(AgentEvent::Wake));
        let decision = supervisor.handle(moment, event);
        // Otherwise the agent would do nothing else.
        let again = decision.wake.is_some_and(|wake| wake <= moment.now);
        assert!(!(is_wake && again), "it would wake again at once");
        for transition in &decision.transitions {
            reported.push_str(&format!(
                "{seconds} s: #{} {}",
                transition.seq.0,
                transition.detail.kind()
            ));
            if let Some(reason) = transition.reason {
                reported.push_str(&format!(" ({reason})"));
            }
            if let Some(cause) = transition.caused_by {
                reported.push_str(&format!(" because of #{}", cause.0));
            }
            reported.push('\n');
        }
        for run in &decision.probes {
            reported.push_str(&format!("{seconds} s:   → ask {}\n", run.probe));
        }
        for action in &decision.actions {
            reported.push_str(&format!("{seconds} s:   → {}\n", shown(action)));
        }
    }
    expected.assert_eq(&reported);
}

/// Returns an action in words: a hook by its name, and an action of a workload with its instance.
fn shown(action: &Action) -> String {
    match action {
        Action::Workload(WorkloadAction {
            instance, change, ..
        }) => match change {
            WorkloadChange::Aside(Aside::RunHook { hook, .. }) => {
                format!("{} #{}", hook.as_str(), instance.0)
            }
            WorkloadChange::Aside(Aside::SetDoor { door }) => {
                format!("{door:?} #{}", instance.0).to_lowercase()
            }
            WorkloadChange::Step(_) | WorkloadChange::Aside(_) => {
                format!("{} #{}", action.name(), instance.0)
            }
        },
        Action::Host(_) => action.name().to_owned(),
    }
}

/// A start that hangs is given up: at once by `kill`, and a second after `stop`, so that a
/// program which begins in this moment gets its signal and its grace.
#[test]
fn a_start_that_hangs_is_given_up_when_it_is_asked_to_stop() {
    check(
        spec(),
        vec![
            (3, request(Request::Stop)),
            (4, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            4 s: #2 stop (manual)
            4 s:   → abort_start #1
        "#]],
    );
    check(
        spec(),
        vec![(3, request(Request::Kill))],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            3 s: #2 stop (manual)
            3 s:   → abort_start #1
        "#]],
    );
    check(
        spec(),
        vec![
            (3, request(Request::Stop)),
            (3, started(1)),
            (5, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            3 s: #2 start
            3 s: #3 stop (manual)
            3 s:   → signal #1
        "#]],
    );
}

/// A process in state D does not end by SIGKILL. It is reported, and holds up no shutdown.
#[test]
fn what_stays_after_its_kill_is_reported_again_and_again_and_not_waited_for() {
    let stays = || {
        Event::Instance(
            name(WEB),
            InstanceId(1),
            InstanceEvent::Stays {
                processes: "process 101 (web): it is in state D".to_owned(),
            },
        )
    };
    check(
        spec(),
        vec![
            (1, prepared(1)),
            (1, started(1)),
            (3, request(Request::Kill)),
            (12, Event::Agent(AgentEvent::Wake)),
            (13, Event::Agent(AgentEvent::Wake)),
            (13, stays()),
            (73, Event::Agent(AgentEvent::Wake)),
            (80, exited(1)),
            (80, reaped(1, ExitStatus::Signal(9), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            1 s: #2 start
            3 s: #3 stop (manual)
            3 s:   → kill #1
            13 s:   → report_stuck #1
            13 s: #4 degraded
            73 s:   → report_stuck #1
            80 s:   → reap #1
            80 s: #5 exit because of #3
            80 s:   → remove_cgroup #1
        "#]],
    );
    let mut supervisor = Supervisor::new(2);
    let mut handle = |seconds: u64, event| {
        let moment = Moment {
            now: MonoTime(seconds * 1_000_000_000),
            noise: 0,
        };
        supervisor.handle(moment, event)
    };
    let _ = handle(0, configure(spec()));
    let _ = handle(1, started(1));
    assert!(!handle(2, Event::Agent(AgentEvent::Shutdown)).finished);
    assert!(!handle(13, Event::Agent(AgentEvent::Wake)).finished);
    assert!(handle(23, stays()).finished);
}

#[test]
fn an_oom_kill_is_reported_before_its_exit_and_answered() {
    let victim = Victim {
        pid: 101,
        ..Victim::default()
    };
    let counters = Counters {
        oom_kill: 2,
        own_oom: 1,
        oom_group_kill: 1,
        ..Counters::default()
    };
    check(
        spec(),
        vec![
            (0, prepared(1)),
            (0, started(1)),
            (
                1,
                Event::Workload(
                    name(WEB),
                    WorkloadEvent::OomMark {
                        victim,
                        counters: counters.clone(),
                    },
                ),
            ),
            (1, exited(1)),
            (
                1,
                Event::Instance(
                    name(WEB),
                    InstanceId(1),
                    InstanceEvent::Reaped {
                        status: ExitStatus::Signal(9),
                        counters,
                    },
                ),
            ),
            (1, started(2)),
        ],
        &expect![[r#"
              0 s: #1 config (config)
              0 s:   → start #1
              0 s: #2 start
              1 s:   → reap #1
              1 s: #3 oom_kill
              1 s: #4 exit because of #3
              1 s: #5 restart (oom_kill) because of #4
              1 s:   → start #2
              1 s: #6 start
        "#]],
    );
}

#[test]
fn failures_back_off_and_open_the_breaker() {
    let mut recovery = spec().recovery;
    recovery.budget = Some(Budget {
        restarts: 2,
        within: Duration::from_secs(60),
    });
    check(
        WorkloadSpec { recovery, ..spec() },
        vec![
            (0, started(1)),
            (0, exited(1)),
            (0, reaped(1, ExitStatus::Code(1), 0)),
            (0, started(2)),
            (0, exited(2)),
            (0, reaped(2, ExitStatus::Code(1), 0)),
            (0, Event::Agent(AgentEvent::Wake)),
            (1, Event::Agent(AgentEvent::Wake)),
            (1, started(3)),
            (1, exited(3)),
            (1, reaped(3, ExitStatus::Code(1), 0)),
            (60, Event::Agent(AgentEvent::Wake)),
            (61, Event::Agent(AgentEvent::Wake)),
            (61, started(4)),
            (61 + TRIAL.as_secs(), Event::Agent(AgentEvent::Wake)),
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
            1 s:   → start #3
            1 s: #10 start
            1 s:   → reap #3
            1 s: #11 exit
            1 s: #12 breaker (exit) because of #11
            1 s: #13 health
            61 s: #14 breaker (exit) because of #12
            61 s: #15 health
            61 s:   → start #4
            61 s: #16 start
            91 s: #17 breaker
        "#]],
    );
}

#[test]
fn a_stop_asks_then_kills_then_cleans_up() {
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, request(Request::Stop)),
            (10, Event::Agent(AgentEvent::Wake)),
            (11, Event::Agent(AgentEvent::Wake)),
            (11, exited(1)),
            (11, reaped(1, ExitStatus::Signal(9), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 stop (manual)
            1 s:   → signal #1
            11 s:   → kill #1
            11 s:   → reap #1
            11 s: #4 exit because of #3
            11 s:   → remove_cgroup #1
        "#]],
    );
}

#[test]
fn a_stop_during_a_start_waits_for_it() {
    check(
        spec(),
        vec![
            (0, request(Request::Stop)),
            (0, started(1)),
            (0, exited(1)),
            (0, reaped(1, ExitStatus::Signal(15), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s: #3 stop (manual)
            0 s:   → signal #1
            0 s:   → reap #1
            0 s: #4 exit because of #3
            0 s:   → remove_cgroup #1
        "#]],
    );
}

#[test]
fn a_start_by_hand_ends_the_waiting() {
    let error = StartError {
        stage: "execute /x".to_owned(),
        errno: Some(2),
        error: "gone".to_owned(),
    };
    check(
        spec(),
        vec![
            (
                0,
                Event::Instance(
                    name(WEB),
                    InstanceId(1),
                    InstanceEvent::StartFailed {
                        error: error.clone(),
                    },
                ),
            ),
            (
                0,
                Event::Instance(
                    name(WEB),
                    InstanceId(2),
                    InstanceEvent::StartFailed { error },
                ),
            ),
            (0, request(Request::Start)),
            (0, started(3)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            0 s: #3 restart (exit) because of #2
            0 s:   → start #2
            0 s: #4 start
            0 s: #5 restart (exit) because of #4
            0 s: #6 health
            0 s: #7 restart (manual)
            0 s: #8 health
            0 s:   → start #3
            0 s: #9 start
        "#]],
    );
}

#[test]
fn a_kill_without_a_name_does_not_explain_a_signal_hours_later() {
    let mut lone = spec();
    lone.limits.memory_oom_group = Some(false);
    let mut supervisor = Supervisor::new(2);
    let mut reported = Vec::new();
    let one_kill = Counters {
        oom_kill: 1,
        own_oom: 1,
        ..Counters::default()
    };
    let events = [
        (0, configure(lone)),
        (0, prepared(1)),
        (0, started(1)),
        (
            1,
            Event::Workload(
                name(WEB),
                WorkloadEvent::CountersRead { counters: one_kill },
            ),
        ),
        (7200, exited(1)),
        (7200, reaped(1, ExitStatus::Signal(9), 1)),
    ];
    for (seconds, event) in events {
        let moment = Moment {
            now: MonoTime(seconds * 1_000_000_000),
            noise: 0,
        };
        reported.extend(supervisor.handle(moment, event).transitions);
    }
    let exit = reported.iter().find_map(|transition| {
        if let Detail::Exit(Exit { oom_killed, .. }) = transition.detail {
            return Some(oom_killed);
        }
        None
    });
    assert_eq!(exit, Some(false));
}

#[test]
fn a_shutdown_is_finished_when_nothing_runs() {
    let mut supervisor = Supervisor::new(2);
    let mut handle = |event| {
        supervisor
            .handle(
                Moment {
                    now: MonoTime(0),
                    noise: 0,
                },
                event,
            )
            .finished
    };
    assert!(!handle(configure(spec())));
    assert!(!handle(started(1)));
    assert!(!handle(Event::Agent(AgentEvent::Shutdown)));
    assert!(!handle(exited(1)));
    assert!(handle(reaped(1, ExitStatus::Signal(15), 0)));
}
