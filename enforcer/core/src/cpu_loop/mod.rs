//! The judgement of a thread that does not sleep: a dead loop, busy polling, or at work. The
//! evidence comes in as numbers, and this module says what it proves. The executor gathers it, and
//! `workload/ladder.rs` decides about the answer.
//!
//! A deterministic thread whose *whole* state recurs, with no input in between,
//! will recur for ever. State is its registers, FPU included, and every page
//! that was written; input is a system call, a signal, a page read in, and
//! whatever another thread, process, device or clock could change meanwhile.

mod recurrence;
mod streaks;
pub mod waits;

pub use recurrence::Recurrence;
pub use streaks::Streaks;

pub use enforcer_model::cpu_loop::{Calls, Evidence, LoopSource, Outside, Sleep, Thread, Verdict};
pub use enforcer_model::spec::Rung;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use waits::{Wait, wait_of};

/// The bounds of the time between two checks whether the workloads are busy enough to be sampled.
const GATES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(15)];

/// Returns the time until the next check whether the workloads are busy enough to be sampled.
/// `least_after` is the shortest CPU time after which a workload's thread is a suspect: a loop is found
/// at most a quarter of it later than if all were always sampled.
#[must_use]
pub fn gate(least_after: Duration) -> Duration {
    (least_after / 4).clamp(GATES[0], GATES[1])
}

/// Returns whether the workloads, which used this CPU time together, are busy enough to be sampled.
/// Less than half a percent of one CPU hides no loop for long.
#[must_use]
pub fn is_worth_sampling(used: Duration, elapsed: Duration) -> bool {
    used * 250 >= elapsed
}

/// The time for which a suspect's registers are sampled before it is stopped at all.
pub const SAMPLE_TIME: Duration = Duration::from_millis(500);
pub const SAMPLE_HZ: u32 = 997;
/// The number of samples below which a suspect has not had its CPU time yet, and is sampled longer.
pub const ENOUGH_SAMPLES: u32 = 150;
/// The number of samples below which they prove nothing.
pub const MIN_SAMPLES: u32 = 50;
/// A thread whose next state is new with at least this probability is at work,
/// and is spared the stops. docs/detection.md has the measurements.
pub const WORK_PROBABILITY: f64 = 0.5;

/// The shortest and the longest time between two stops. It is random, so that no loop keeps step
/// with it.
pub const GAP: (Duration, Duration) = (Duration::from_millis(6), Duration::from_millis(18));
/// The least ratio of a thread's time between two stops to its last stop.
pub const GAP_PER_STOP: u32 = 2;
pub const MAX_SNAPSHOTS: u32 = 160;
/// The most time for which one thread is stopped in all.
pub const MAX_STOPPED: Duration = Duration::from_secs(2);
/// The most time that a proof may take on a host whose CPUs are all taken.
pub const PROOF_TIME: Duration = Duration::from_secs(8);
/// The number of system calls that show how a thread spins through them.
pub const ENOUGH_CALLS: u32 = 100;
/// Busy polling spends at most so much of its time in its own code.
const MOST_USER_TIME: f64 = 0.85;

/// A thread that has used its budget of CPU time without a voluntary sleep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    pub thread: Thread,
    pub command: String,
    /// The CPU time since the thread's last sleep.
    pub cpu: Duration,
    pub source: LoopSource,
    /// The number of voluntary sleeps by then; `None` if the agent's own stops have counted among
    /// them.
    pub sleeps: Option<u64>,
}

/// The samples of half a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    pub all: u32,
    pub in_user_mode: u32,
    /// The states in user mode that were seen just once.
    pub singletons: u32,
}

impl Sampling {
    /// Returns the Good–Turing estimate of the probability that the next state is a new one.
    #[must_use]
    pub fn new_state_probability(self) -> Option<f64> {
        let enough = self.in_user_mode >= MIN_SAMPLES;
        enough.then(|| f64::from(self.singletons) / f64::from(self.in_user_mode))
    }

    #[must_use]
    pub fn user_share(self) -> Option<f64> {
        (self.all > 0).then(|| f64::from(self.in_user_mode) / f64::from(self.all))
    }

    /// Returns whether stops of the thread could prove anything.
    #[must_use]
    pub fn is_worth_a_proof(self) -> bool {
        self.new_state_probability()
            .is_none_or(|probability| probability < WORK_PROBABILITY)
    }
}

/// Returns whether this alone may end the loop, without a request from outside.
///
/// A thread that waits for the outside may end it too, but the outside has to act first: the
/// evidence names the thread, and the proof holds.
#[must_use]
pub fn breaks_the_proof(outside: &Outside) -> bool {
    match outside {
        Outside::ThreadRan(_)
        | Outside::ThreadWakes(_)
        | Outside::SharedMapping(_)
        | Outside::DeviceMapping(_)
        | Outside::Clock
        | Outside::Timer => true,
        Outside::ThreadWaits(_) => false,
    }
}

/// Returns what another thread's sleep means for a proof; `None` if only the looping process
/// itself could end it. A thread without a sleep runs.
#[must_use]
pub fn outside_of_sleep(sleep: Option<Sleep>, thread: String) -> Option<Outside> {
    match wait_of(sleep) {
        Wait::ForOwnProcess => None,
        Wait::ForOutside => Some(Outside::ThreadWaits(thread)),
        Wait::Timed => Some(Outside::ThreadWakes(thread)),
        Wait::Running => Some(Outside::ThreadRan(thread)),
    }
}

/// Returns the judgement that the evidence supports.
#[must_use]
pub fn verdict(evidence: &Evidence) -> Verdict {
    if evidence.recurs && !evidence.outside.iter().any(breaks_the_proof) {
        return Verdict::DeadLoop;
    }
    let Calls {
        all, idle, neutral, ..
    } = evidence.calls;
    let polls = all >= ENOUGH_CALLS && idle >= all / 2 && idle + neutral == all;
    if polls
        && evidence
            .user_share
            .is_some_and(|share| share <= MOST_USER_TIME)
    {
        return Verdict::SyscallSpin;
    }
    Verdict::OverBudget
}

/// Returns whether a verdict reaches this rung of the ladder.
#[must_use]
pub fn is_reached(rung: Rung, verdict: Verdict, assume_loop: bool) -> bool {
    match (rung, verdict) {
        (Rung::Tell, _) | (_, Verdict::DeadLoop) => true,
        (Rung::Demote, Verdict::SyscallSpin) => true,
        (
            Rung::Demote | Rung::Throttle(_) | Rung::Restart,
            Verdict::SyscallSpin | Verdict::OverBudget,
        ) => assume_loop,
    }
}

#[cfg(test)]
mod tests;
