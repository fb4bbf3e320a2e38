//! A report of a thread that does not sleep.

use crate::seconds;
use crate::words::words;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A thread. The start time distinguishes it from a later one with the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Thread {
    pub pid: u32,
    pub tid: u32,
    /// The start time, in clock ticks since boot, as in `/proc/PID/task/TID/stat`.
    #[serde(skip)]
    pub start_ticks: u64,
}

/// The system call that a thread sleeps in, from `/proc/PID/task/TID/syscall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleep {
    pub number: u64,
    pub arguments: [u64; 6],
    /// The process has a timer descriptor, which ends a wait for descriptors.
    pub has_timer_descriptor: bool,
}

words! {
    /// The detector that found a suspect.
    pub enum LoopSource {
        Ebpf = "ebpf",
        /// `/proc`, read once a second. Without eBPF nothing is proved.
        Proc = "proc",
    }
}

words! {
    /// A judgement of a thread; each proves more than the one before it.
    pub enum Verdict {
        /// The thread is hot, and nothing is proved.
        OverBudget = "over_budget",
        /// The thread polls: it spins through system calls that do nothing.
        SyscallSpin = "syscall_spin",
        /// The thread's whole state recurs. Only an action from outside the process could change
        /// that.
        DeadLoop = "dead_loop",
    }
}

/// The system calls that were seen while the thread was followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    pub all: u32,
    /// The calls that did nothing: no descriptor was ready, and no byte was moved.
    pub idle: u32,
    /// The calls that prove nothing, such as a clock read.
    pub neutral: u32,
    /// The names of the most frequent calls, the most frequent first.
    pub names: Vec<String>,
}

/// Something beyond the thread's own state that may end its loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what", content = "detail")]
pub enum Outside {
    /// Another thread ran, began or ended meanwhile.
    ThreadRan(String),
    /// Another thread will wake up by itself.
    ThreadWakes(String),
    /// Another thread waits for something from outside the process.
    ThreadWaits(String),
    /// Another process may write this memory.
    SharedMapping(String),
    /// A device may write this memory.
    DeviceMapping(String),
    /// The thread reads a clock.
    Clock,
    /// A timer will send the thread a signal that it handles.
    Timer,
}

/// The evidence about one suspect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    pub source: LoopSource,
    /// The number of times that the thread was stopped and read.
    pub snapshots: u32,
    pub distinct_states: u32,
    /// The snapshots that found an earlier state again, without an input in between.
    pub recurrences: u32,
    /// The recurrences prove that the state recurs for ever.
    pub recurs: bool,
    /// `None` with too few samples.
    pub new_state_probability: Option<f64>,
    /// The share of the thread's CPU time in its own code.
    pub user_share: Option<f64>,
    pub calls: Calls,
    pub signals: u32,
    pub outside: Vec<Outside>,
    pub pages_hashed: u64,
    #[serde(rename = "stopped_seconds", with = "seconds")]
    pub stopped: Duration,
    #[serde(rename = "longest_stop_seconds", with = "seconds")]
    pub longest_stop: Duration,
    /// The thread's CPU time since it started.
    #[serde(skip)]
    pub thread_cpu: Duration,
    /// The time from the first sample to the end of the proof.
    #[serde(rename = "took_seconds", with = "seconds")]
    pub took: Duration,
    /// The reason why there was no proof, or why it was not finished.
    pub unproven: Option<String>,
    /// The hottest user stack, the innermost frame first.
    pub stack: Vec<String>,
}

impl Evidence {
    /// Returns the evidence about a suspect that could not be examined, with the reason.
    #[must_use]
    pub fn none(source: LoopSource, why: &str) -> Self {
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
}
