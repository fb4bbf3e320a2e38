use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

const CGROUP: CgroupId = CgroupId(7);

fn counters(oom_kill: u64, group_kill: u64) -> Counters {
    Counters {
        oom_kill,
        oom_group_kill: group_kill,
        own_oom: oom_kill.min(1),
        ..Counters::default()
    }
}

fn victim(pid: u32) -> Victim {
    Victim {
        pid,
        ..Victim::default()
    }
}

fn at(millis: u64) -> MonoTime {
    MonoTime(millis * 1_000_000)
}

/// What an observer sees, in order.
enum Step {
    Mark(u64, u32),
    Read(u64, Counters),
    Look(u64, Circumstances),
}

const RUNNING: Circumstances = Circumstances {
    ended: false,
    ebpf: true,
    group: false,
};
const GROUP: Circumstances = Circumstances {
    group: true,
    ..RUNNING
};
const ENDED: Circumstances = Circumstances {
    ended: true,
    ..GROUP
};
const BLIND: Circumstances = Circumstances {
    ebpf: false,
    ..RUNNING
};

fn check(steps: Vec<Step>, expected: &Expect) {
    let mut ledger = Ledger::default();
    ledger.begin(CGROUP, Counters::default());
    let mut reported = String::new();
    for step in steps {
        match step {
            Step::Mark(time, pid) => ledger.mark(at(time), victim(pid)),
            Step::Read(time, counters) => ledger.read(at(time), counters),
            Step::Look(time, circumstances) => {
                let found = ledger.settle(at(time), circumstances, &Ancestors::default());
                reported.push_str(&found.map_or_else(
                    || format!("{time} ms: nothing\n"),
                    |incident| shown(time, &incident),
                ));
            }
        }
    }
    expected.assert_eq(&reported);
}

fn shown(time: u64, incident: &Incident) -> String {
    let victims: Vec<u32> = incident.victims.iter().map(|victim| victim.pid).collect();
    format!(
        "{time} ms: {victims:?} by {:?}, {}..{}, {:?}\n",
        incident.source, incident.counter_before, incident.counter_after, incident.scope
    )
}

