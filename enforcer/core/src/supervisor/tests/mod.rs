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

fn name(text: &str) -> WorkloadName {
    WorkloadName::parse(text).expect("a name")
}

mod alerts;
mod loops;
mod probes;

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
        .map(|(text, spec)| (name(text), spec.clone()))
        .collect();
    Manifest {
        workloads,
        ..Manifest::default()
    }
}

fn configure(spec: WorkloadSpec) -> Event {
    Event::Agent(AgentEvent::Configure {
        manifest: manifest(&[(WEB, spec)]),
        prune: false,
    })
}

/// The supervisor adds the workloads that the readable files name, and leaves the others alone.
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
        .map(|told| (told.workload.clone(), told.detail.kind()))
        .collect();
    assert_eq!(kinds[0], (Some(name(other)), "config"));
    assert!(
        kinds.iter().all(|(of, _)| *of == Some(name(other))),
        "{kinds:?}"
    );
    assert!(supervisor.manifest().workloads.contains_key(&name(WEB)));
}

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
    let mut told = String::new();
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
        let decision = supervisor.handle(moment, event);
        for transition in &decision.transitions {
            told.push_str(&format!(
                "{seconds} s: #{} {}",
                transition.seq.0,
                transition.detail.kind()
            ));
            if let Some(reason) = transition.reason {
                told.push_str(&format!(" ({reason})"));
            }
            if let Some(cause) = transition.caused_by {
                told.push_str(&format!(" because of #{}", cause.0));
            }
            told.push('\n');
        }
        for run in &decision.probes {
            told.push_str(&format!("{seconds} s:   → ask {}\n", run.probe));
        }
        for action in &decision.actions {
            told.push_str(&format!("{seconds} s:   → {}\n", shown(action)));
        }
    }
    expected.assert_eq(&told);
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
fn an_oom_kill_is_told_before_its_exit_and_answered() {
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
fn what_is_being_put_right_is_told_and_counted_once() {
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
fn what_is_pruned_and_named_again_comes_back() {
    let nothing = Event::Agent(AgentEvent::Configure {
        manifest: Manifest::default(),
        prune: true,
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

#[test]
fn a_kill_without_a_name_does_not_explain_a_signal_hours_later() {
    let mut lone = spec();
    lone.limits.memory_oom_group = Some(false);
    let mut supervisor = Supervisor::new(2);
    let mut told = Vec::new();
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
        told.extend(supervisor.handle(moment, event).transitions);
    }
    let exit = told.iter().find_map(|transition| {
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

/// The world outside: it answers actions, in any order and at any time.
#[derive(Clone, Debug)]
enum Stimulus {
    Answer,
    Exit(bool),
    Request(u8),
    Change(bool),
    Stale(u8),
    Wait(u32),
    Suspect(u32),
    Evidence(Verdict),
    Slept(u32),
    /// Of any probe under way: it passed, or failed, or couldn't be asked.
    Probe(u8),
    /// A hook has ended.
    Hook,
    /// Another manifest: without the workload, and with or without pruning it.
    Unname(bool),
    /// The host's memory, in percent.
    Memory(u32),
    /// The agent dies, and another one takes over; what becomes of a start that is under
    /// way, and whether the instance ends meanwhile.
    Crash(bool, bool),
}

fn step() -> impl Strategy<Value = Stimulus> {
    prop_oneof![
        4 => Just(Stimulus::Answer),
        3 => any::<bool>().prop_map(Stimulus::Exit),
        1 => (0..6u8).prop_map(Stimulus::Request),
        1 => any::<bool>().prop_map(Stimulus::Change),
        1 => (0..4u8).prop_map(Stimulus::Stale),
        2 => (1..100_000u32).prop_map(Stimulus::Wait),
        2 => (0..4u32).prop_map(Stimulus::Suspect),
        2 => prop_oneof![
            Just(Verdict::OverBudget),
            Just(Verdict::SyscallSpin),
            Just(Verdict::DeadLoop)
        ].prop_map(Stimulus::Evidence),
        1 => (0..4u32).prop_map(Stimulus::Slept),
        4 => (0..5u8).prop_map(Stimulus::Probe),
        2 => Just(Stimulus::Hook),
        1 => any::<bool>().prop_map(Stimulus::Unname),
        1 => (0..101u32).prop_map(Stimulus::Memory),
        2 => any::<(bool, bool)>().prop_map(|(begun, ended)| Stimulus::Crash(begun, ended)),
    ]
}

/// What the executor would hold: at most one instance, and its owed answers.
#[derive(Default)]
struct World {
    owed: Vec<(InstanceId, &'static str)>,
    alive: BTreeSet<InstanceId>,
    starts: Vec<MonoTime>,
    proofs: Vec<(Thread, MonoTime)>,
    probes: Vec<crate::event::ProbeRun>,
    hooks: Vec<crate::event::Hook>,
    /// The stop signal was sent, or the tree killed, since the instance began.
    asked_to_end: bool,
    /// What the kernel was last given.
    limits: Option<Limits>,
    /// What was kept for a later agent, as it is written.
    kept: BTreeMap<WorkloadName, String>,
    last: (Seq, InstanceId),
}

impl World {
    /// What another agent finds after this one has died.
    fn crash(&mut self, begun: bool, ended: bool) -> Event {
        let counters = Counters::default();
        let cgroup = CgroupId(7);
        let found = match (self.alive.first().copied(), self.owed.pop()) {
            // The gate closes with the agent, or was open already.
            (Some(_), Some((_, "start"))) if !begun => {
                self.alive.clear();
                Found::Cgroup(cgroup, counters)
            }
            (Some(_), Some((_, "reap"))) => Found::Ended(cgroup, counters, 100),
            (Some(_), _) if ended => Found::Ended(cgroup, counters, 100),
            (Some(_), _) => Found::Running(cgroup, counters, 100),
            (None, Some(_)) => Found::Cgroup(cgroup, counters),
            (None, None) => Found::Nothing,
        };
        self.owed.clear();
        self.proofs.clear();
        self.probes.clear();
        self.hooks.clear();
        self.asked_to_end = false;
        let taken = |(workload, text): (&WorkloadName, &String)| TakenOver {
            workload: workload.clone(),
            checkpoint: serde_json::from_str(text).expect("it was written so"),
            found: found.clone(),
        };
        Event::Agent(AgentEvent::TakeOver {
            workloads: self.kept.iter().map(taken).collect(),
            last: self.last,
        })
    }

    fn keep(&mut self, decision: &Decision) {
        for (name, checkpoint) in &decision.checkpoints {
            match checkpoint {
                Some(checkpoint) => {
                    self.last.1 = self.last.1.max(checkpoint.instance());
                    let text = serde_json::to_string(checkpoint).expect("it can be written");
                    self.kept.insert(name.clone(), text);
                }
                None => drop(self.kept.remove(name)),
            }
        }
        let seqs = decision.transitions.iter().map(|transition| transition.seq);
        self.last.0 = seqs.max().unwrap_or_default().max(self.last.0);
    }

    fn take(&mut self, now: MonoTime, decision: &Decision) {
        self.keep(decision);
        for action in &decision.actions {
            assert!(action.reason().seq.0 > 0, "no action without a reason");
            let Action::Workload(action) = action else {
                continue;
            };
            match &action.change {
                WorkloadChange::Step(Step::Start { limits, .. }) => {
                    self.asked_to_end = false;
                    self.limits = Some((**limits).clone());
                    assert!(self.alive.is_empty(), "a second live instance");
                    assert!(self.owed.is_empty(), "an action while another is under way");
                    self.alive.insert(action.instance);
                    self.owed.push((action.instance, "start"));
                    if action.reason.cause.is_failure() {
                        self.starts.push(now);
                    }
                }
                WorkloadChange::Step(Step::Reap) => self.owed.push((action.instance, "reap")),
                WorkloadChange::Step(Step::RemoveCgroup) => {
                    assert!(self.alive.is_empty(), "removed under a live instance")
                }
                WorkloadChange::Step(Step::WriteLimits { limits, .. }) => {
                    self.limits = Some((**limits).clone())
                }
                WorkloadChange::Step(Step::Investigate { suspect }) => {
                    // What doesn't come back loses its turn.
                    let lost = Duration::from_secs(30);
                    self.proofs.retain(|(_, since)| now.since(*since) < lost);
                    self.proofs.push((suspect.thread, now));
                    assert!(
                        self.proofs.len() <= PROOFS_AT_ONCE,
                        "too many proofs at once"
                    );
                }
                WorkloadChange::Aside(Aside::RunHook { hook, .. }) => {
                    self.hooks.push(*hook);
                    assert_eq!(self.hooks.len(), 1, "two hooks at once");
                }
                WorkloadChange::Aside(Aside::Remedy { .. }) => {
                    assert!(
                        self.owed.is_empty(),
                        "a remedy while an action is under way"
                    );
                    self.owed.push((action.instance, "remedy"));
                }
                WorkloadChange::Step(Step::Signal { .. }) => {
                    assert!(!self.asked_to_end, "asked to end twice");
                    self.asked_to_end = true;
                }
                WorkloadChange::Step(Step::KillTree) => self.asked_to_end = true,
                // The start that is under way is answered all the same.
                WorkloadChange::Aside(Aside::AbortStart) => {
                    let starting = self.owed.last().is_some_and(|(_, owed)| *owed == "start");
                    assert!(starting, "nothing to abort");
                }
                WorkloadChange::Aside(Aside::ReportStuck) => {}
            }
        }
        for run in &decision.probes {
            let same = |other: &crate::event::ProbeRun| {
                other.instance == run.instance && other.probe == run.probe
            };
            // One that is never answered is asked again after its time-out and a while.
            self.probes
                .retain(|other| !same(other) || now.since(other.due) < Duration::from_secs(31));
            assert!(
                !self.probes.iter().any(same),
                "a probe that overlaps with itself"
            );
            self.probes.push(run.clone());
        }
        let seqs: Vec<Seq> = decision
            .transitions
            .iter()
            .map(|transition| transition.seq)
            .collect();
        assert!(seqs.is_sorted(), "records out of order");
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_invariants_hold(steps in prop::collection::vec(step(), 1..300)) {
        let mut supervisor = Supervisor::new(2);
        let mut world = World::default();
        let mut now = MonoTime(0);
        let handle = |supervisor: &mut Supervisor, world: &mut World, now, event| {
            let decision = supervisor.handle(Moment { now, noise: now.0 }, event);
            world.take(now, &decision);
            decision
        };
        let _ = handle(&mut supervisor, &mut world, now, configure(probes::everything()));
        for step in steps {
            let event = match step {
                Stimulus::Answer => match world.owed.pop() {
                    Some((instance, "start")) => started(instance.0),
                    Some((instance, "remedy")) => probes::remedied(instance.0, None),
                    Some((instance, _)) => {
                        world.alive.remove(&instance);
                        world.proofs.clear();
                        reaped(instance.0, ExitStatus::Code(1), 0)
                    }
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Exit(fails) => match (world.alive.first(), world.owed.pop()) {
                    (Some(instance), None) => exited(instance.0),
                    (Some(_), Some((instance, "start"))) if fails => {
                        world.alive.remove(&instance);
                        let error = StartError { stage: "x".to_owned(), errno: None, error: "y".to_owned() };
                        Event::Instance(name(WEB), instance, InstanceEvent::StartFailed { error })
                    }
                    (_, owed) => {
                        world.owed.extend(owed);
                        Event::Agent(AgentEvent::Wake)
                    }
                },
                Stimulus::Request(which) => request(
                    [
                        Request::Start,
                        Request::Stop,
                        Request::Restart,
                        Request::Kill,
                        Request::Throttle(Percent(20)),
                        Request::Release,
                    ][usize::from(which)],
                ),
                Stimulus::Change(command) => {
                    let mut changed = probes::everything();
                    if command {
                        changed.command.push(now.0.to_string());
                    } else {
                        changed.priority = 10;
                    }
                    configure(changed)
                }
                // Answers of instances that are long gone change nothing.
                Stimulus::Stale(which) => {
                    let before = format!("{supervisor:?}");
                    let stale = [started(0), exited(0), reaped(0, ExitStatus::Code(0), 0), prepared(0)];
                    let decision = handle(&mut supervisor, &mut world, now, stale[usize::from(which)].clone());
                    prop_assert!(decision.actions.is_empty() && decision.transitions.is_empty());
                    prop_assert_eq!(before, format!("{supervisor:?}"));
                    continue;
                }
                Stimulus::Suspect(tid) => loops::suspect(tid),
                Stimulus::Evidence(verdict) => match world.proofs.pop() {
                    Some((thread, _)) => loops::evidence(thread.tid, verdict),
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Slept(tid) => loops::slept(tid),
                Stimulus::Probe(outcome) => match world.probes.pop() {
                    Some(run) => probes::answer(&run, outcome),
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Hook => match world.hooks.pop() {
                    Some(hook) => probes::hook_done(hook),
                    None => Event::Agent(AgentEvent::Wake),
                },
                Stimulus::Unname(prune) => Event::Agent(AgentEvent::Configure { manifest: Manifest::default(), prune }),
                Stimulus::Memory(used) => probes::memory(used),
                Stimulus::Crash(begun, ended) => {
                    let before = supervisor.view(&name(WEB));
                    let manifest = supervisor.manifest();
                    let left = world.crash(begun, ended);
                    let known = !world.kept.is_empty();
                    supervisor = Supervisor::new(2);
                    let _ = handle(&mut supervisor, &mut world, now, left);
                    if let (Some(before), Some(after), true) = (before, supervisor.view(&name(WEB)), known) {
                        prop_assert_eq!(before.restarts, after.restarts);
                        prop_assert_eq!(before.spent, after.spent);
                        prop_assert_eq!(before.instance, after.instance);
                        prop_assert_eq!(before.claims, after.claims);
                        prop_assert_eq!(before.spec, after.spec);
                    }
                    Event::Agent(AgentEvent::Configure { manifest, prune: false })
                }
                Stimulus::Wait(millis) => {
                    now = now.after(Duration::from_millis(u64::from(millis)));
                    Event::Agent(AgentEvent::Wake)
                }
            };
            let by_hand = matches!(event, Event::Workload(_, WorkloadEvent::Request { .. }));
            let decision = handle(&mut supervisor, &mut world, now, event);
            if by_hand {
                // A person's wish begins a new count.
                world.starts.clear();
            }
            // The kernel has the manifest's limits, and what is claimed, and no more.
            if let (Some(view), false) = (supervisor.view(&name(WEB)), world.alive.is_empty()) {
                let effective = view.claims.effective(&view.spec.limits);
                prop_assert_eq!(world.limits.as_ref(), Some(&effective));
            }
            // What is due is not put off.
            // What is due is done at once, or put off: never asked for again and again.
            let mut wakes = 0;
            let mut wake = decision.wake;
            while wake.is_some_and(|wake| wake <= now) {
                wakes += 1;
                prop_assert!(wakes < 20, "it wants to be woken for ever");
                wake = handle(&mut supervisor, &mut world, now, Event::Agent(AgentEvent::Wake)).wake;
            }
            let budget = Budget::default();
            let recent = world.starts.iter().filter(|start| now.since(**start) < budget.within).count();
            // The breaker's own trials come on top, one for each cooldown of a minute or more.
            prop_assert!(recent <= usize::try_from(budget.restarts).expect("small") + 5, "{} restarts", recent);
        }
        // Planning what is applied yields nothing.
        let manifest = supervisor.manifest();
        prop_assert!(crate::plan::between(&manifest, &manifest).is_empty());
        let decision = handle(&mut supervisor, &mut world, now, Event::Agent(AgentEvent::Configure { manifest, prune: false }));
        prop_assert!(decision.actions.is_empty() && decision.transitions.is_empty());
        // Whatever is under way, a shutdown comes to its end.
        let mut finished = handle(&mut supervisor, &mut world, now, Event::Agent(AgentEvent::Shutdown)).finished;
        for _ in 0..50 {
            let event = if let Some((instance, what)) = world.owed.pop() {
                match what {
                    "start" => started(instance.0),
                    "remedy" => probes::remedied(instance.0, None),
                    _ => {
                        world.alive.remove(&instance);
                        reaped(instance.0, ExitStatus::Signal(15), 0)
                    }
                }
            } else if let Some(hook) = world.hooks.pop() {
                probes::hook_done(hook)
            } else if let Some(instance) = world.alive.first().filter(|_| world.asked_to_end) {
                exited(instance.0)
            } else {
                now = now.after(Duration::from_secs(60));
                Event::Agent(AgentEvent::Wake)
            };
            finished |= handle(&mut supervisor, &mut world, now, event).finished;
        }
        prop_assert!(finished, "the shutdown never ends: {supervisor:?}");
    }
}
