//! Loops, from the suspicion to the last rung and back.

use super::*;
use crate::cpu_loop::{Calls, Evidence, LoopSource, Rung, Suspect};
use crate::spec::{CpuLoopWatch, Mode, Watch};
use crate::units::{CpuQuota, CpuWeight};

fn thread(tid: u32) -> Thread {
    Thread {
        pid: 101,
        tid,
        start_ticks: 7,
    }
}

pub(super) fn suspect(tid: u32) -> Event {
    Event::Workload(
        name(WEB),
        WorkloadEvent::CpuSuspect {
            suspect: Suspect {
                thread: thread(tid),
                command: "web".to_owned(),
                cpu: Duration::from_secs(10),
                source: LoopSource::Ebpf,
                sleeps: Some(3),
            },
        },
    )
}

pub(super) fn evidence(tid: u32, verdict: Verdict) -> Event {
    let nothing = Evidence::none(LoopSource::Ebpf, "");
    let evidence = match verdict {
        Verdict::DeadLoop => Evidence {
            recurs: true,
            ..nothing
        },
        Verdict::SyscallSpin => Evidence {
            calls: Calls {
                all: 200,
                idle: 200,
                neutral: 0,
                names: Vec::new(),
            },
            user_share: Some(0.3),
            ..nothing
        },
        Verdict::OverBudget => nothing,
    };
    assert_eq!(crate::cpu_loop::verdict(&evidence), verdict);
    Event::Workload(
        name(WEB),
        WorkloadEvent::CpuEvidence {
            thread: thread(tid),
            evidence: Some(Box::new(evidence)),
        },
    )
}

pub(super) fn slept(tid: u32) -> Event {
    Event::Workload(
        name(WEB),
        WorkloadEvent::CpuStreakEnded {
            thread: thread(tid),
        },
    )
}

fn ladder(respond: &[Rung]) -> WorkloadSpec {
    WorkloadSpec {
        watch: Watch {
            cpu_loop: Some(CpuLoopWatch {
                respond: respond.to_vec(),
                ..CpuLoopWatch::default()
            }),
            ..Watch::default()
        },
        ..spec()
    }
}

const WHOLE: [Rung; 4] = [
    Rung::Tell,
    Rung::Demote,
    Rung::Throttle(Percent(20)),
    Rung::Restart,
];

#[test]
fn a_dead_loop_climbs_the_ladder_step_by_step() {
    check(
        ladder(&WHOLE),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::DeadLoop)),
            (16, Event::Agent(AgentEvent::Wake)),
            (17, Event::Agent(AgentEvent::Wake)),
            (22, Event::Agent(AgentEvent::Wake)),
            (27, Event::Agent(AgentEvent::Wake)),
            (29, evidence(1, Verdict::DeadLoop)),
            (29, exited(1)),
            (29, reaped(1, ExitStatus::Signal(9), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 health
            17 s: #5 throttle (cpu_loop) because of #3
            17 s:   → write_limits #1
            22 s: #6 throttle (cpu_loop) because of #3
            22 s:   → write_limits #1
            27 s:   → investigate #1
            29 s: #7 stop (cpu_loop) because of #3
            29 s:   → kill #1
            29 s:   → reap #1
            29 s: #8 exit because of #7
            29 s: #9 release (cpu_loop)
            29 s: #10 restart (cpu_loop) because of #8
            29 s: #11 health
            29 s:   → start #2
        "#]],
    );
}

#[test]
fn what_is_not_proved_again_is_not_restarted() {
    check(
        ladder(&[Rung::Demote, Rung::Restart]),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::DeadLoop)),
            (17, Event::Agent(AgentEvent::Wake)),
            (19, evidence(1, Verdict::OverBudget)),
            (60, Event::Agent(AgentEvent::Wake)),
            (62, evidence(1, Verdict::DeadLoop)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 throttle (cpu_loop) because of #3
            12 s: #5 health
            12 s:   → write_limits #1
            17 s:   → investigate #1
            19 s: #6 cpu_loop
            60 s:   → investigate #1
            62 s: #7 stop (cpu_loop) because of #3
            62 s:   → kill #1
        "#]],
    );
}

#[test]
fn a_loop_that_ends_gives_everything_back() {
    check(
        ladder(&WHOLE),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::DeadLoop)),
            (17, Event::Agent(AgentEvent::Wake)),
            (20, slept(1)),
            (30, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 health
            17 s: #5 throttle (cpu_loop) because of #3
            17 s:   → write_limits #1
            20 s: #6 release (cpu_loop) because of #3
            20 s: #7 health
            20 s:   → write_limits #1
        "#]],
    );
}