#[test]
fn a_mark_with_its_counter_is_reported_at_once() {
    check(
        vec![
            Step::Mark(0, 10),
            Step::Read(0, counters(1, 0)),
            Step::Look(0, RUNNING),
        ],
        &expect![[r#"
            0 ms: [10] by Ebpf, 0..1, Own
        "#]],
    );
}

#[test]
fn a_mark_without_a_kill_is_forgotten() {
    check(
        vec![
            Step::Mark(0, 10),
            Step::Read(0, counters(0, 0)),
            Step::Look(0, RUNNING),
            Step::Look(50, RUNNING),
            // A later kill is another's.
            Step::Mark(60, 11),
            Step::Read(60, counters(1, 0)),
            Step::Look(60, RUNNING),
        ],
        &expect![[r#"
            0 ms: nothing
            50 ms: nothing
            60 ms: [11] by Ebpf, 0..1, Own
        "#]],
    );
}

#[test]
fn a_counter_waits_for_its_mark_but_not_for_ever() {
    let overtaken = vec![
        Step::Read(0, counters(1, 0)),
        Step::Look(0, RUNNING),
        Step::Mark(3, 10),
        Step::Look(3, RUNNING),
    ];
    check(
        overtaken,
        &expect![[r#"
        0 ms: nothing
        3 ms: [10] by Ebpf, 0..1, Own
    "#]],
    );
    let lost = vec![
        Step::Read(0, counters(1, 0)),
        Step::Look(999, RUNNING),
        Step::Look(1000, RUNNING),
    ];
    check(
        lost,
        &expect![[r#"
        999 ms: nothing
        1000 ms: [] by Counters, 0..1, Own
    "#]],
    );
}

#[test]
fn without_ebpf_there_is_nothing_to_wait_for() {
    check(
        vec![Step::Read(0, counters(2, 0)), Step::Look(0, BLIND)],
        &expect![[r#"
        0 ms: [] by Counters, 0..2, Own
    "#]],
    );
}

#[test]
fn a_group_kill_is_one_incident_though_its_first_victim_counts_twice() {
    check(
        vec![
            Step::Mark(0, 10),
            Step::Read(0, counters(1, 0)),
            Step::Look(0, GROUP),
            Step::Mark(1, 10),
            Step::Mark(1, 11),
            Step::Read(1, counters(3, 1)),
            Step::Look(1, GROUP),
            Step::Look(2, ENDED),
        ],
        &expect![[r#"
            0 ms: nothing
            1 ms: nothing
            2 ms: [10, 11] by Ebpf, 0..3, Own
        "#]],
    );
}

#[test]
fn a_group_that_does_not_die_is_reported_after_five_seconds() {
    check(
        vec![
            Step::Mark(0, 10),
            Step::Read(0, counters(2, 1)),
            Step::Look(4999, GROUP),
            Step::Look(5000, GROUP),
        ],
        &expect![[r#"
            4999 ms: nothing
            5000 ms: [10] by Ebpf, 0..2, Own
        "#]],
    );
}

#[test]
fn a_group_kill_that_a_slow_console_holds_up_is_one_incident() {
    check(
        vec![
            Step::Mark(0, 10),
            Step::Read(0, counters(1, 0)),
            Step::Look(4000, GROUP),
            // The kernel has printed its line, and goes on with the group.
            Step::Read(4500, counters(2, 1)),
            Step::Mark(4500, 11),
            Step::Look(9000, GROUP),
            Step::Read(9100, counters(3, 1)),
            Step::Look(9200, ENDED),
        ],
        &expect![[r#"
            4000 ms: nothing
            9000 ms: nothing
            9200 ms: [10, 11] by Ebpf, 0..3, Own
        "#]],
    );
}

#[test]
fn an_overtaken_reading_changes_nothing() {
    check(
        vec![
            Step::Read(0, counters(2, 0)),
            Step::Read(0, counters(1, 0)),
            Step::Look(1000, RUNNING),
            Step::Read(1010, counters(2, 0)),
            Step::Look(1100, RUNNING),
        ],
        &expect![[r#"
            1000 ms: [] by Counters, 0..2, Own
            1100 ms: nothing
        "#]],
    );
}

#[test]
fn whose_limit_it_was() {
    let ancestor = |oom| {
        vec![CgroupCounters {
            path: "/all".to_owned(),
            id: CgroupId(1),
            oom,
            limit: Some(Bytes(1 << 20)),
        }]
    };
    let reading = |oom_kill, own_oom, oom| Counters {
        oom_kill,
        own_oom,
        ancestors: ancestor(oom),
        ..Counters::default()
    };
    let mut ledger = Ledger::default();
    let mut ancestors = Ancestors::default();
    let mut look = |time: u64, counters: Counters| {
        ancestors.observe(at(time), &counters);
        if time == 0 {
            ledger.begin(CGROUP, counters);
            return None;
        }
        ledger.read(at(time), counters);
        ledger
            .settle(at(time), BLIND, &ancestors)
            .map(|incident| (incident.scope, incident.limit_bytes))
    };
    assert_eq!(look(0, reading(0, 0, 5)), None);
    assert_eq!(look(1, reading(1, 1, 5)), Some((Scope::Own, None)));
    assert_eq!(
        look(2, reading(2, 1, 6)),
        Some((Scope::Ancestor("/all".to_owned()), Some(Bytes(1 << 20))))
    );
    // The ancestor's limit was met long ago: this time it was the host.
    assert_eq!(look(5000, reading(3, 1, 6)), Some((Scope::Host, None)));
}

#[test]
fn a_limit_below_the_workload_is_reported_as_such() {
    let below = |oom| {
        let found = |path: &str, id, oom| CgroupCounters {
            path: path.to_owned(),
            id: CgroupId(id),
            oom,
            limit: Some(Bytes(24 << 20)),
        };
        vec![found("/web/init", 8, 0), found("/web/payload", 9, oom)]
    };
    let reading = |oom_kill, own_oom, oom| Counters {
        oom_kill,
        own_oom,
        subtree_oom: own_oom + oom,
        descendants: below(oom),
        limit: Some(Bytes(512 << 20)),
        ..Counters::default()
    };
    let mut ledger = Ledger::default();
    ledger.begin(CGROUP, reading(0, 0, 0));
    let mut look = |counters: Counters| {
        ledger.read(at(1), counters);
        let incident = ledger.settle(at(1), BLIND, &Ancestors::default());
        incident.map(|incident| (incident.scope, incident.limit_bytes))
    };
    let payload = Scope::Descendant(Some("/web/payload".to_owned()));
    let expected = Some((payload, Some(Bytes(24 << 20))));
    assert_eq!(look(reading(1, 0, 1)), expected);
    let own = Some((Scope::Own, Some(Bytes(512 << 20))));
    assert_eq!(look(reading(2, 1, 1)), own);
    let mut gone = reading(3, 1, 2);
    gone.descendants.clear();
    assert_eq!(look(gone), Some((Scope::Descendant(None), None)));
    // Another one of the same name counts from its own beginning.
    let mut anew = reading(4, 1, 2);
    anew.subtree_oom += 1;
    anew.descendants[1].id = CgroupId(10);
    anew.descendants[1].oom = 1;
    assert_eq!(look(anew), expected);
}

/// A kernel that kills, and tellers that lag, overtake and lose.
#[derive(Clone, Debug)]
enum Chaos {
    /// The kernel kills; whether the mark is lost.
    Kill(bool),
    DeliverMark,
    DeliverReading,
    Wait(u16),
}

fn chaos() -> impl Strategy<Value = Chaos> {
    prop_oneof![
        any::<bool>().prop_map(Chaos::Kill),
        Just(Chaos::DeliverMark),
        Just(Chaos::DeliverReading),
        (1..200u16).prop_map(Chaos::Wait),
    ]
}

proptest! {
    /// Whatever is lost or late: the ranges join, and the books close.
    #[test]
    fn every_increment_is_explained_once(steps in prop::collection::vec(chaos(), 1..200)) {
        let mut ledger = Ledger::default();
        ledger.begin(CGROUP, Counters::default());
        let (mut time, mut kills, mut explained, mut victims) = (0, 0u64, 0, 0u64);
        let mut marks = std::collections::VecDeque::new();
        let mut settle = |ledger: &mut Ledger, time: u64, circumstances| {
            if let Some(incident) = ledger.settle(at(time), circumstances, &Ancestors::default()) {
                assert_eq!(incident.counter_before, explained);
                assert!(incident.counter_after > incident.counter_before);
                explained = incident.counter_after;
                victims += incident.victims.len() as u64;
            }
            (explained, victims)
        };
        for step in steps {
            match step {
                Chaos::Kill(lost) => {
                    kills += 1;
                    if !lost {
                        marks.push_back(u32::try_from(kills).expect("few kills"));
                    }
                }
                Chaos::DeliverMark => {
                    if let Some(pid) = marks.pop_front() {
                        ledger.mark(at(time), victim(pid));
                        ledger.read(at(time), counters(kills, 0));
                    }
                }
                Chaos::DeliverReading => ledger.read(at(time), counters(kills, 0)),
                Chaos::Wait(millis) => time += u64::from(millis),
            }
            settle(&mut ledger, time, RUNNING);
        }
        ledger.read(at(time), counters(kills, 0));
        let (explained, victims) = settle(&mut ledger, time + 1000, ENDED);
        prop_assert_eq!(explained, kills);
        prop_assert!(victims <= kills);
        prop_assert!(!ledger.is_open() || ledger.delta() == 0);
    }
}
