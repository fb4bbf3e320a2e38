//! What a thread that doesn't sleep is: a dead loop, busy polling, or at work.
//! The evidence comes in as numbers; this says what it proves. How it was
//! gathered is not known here, nor what is done about it.
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

pub use enforcer_model::spec::Rung;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use waits::Wait;

/// How often it is asked whether the workloads are busy enough to be sampled, …
pub const GATE: Duration = Duration::from_millis(250);
/// … which they are if all together have used so much CPU time since: less than
/// half a percent of one CPU hides no loop for long.
pub const WORTH_SAMPLING: Duration = Duration::from_millis(1);

/// How long a suspect's registers are sampled before it is stopped at all, and
/// how often a second.
pub const SAMPLE_TIME: Duration = Duration::from_millis(500);
pub const SAMPLE_HZ: u32 = 997;
/// Where there are fewer, it has not had its CPU time yet, and is sampled longer.
pub const ENOUGH_SAMPLES: u32 = 150;
/// Fewer samples say nothing.
pub const MIN_SAMPLES: u32 = 50;
/// A thread whose next state is new with at least this probability is at work,
/// and is spared the stops. docs/detection.md has the measurements.
pub const WORK_PROBABILITY: f64 = 0.5;

/// From one stop to the next, at random, so that no loop keeps step with it.
pub const GAP: (Duration, Duration) = (Duration::from_millis(6), Duration::from_millis(18));
/// A thread runs at least so many times as long as it was stopped last.
pub const GAP_PER_STOP: u32 = 2;
pub const MAX_SNAPSHOTS: u32 = 160;
/// How long one thread is stopped in all, at most.
pub const MAX_STOPPED: Duration = Duration::from_secs(2);
/// How long a proof may take, on a host whose CPUs are all taken.
pub const PROOF_TIME: Duration = Duration::from_secs(8);
/// Pages that are read and hashed for one snapshot, at most.
pub const MAX_PAGES: u64 = 4096;
/// Pages whose page table entries are looked at for one snapshot, at most.
pub const MAX_SCANNED_PAGES: u64 = 1 << 20;
/// So many system calls tell how a thread spins through them.
pub const ENOUGH_CALLS: u32 = 100;
/// Busy polling spends at most so much of its time in its own code.
const MOST_USER_TIME: f64 = 0.85;

/// A thread, named so that a number that is used again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Thread {
    pub pid: u32,
    pub tid: u32,
    /// When it started, in clock ticks since boot, as `/proc` tells it.
    #[serde(skip)]
    pub start_ticks: u64,
}

/// Who found a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Ebpf,
    /// `/proc`, once a second: without eBPF nothing is proved.
    Proc,
}

/// A thread that has used its budget of CPU time without a voluntary sleep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    pub thread: Thread,
    pub command: String,
    /// CPU time since its last sleep.
    pub cpu: Duration,
    pub source: Source,
    /// How often it had slept by then; `None` where our own stops have counted.
    pub sleeps: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Hot, and nothing is proved.
    OverBudget,
    /// Busy polling: it spins through system calls that do nothing.
    SyscallSpin,
    /// Proved: its whole state recurs, and nothing that is known of can change
    /// that unless somebody outside the process acts.
    DeadLoop,
}

impl Verdict {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::OverBudget => "over_budget",
            Self::SyscallSpin => "syscall_spin",
            Self::DeadLoop => "dead_loop",
        }
    }
}

/// What the samples of half a second say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    pub all: u32,
    pub in_user_mode: u32,
    /// States that were seen just once, in user mode.
    pub singletons: u32,
}

impl Sampling {
    /// The Good–Turing estimate: how likely the next state is a new one.
    #[must_use]
    pub fn new_state_probability(self) -> Option<f64> {
        let enough = self.in_user_mode >= MIN_SAMPLES;
        enough.then(|| f64::from(self.singletons) / f64::from(self.in_user_mode))
    }

    #[must_use]
    pub fn user_share(self) -> Option<f64> {
        (self.all > 0).then(|| f64::from(self.in_user_mode) / f64::from(self.all))
    }

    /// Whether stopping the thread could prove anything.
    #[must_use]
    pub fn is_worth_a_proof(self) -> bool {
        self.new_state_probability()
            .is_none_or(|probability| probability < WORK_PROBABILITY)
    }
}

