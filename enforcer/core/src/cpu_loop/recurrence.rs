//! Which states were seen before. An input makes all earlier ones worthless:
//! the thread may go another way from the same state on. And a thread that got no
//! CPU time between two looks is in the same state without having looped. A state
//! that comes back after another one was seen is beyond doubt; the same one twice in
//! a row counts if the thread ran in between, and then many are wanted, for CPU time
//! is what the kernel believes that it gave: a hypervisor may have kept it.

use crate::units::MonoTime;
use std::collections::HashMap;
use std::time::Duration;

/// States must come back after another one so often, …
const MIN_RETURNS: u32 = 3;
/// … or be found twice in a row so often, …
const MIN_REPEATS: u32 = 12;
/// … and one of them so long after it was first seen: a loop that reads a clock
/// of one-second steps repeats itself for up to a second.
const MIN_SPAN: Duration = Duration::from_millis(1100);
/// What the kernel's own part of going on and stopping again takes at most: a
/// thread that was given more than this has executed code of its own.
const MIN_RUN: Duration = Duration::from_millis(3);

/// So many states without a single recurrence: a loop of up to a thousand states
/// would have shown one by now, nearly always (the birthday paradox).
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
    /// A snapshot was taken of a state with this hash, after the thread was given
    /// so much CPU time since the one before.
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

    /// A system call, a signal, a page read in.
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

    /// Different states, counted anew after each input.
    #[must_use]
    pub fn distinct(&self) -> u32 {
        self.distinct_before
            .saturating_add(u32::try_from(self.first_seen.len()).unwrap_or(u32::MAX))
    }

    /// States found again since the last input.
    #[must_use]
    pub fn recurrences(&self) -> u32 {
        self.returns + self.repeats
    }

    /// Whether looking on is idle: so many different states in a row are work, or
    /// a loop too long to be proved this way.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.returns + self.repeats == 0 && self.first_seen.len() >= HOPELESS
    }

    /// Whether this recurs for ever, if nothing from outside comes in.
    #[must_use]
    pub fn proves(&self) -> bool {
        let enough = self.returns >= MIN_RETURNS || self.repeats >= MIN_REPEATS;
        enough && self.longest >= MIN_SPAN
    }
}
