//! The states of a thread that were seen before. An input makes all earlier ones worthless, because
//! the thread may go another way from the same state on. A thread that got no CPU time between two
//! snapshots is in the same state without a loop. A state that comes back after another one proves a
//! loop. The same state twice in a row counts only if the thread ran in between, and then many are
//! needed: the kernel counts the CPU time that it gave, and a hypervisor may have kept it.

use crate::units::MonoTime;
use std::collections::HashMap;
use std::time::Duration;

/// The number of times that a state must come back after another one.
const MIN_RETURNS: u32 = 3;
/// The number of times that a state must be found twice in a row.
const MIN_REPEATS: u32 = 12;
/// The least time between the first and the last recurrence: a loop that reads a clock of
/// one-second steps repeats itself for up to a second.
const MIN_SPAN: Duration = Duration::from_millis(1100);
/// The most CPU time that the kernel needs to continue a thread and stop it again. A thread that
/// got more has executed code of its own.
const MIN_RUN: Duration = Duration::from_millis(3);

/// The number of states without a recurrence after which more snapshots prove nothing: a loop of up
/// to a thousand states would nearly always have shown one by then (the birthday paradox).
const HOPELESS: usize = 100;

/// The snapshots of one thread.
#[derive(Clone, Debug, Default)]
pub struct Recurrence {
    first_seen: HashMap<u64, MonoTime>,
    last: Option<u64>,
    snapshots: u32,
    /// States that came back after another one, and that were found twice in a row.
    returns: u32,
    repeats: u32,
    longest: Duration,
    distinct_before: u32,
}

impl Recurrence {
    /// Notes a snapshot of a state with this hash. `ran` is the thread's CPU time since the last
    /// one.
    pub fn note(&mut self, at: MonoTime, state: u64, ran: Duration) {
        self.snapshots += 1;
        let is_repeat = self.last == Some(state);
        if is_repeat && ran < MIN_RUN {
            return;
        }
        self.last = Some(state);
        match self.first_seen.get(&state) {
            Some(first) => {
                if is_repeat {
                    self.repeats += 1;
                } else {
                    self.returns += 1;
                }
                self.longest = self.longest.max(at.since(*first));
            }
            None => {
                self.first_seen.insert(state, at);
            }
        }
    }

    /// Notes an input: a system call, a signal, or a page that was read in.
    pub fn input(&mut self) {
        self.distinct_before += u32::try_from(self.first_seen.len()).unwrap_or(u32::MAX);
        self.first_seen.clear();
        self.last = None;
        (self.returns, self.repeats) = (0, 0);
        self.longest = Duration::ZERO;
    }

    #[must_use]
    pub fn snapshots(&self) -> u32 {
        self.snapshots
    }

    /// Returns the number of different states since the last input.
    #[must_use]
    pub fn distinct(&self) -> u32 {
        self.distinct_before
            .saturating_add(u32::try_from(self.first_seen.len()).unwrap_or(u32::MAX))
    }

    /// Returns the number of states that were found again since the last input.
    #[must_use]
    pub fn recurrences(&self) -> u32 {
        self.returns + self.repeats
    }

    /// Returns whether more snapshots prove nothing: this many different states in a row are work,
    /// or a loop that is too long for this proof.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.returns + self.repeats == 0 && self.first_seen.len() >= HOPELESS
    }

    /// Returns whether the state recurs for ever, if no input from outside comes.
    #[must_use]
    pub fn proves(&self) -> bool {
        let enough = self.returns >= MIN_RETURNS || self.repeats >= MIN_REPEATS;
        enough && self.longest >= MIN_SPAN
    }
}
