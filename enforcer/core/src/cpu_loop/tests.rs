use super::*;
use crate::units::{MonoTime, Percent};

fn evidence() -> Evidence {
    Evidence {
        unproven: None,
        user_share: Some(1.0),
        ..Evidence::none(LoopSource::Ebpf, "")
    }
}

/// The table of verdicts: what was seen, and what it proves.
#[test]
fn verdicts() {
    let looping = Evidence {
        recurs: true,
        recurrences: 90,
        ..evidence()
    };
    let with = |outside: Outside| Evidence {
        outside: vec![outside],
        ..looping.clone()
    };
    let thread = || "worker (tid 7)".to_owned();
    let calls = |all, idle, share| Evidence {
        calls: Calls {
            all,
            idle,
            neutral: 0,
            names: Vec::new(),
        },
        user_share: Some(share),
        ..evidence()
    };
    let table = [
        ("nothing at all", evidence(), Verdict::OverBudget),
        ("a state that recurs", looping.clone(), Verdict::DeadLoop),
        (
            "it recurs, and a thread waits for requests",
            with(Outside::ThreadWaits(thread())),
            Verdict::DeadLoop,
        ),
        (
            "it recurs, and a thread will wake up",
            with(Outside::ThreadWakes(thread())),
            Verdict::OverBudget,
        ),
        (
            "it recurs, and a thread ran",
            with(Outside::ThreadRan(thread())),
            Verdict::OverBudget,
        ),
        (
            "it recurs, and memory is shared",
            with(Outside::SharedMapping("/dev/shm/flag".to_owned())),
            Verdict::OverBudget,
        ),
        (
            "it recurs, and a device may write",
            with(Outside::DeviceMapping("/dev/uio0".to_owned())),
            Verdict::OverBudget,
        ),
        (
            "it recurs, and looks at the clock",
            with(Outside::Clock),
            Verdict::OverBudget,
        ),
        (
            "it recurs, and a timer is set",
            with(Outside::Timer),
            Verdict::OverBudget,
        ),
        (
            "states recur too seldom",
            Evidence {
                recurrences: 2,
                recurs: false,
                ..evidence()
            },
            Verdict::OverBudget,
        ),
        (
            "calls that do nothing",
            calls(200, 200, 0.4),
            Verdict::SyscallSpin,
        ),
        (
            "one call that did something",
            calls(200, 199, 0.4),
            Verdict::OverBudget,
        ),
        (
            "a handful of calls",
            calls(20, 20, 0.4),
            Verdict::OverBudget,
        ),
        (
            "calls beside real work",
            calls(200, 200, 0.95),
            Verdict::OverBudget,
        ),
        (
            "clocks alone",
            Evidence {
                calls: Calls {
                    all: 200,
                    neutral: 200,
                    ..Calls::default()
                },
                ..calls(0, 0, 0.4)
            },
            Verdict::OverBudget,
        ),
        (
            "no samples to judge by",
            Evidence {
                user_share: None,
                ..calls(200, 200, 0.0)
            },
            Verdict::OverBudget,
        ),
    ];
    for (what, evidence, verdict) in table {
        assert_eq!(super::verdict(&evidence), verdict, "{what}");
    }
}

#[test]
fn rungs_open_to_verdicts() {
    let ladder = [
        Rung::Tell,
        Rung::Demote,
        Rung::Throttle(Percent(20)),
        Rung::Restart,
    ];
    let reached = |verdict, assume| ladder.map(|rung| is_reached(rung, verdict, assume));
    assert_eq!(
        reached(Verdict::OverBudget, false),
        [true, false, false, false]
    );
    assert_eq!(
        reached(Verdict::SyscallSpin, false),
        [true, true, false, false]
    );
    assert_eq!(reached(Verdict::DeadLoop, false), [true; 4]);
    for verdict in [Verdict::OverBudget, Verdict::SyscallSpin] {
        assert_eq!(reached(verdict, true), [true; 4]);
    }
}

fn at(millis: u64) -> MonoTime {
    MonoTime(millis * 1_000_000)
}

const RAN: Duration = Duration::from_millis(10);

#[test]
fn a_small_loop_is_proved_when_it_was_watched_long_enough() {
    let mut states = Recurrence::default();
    for number in 0..100 {
        states.note(at(number * 10), number * 3 % 8, RAN);
    }
    assert_eq!(
        (states.snapshots(), states.distinct(), states.recurrences()),
        (100, 8, 92)
    );
    assert!(!states.proves(), "a second is less than a clock's step");
    states.note(at(1200), 5, RAN);
    assert!(states.proves());
}

#[test]
fn a_jump_to_itself_is_proved_by_the_time_it_ran() {
    let mut states = Recurrence::default();
    for number in 0..130 {
        states.note(at(number * 10), 7, RAN);
    }
    assert!(states.proves());
}

#[test]
fn work_never_repeats_a_state() {
    let mut states = Recurrence::default();
    for number in 0..160 {
        states.note(at(number * 10), number, RAN);
    }
    assert!(!states.proves());
}

/// Starved of CPU time, work is found in one state again and again.
#[test]
fn a_thread_that_does_not_get_to_run_has_not_looped() {
    let mut states = Recurrence::default();
    for number in 0..160 {
        states.note(at(number * 100), number / 20, Duration::from_micros(200));
    }
    assert_eq!(states.recurrences(), 0);
    assert!(!states.proves());
}

/// A hypervisor kept a CPU that the kernel believes it gave to work.
#[test]
fn time_that_was_only_given_on_paper_proves_nothing() {
    let mut states = Recurrence::default();
    for number in 0..160 {
        states.note(at(number * 200), number / 8, RAN);
        if number == 10 {
            break;
        }
    }
    assert!(states.recurrences() > 3 && !states.proves());
}

#[test]
fn a_clock_of_seconds_repeats_itself_within_one() {
    let mut states = Recurrence::default();
    for number in 0..300u64 {
        let second = number / 100 * 10;
        states.note(at(number * 10), second + number % 5, RAN);
    }
    assert!(states.recurrences() > 200 && !states.proves());
}

#[test]
fn an_input_makes_earlier_states_worthless() {
    let mut states = Recurrence::default();
    for number in 0..200u64 {
        if number % 50 == 0 {
            states.input();
        }
        states.note(at(number * 10), 1, RAN);
    }
    assert!(!states.proves());
}

#[test]
fn honest_work_is_spared_the_stops() {
    let sampling = |in_user_mode, singletons| Sampling {
        all: 500,
        in_user_mode,
        singletons,
    };
    assert!(sampling(500, 0).is_worth_a_proof());
    assert!(!sampling(500, 400).is_worth_a_proof());
    assert!(sampling(20, 20).is_worth_a_proof(), "too few to say");
    assert_eq!(Sampling::default().user_share(), None);
}