/// System calls that were seen while the thread was followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    pub all: u32,
    /// Those that did nothing: nothing was ready, nothing was moved.
    pub idle: u32,
    /// Those that say nothing either way, as reading a clock.
    pub neutral: u32,
    /// Names of the most frequent ones, most frequent first.
    pub names: Vec<String>,
}

/// Something beyond the thread's own state that may end its loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "what", content = "detail")]
pub enum Outside {
    /// Another thread ran, came or went meanwhile.
    ThreadRan(String),
    /// Another thread will wake up by itself.
    ThreadWakes(String),
    /// Another thread waits for something from outside the process.
    ThreadWaits(String),
    /// Memory that another process may write.
    SharedMapping(String),
    /// Memory that a device may write.
    DeviceMapping(String),
    /// It reads a clock.
    Clock,
    /// A timer will send it a signal that it handles.
    Timer,
}

impl Outside {
    /// Whether this alone may end the loop, without anyone asking for anything.
    /// A thread that waits for the outside may too, but then the outside has to
    /// act first: it is named in the evidence, and the loop stands proved as long
    /// as nobody does.
    #[must_use]
    pub fn breaks_the_proof(&self) -> bool {
        match self {
            Self::ThreadRan(_)
            | Self::ThreadWakes(_)
            | Self::SharedMapping(_)
            | Self::DeviceMapping(_)
            | Self::Clock
            | Self::Timer => true,
            Self::ThreadWaits(_) => false,
        }
    }

    /// What another thread's wait means for a proof; `None` if only the looping
    /// process itself could end it.
    #[must_use]
    pub fn of_wait(wait: Wait, thread: String) -> Option<Self> {
        match wait {
            Wait::ForOwnProcess => None,
            Wait::ForOutside => Some(Self::ThreadWaits(thread)),
            Wait::Timed => Some(Self::ThreadWakes(thread)),
            Wait::Running => Some(Self::ThreadRan(thread)),
        }
    }
}

/// Everything that is known about one suspect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    pub source: Source,
    /// How often it was stopped and looked at.
    pub snapshots: u32,
    pub distinct_states: u32,
    /// Snapshots that found a state again, with no input in between.
    pub recurrences: u32,
    /// Whether the recurrences prove that the state recurs for ever.
    pub recurs: bool,
    /// `None` with too few samples.
    pub new_state_probability: Option<f64>,
    /// The share of its CPU time that it spent in its own code.
    pub user_share: Option<f64>,
    pub calls: Calls,
    pub signals: u32,
    pub outside: Vec<Outside>,
    pub pages_hashed: u64,
    #[serde(rename = "stopped_seconds", serialize_with = "crate::event::seconds")]
    pub stopped: Duration,
    #[serde(
        rename = "longest_stop_seconds",
        serialize_with = "crate::event::seconds"
    )]
    pub longest_stop: Duration,
    /// The thread's CPU time, since it started.
    #[serde(skip)]
    pub thread_cpu: Duration,
    /// From the first sample to the end of the proof.
    #[serde(rename = "took_seconds", serialize_with = "crate::event::seconds")]
    pub took: Duration,
    /// Why there was no proof to be had, or why it was not finished.
    pub unproven: Option<String>,
    /// The hottest user stack, innermost frame first.
    pub stack: Vec<String>,
}

impl Evidence {
    /// Of a suspect that nobody could look at.
    #[must_use]
    pub fn none(source: Source, why: &str) -> Self {
        Self {
            source,
            snapshots: 0,
            distinct_states: 0,
            recurrences: 0,
            recurs: false,
            new_state_probability: None,
            user_share: None,
            calls: Calls::default(),
            signals: 0,
            outside: Vec::new(),
            pages_hashed: 0,
            stopped: Duration::ZERO,
            longest_stop: Duration::ZERO,
            thread_cpu: Duration::ZERO,
            took: Duration::ZERO,
            unproven: Some(why.to_owned()),
            stack: Vec::new(),
        }
    }

    /// What this proves.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.recurs && !self.outside.iter().any(Outside::breaks_the_proof) {
            return Verdict::DeadLoop;
        }
        let Calls {
            all, idle, neutral, ..
        } = self.calls;
        let polls = all >= ENOUGH_CALLS && idle >= all / 2 && idle + neutral == all;
        if polls && self.user_share.is_some_and(|share| share <= MOST_USER_TIME) {
            return Verdict::SyscallSpin;
        }
        Verdict::OverBudget
    }
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