#[test]
fn a_hot_thread_is_reported_once_and_examined_again() {
    check(
        ladder(&WHOLE),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::OverBudget)),
            (17, Event::Agent(AgentEvent::Wake)),
            (18, evidence(1, Verdict::OverBudget)),
            (28, Event::Agent(AgentEvent::Wake)),
            (30, evidence(1, Verdict::DeadLoop)),
            (35, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            17 s:   → investigate #1
            28 s:   → investigate #1
            30 s: #4 cpu_loop
            30 s: #5 health
            35 s: #6 throttle (cpu_loop) because of #4
            35 s:   → write_limits #1
        "#]],
    );
}

#[test]
fn busy_polling_is_demoted_at_most() {
    check(
        ladder(&WHOLE),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::SyscallSpin)),
            (17, Event::Agent(AgentEvent::Wake)),
            (60, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            17 s: #4 throttle (cpu_loop) because of #3
            17 s: #5 health
            17 s:   → write_limits #1
            17 s:   → investigate #1
        "#]],
    );
}

#[test]
fn what_is_assumed_to_loop_climbs_without_a_proof() {
    let mut assumed = ladder(&[Rung::Restart]);
    if let Some(watch) = &mut assumed.watch.cpu_loop {
        watch.assume_loop = true;
    }
    check(
        assumed,
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::OverBudget)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 stop (cpu_loop) because of #3
            12 s:   → kill #1
        "#]],
    );
}

#[test]
fn observe_mode_reports_what_would_be_done() {
    let observed = WorkloadSpec {
        mode: Mode::Observe,
        ..ladder(&[Rung::Demote, Rung::Restart])
    };
    check(
        observed,
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::DeadLoop)),
            (17, Event::Agent(AgentEvent::Wake)),
            (19, evidence(1, Verdict::DeadLoop)),
            (60, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 throttle (cpu_loop) because of #3
            12 s: #5 health
            17 s:   → investigate #1
            19 s: #6 restart (cpu_loop) because of #3
        "#]],
    );
}

#[test]
fn a_remedy_under_never_is_the_end() {
    let mut never = ladder(&[Rung::Restart]);
    never.recovery.restart = crate::spec::RestartPolicy::Never;
    check(
        never,
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::DeadLoop)),
            (12, exited(1)),
            (12, reaped(1, ExitStatus::Signal(9), 0)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 stop (cpu_loop) because of #3
            12 s:   → kill #1
            12 s:   → reap #1
            12 s: #5 exit because of #4
            12 s: #6 health
            12 s:   → remove_cgroup #1
        "#]],
    );
}

