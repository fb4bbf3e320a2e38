//! Levels of a use that hold for a time before they count, in both directions: a
//! peak is no alarm, and a dip is no all-clear.

use crate::spec::Threshold;
use crate::units::{MonoTime, Percent};
use serde::Serialize;
use std::fmt;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Normal,
    Warn,
    Critical,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Warn => "warn",
            Self::Critical => "critical",
        })
    }
}

impl Threshold {
    fn level_of(&self, used: Percent) -> Level {
        let reached = |level: Option<Percent>| level.is_some_and(|level| used >= level);
        if reached(self.critical) {
            Level::Critical
        } else if reached(self.warn) {
            Level::Warn
        } else {
            Level::Normal
        }
    }
}

/// A use that is watched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauge {
    level: Level,
    /// Since when it has been at this level or beyond it without a break.
    since: [Option<MonoTime>; 2],
    /// Since when it has been below the level that counts.
    below: Option<MonoTime>,
}

impl Gauge {
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Takes a reading; the level if another one counts from now on.
    pub(crate) fn observe(
        &mut self,
        now: MonoTime,
        used: Percent,
        threshold: &Threshold,
    ) -> Option<Level> {
        let instant = threshold.level_of(used);
        for (since, level) in self.since.iter_mut().zip([Level::Warn, Level::Critical]) {
            if instant < level {
                *since = None;
            } else {
                since.get_or_insert(now);
            }
        }
        if instant >= self.level {
            self.below = None;
        }
        let held =
            |since: Option<MonoTime>| since.is_some_and(|since| now.since(since) >= threshold.hold);
        let reached = if held(self.since[1]) {
            Level::Critical
        } else if held(self.since[0]) {
            Level::Warn
        } else {
            Level::Normal
        };
        let next = if reached > self.level {
            reached
        } else if instant < self.level && held(Some(*self.below.get_or_insert(now))) {
            instant
        } else {
            return None;
        };
        self.level = next;
        self.below = None;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// One reading every five seconds, of which two in a row are asked for.
    fn levels(readings: &[u32]) -> Vec<String> {
        let threshold = Threshold {
            hold: Duration::from_secs(5),
            ..Threshold::DEFAULT
        };
        let mut gauge = Gauge::default();
        let mut told = Vec::new();
        for (round, used) in (0..).zip(readings) {
            let now = MonoTime(round * 5_000_000_000);
            if let Some(level) = gauge.observe(now, Percent(*used), &threshold) {
                told.push(format!("{round}: {level}"));
            }
        }
        told
    }

    #[test]
    fn a_level_counts_when_it_held_and_ends_when_it_ended() {
        assert_eq!(levels(&[91, 50, 91, 50, 99]), Vec::<String>::new());
        assert_eq!(
            levels(&[91, 99, 99, 91, 99, 50, 50]),
            ["1: warn", "2: critical", "6: normal"]
        );
        assert_eq!(
            levels(&[99, 99, 92, 92, 10, 10]),
            ["1: critical", "3: warn", "5: normal"]
        );
    }
}