#[test]
fn a_thread_that_waits_too_long_for_a_proof_is_reported_as_hot() {
    check(
        spec(),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (10, suspect(2)),
            (10, suspect(3)),
            (25, Event::Agent(AgentEvent::Wake)),
            (26, evidence(1, Verdict::OverBudget)),
            (27, evidence(3, Verdict::DeadLoop)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            10 s:   → investigate #1
            25 s: #3 cpu_loop
            26 s:   → investigate #1
            27 s: #4 cpu_loop
            27 s: #5 throttle (cpu_loop) because of #4
            27 s: #6 health
            27 s:   → write_limits #1
        "#]],
    );
}

#[test]
fn by_hand_it_is_the_same_claim() {
    check(
        spec(),
        vec![
            (0, started(1)),
            (1, request(Request::Throttle(Percent(20)))),
            (2, request(Request::Throttle(Percent(50)))),
            (3, exited(1)),
            (3, reaped(1, ExitStatus::Code(1), 0)),
            (3, started(2)),
            (4, request(Request::Release)),
            (5, request(Request::Release)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            1 s: #3 throttle (manual)
            1 s: #4 health
            1 s:   → write_limits #1
            2 s: #5 throttle (manual)
            2 s:   → write_limits #1
            3 s:   → reap #1
            3 s: #6 exit
            3 s: #7 restart (exit) because of #6
            3 s: #8 health
            3 s:   → start #2
            3 s: #9 start
            3 s: #10 health
            4 s: #11 release (manual)
            4 s: #12 health
            4 s:   → write_limits #2
        "#]],
    );
}

#[test]
fn what_an_operator_released_is_not_taken_again() {
    check(
        ladder(&WHOLE),
        vec![
            (0, started(1)),
            (10, suspect(1)),
            (12, evidence(1, Verdict::DeadLoop)),
            (17, Event::Agent(AgentEvent::Wake)),
            (18, request(Request::Release)),
            (60, Event::Agent(AgentEvent::Wake)),
        ],
        &expect![[r#"
            0 s: #1 config (config)
            0 s:   → start #1
            0 s: #2 start
            10 s:   → investigate #1
            12 s: #3 cpu_loop
            12 s: #4 health
            17 s: #5 throttle (cpu_loop) because of #3
            17 s:   → write_limits #1
            18 s: #6 release (manual)
            18 s:   → write_limits #1
        "#]],
    );
}

#[test]
fn another_ladder_leaves_nothing_overdue_behind() {
    let mut supervisor = Supervisor::new(2);
    let mut handle = |event| {
        let moment = Moment {
            now: MonoTime(1),
            noise: 0,
        };
        supervisor.handle(moment, event)
    };
    for event in [configure(ladder(&[Rung::Demote])), started(1), suspect(1)] {
        let _ = handle(event);
    }
    let decision = handle(configure(ladder(&WHOLE)));
    assert!(decision.wake > Some(MonoTime(1)), "{:?}", decision.wake);
    let _ = handle(evidence(1, Verdict::DeadLoop));
    // One that is judged climbs the new ladder from its foot.
    let decision = handle(configure(ladder(&[Rung::Throttle(Percent(30))])));
    assert_eq!(decision.wake, Some(MonoTime(1)));
    let decision = handle(Event::Agent(AgentEvent::Wake));
    assert!(decision.wake > Some(MonoTime(1)), "{:?}", decision.wake);
}

#[test]
fn rungs_survive_an_apply() {
    let mut supervisor = Supervisor::new(2);
    let mut written = Vec::new();
    let mut changed = ladder(&[Rung::Demote]);
    changed.limits.memory_max = Some(Limit::At(Bytes(1 << 30)));
    changed.limits.cpu_weight = Some(CpuWeight::Of(59));
    changed.limits.cpu_max = Some(CpuQuota::of_one_cpu(Percent(150)));
    for event in [
        configure(ladder(&[Rung::Demote])),
        started(1),
        suspect(1),
        evidence(1, Verdict::DeadLoop),
        configure(changed.clone()),
        slept(1),
    ] {
        let moment = Moment {
            now: MonoTime(1),
            noise: 0,
        };
        for action in supervisor.handle(moment, event).actions {
            if let Action::Workload(WorkloadAction {
                change: WorkloadChange::Step(Step::WriteLimits { limits, .. }),
                ..
            }) = action
            {
                written.push(*limits);
            }
        }
    }
    let weights: Vec<_> = written.iter().map(|limits| limits.cpu_weight).collect();
    let demoted = Some(CpuWeight::Of(1));
    assert_eq!(weights, [demoted, demoted, Some(CpuWeight::Of(59))]);
    assert_eq!(written[1].memory_max, changed.limits.memory_max);
    assert_eq!(written[2], changed.limits);
}

#[test]
fn a_crowd_is_looked_into_one_by_one_and_seldom() {
    let mut events = vec![(0, started(1))];
    events.extend((1..=20).map(|tid| (1, suspect(tid))));
    let mut supervisor = Supervisor::new(2);
    let mut begun = Vec::new();
    let mut at = |seconds: u64, event: Event| {
        let moment = Moment {
            now: MonoTime(seconds * 1_000_000_000),
            noise: 0,
        };
        let decision = supervisor.handle(moment, event);
        let proofs = decision.actions.iter().filter_map(|action| {
            if let Action::Workload(WorkloadAction {
                change: WorkloadChange::Step(Step::Investigate { suspect }),
                ..
            }) = action
            {
                return Some(suspect.thread.tid);
            }
            None
        });
        let proofs: Vec<u32> = proofs.collect();
        begun.extend(proofs.iter().map(|tid| (seconds, *tid)));
        proofs
    };
    let _ = at(0, configure(spec()));
    let mut under_way = Vec::new();
    for (seconds, event) in events {
        under_way.extend(at(seconds, event));
    }
    for seconds in 2..140 {
        let done: Vec<u32> = std::mem::take(&mut under_way);
        for tid in done {
            under_way.extend(at(seconds, evidence(tid, Verdict::OverBudget)));
        }
        under_way.extend(at(seconds, Event::Agent(AgentEvent::Wake)));
    }
    let when: Vec<u64> = begun.iter().map(|(seconds, _)| *seconds).collect();
    // Two at once as long as nothing is known, and then one a minute.
    assert_eq!(when, [1, 1, 2, 62, 122]);
}
