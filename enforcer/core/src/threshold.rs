//! Levels of a use that hold for a time before they count, in both directions: a
//! peak is no alarm, and a dip is no all-clear.

use crate::spec::Threshold;
use crate::units::{Bytes, MonoTime, Percent, STANDSTILL};
pub use enforcer_model::level::Level;
use std::time::Duration;

fn level_of(threshold: &Threshold, used: Percent) -> Level {
    let reached = |level: Option<Percent>| level.is_some_and(|level| used >= level);
    if reached(threshold.critical) {
        Level::Critical
    } else if reached(threshold.warn) {
        Level::Warn
    } else {
        Level::Normal
    }
}

/// A watched use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauge {
    level: Level,
    warn: Held,
    critical: Held,
    /// The time of the last reading.
    last: Option<MonoTime>,
}

/// Since when a level has been reached without a break, or left.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    reached: Option<MonoTime>,
    left: Option<MonoTime>,
}

impl Held {
    fn observe(&mut self, now: MonoTime, reached: bool) {
        let (goes_on, ends) = if reached {
            (&mut self.reached, &mut self.left)
        } else {
            (&mut self.left, &mut self.reached)
        };
        goes_on.get_or_insert(now);
        *ends = None;
    }
}

impl Gauge {
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Begins at a level that was already reported. Its time starts again.
    pub(crate) fn at(level: Level) -> Self {
        Self {
            level,
            ..Self::default()
        }
    }

    /// Takes a reading. Returns the level if another one begins.
    pub(crate) fn observe(
        &mut self,
        now: MonoTime,
        used: Percent,
        threshold: &Threshold,
    ) -> Option<Level> {
        // A gap in the readings does not count as time at a level.
        if self.last.is_some_and(|last| now.since(last) > STANDSTILL) {
            (self.warn, self.critical) = (Held::default(), Held::default());
        }
        self.last = Some(now);
        let instant = level_of(threshold, used);
        self.warn.observe(now, instant >= Level::Warn);
        self.critical.observe(now, instant >= Level::Critical);
        let for_long =
            |since: Option<MonoTime>| since.is_some_and(|since| now.since(since) >= threshold.hold);
        let highest = |of: fn(&Held) -> Option<MonoTime>, reached: bool| {
            if for_long(of(&self.critical)) == reached {
                Level::Critical
            } else if for_long(of(&self.warn)) == reached {
                Level::Warn
            } else {
                Level::Normal
            }
        };
        // A level rises when it was reached for long enough, and falls when it was left for long
        // enough.
        let up = highest(|held| held.reached, true);
        let down = highest(|held| held.left, false);
        let next = self.level.max(up).min(down.max(up));
        if next == self.level {
            return None;
        }
        self.level = next;
        Some(next)
    }
}

/// The readings of a use for which the kernel sends no event, and the time of the next one.
///
/// A level must hold for a time before it counts. A use that is far below its threshold is read twice
/// in that time; every other use is read as often as the caller can.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readings {
    next: MonoTime,
    /// The time of the last reading near the threshold, until the use has been far below it for long
    /// enough.
    near: Option<MonoTime>,
    /// The last reading, if it was far below the threshold.
    far: Option<Far>,
}

/// A use far below its threshold.
#[derive(Clone, Copy, Debug)]
struct Far {
    at: MonoTime,
    /// The CPU time of all workloads until then.
    cpu: Duration,
    /// The memory up to the threshold.
    room: Bytes,
}

/// The CPU time of all workloads at a reading, and the memory that is missing to the threshold. Together
/// they say how soon the threshold can be met.
pub type Slack = (Duration, Bytes);

impl Readings {
    /// The longest time between two readings. It is shorter than the gap that ends a level's time.
    const LONGEST: Duration = Duration::from_secs(STANDSTILL.as_secs() / 2);

    /// The most memory that a CPU takes in a second. The kernel zeroes it first, at 7.7 GB/s in the fastest
    /// case that was measured (decision 20).
    const FASTEST: u64 = 40 << 30;
    /// The longest time without a reading, whatever the CPU time says.
    const REST: Duration = Duration::from_secs(300);

    #[must_use]
    pub fn is_due(&self, now: MonoTime) -> bool {
        self.next <= now
    }

    /// Returns whether the use may have met its threshold since the last reading. All workloads together
    /// have used this much CPU time so far, and none takes memory without.
    #[must_use]
    pub fn may_have_grown(&self, now: MonoTime, cpu: Option<Duration>) -> bool {
        let Some((far, cpu)) = self.far.zip(cpu) else {
            return true;
        };
        let used = cpu.saturating_sub(far.cpu).as_micros();
        let most = used.saturating_mul(u128::from(Self::FASTEST / 1_000_000));
        // A counter that begins anew says nothing.
        cpu < far.cpu || now.since(far.at) >= Self::REST || most >= u128::from(far.room.0)
    }

    /// Makes the next reading due at once.
    pub fn hasten(&mut self) {
        self.next = MonoTime::default();
        self.far = None;
    }

    /// Takes note of a reading of this share. `from` is the lowest share that matters, and `hold` the
    /// time for which it has to hold.
    pub fn note(
        &mut self,
        now: MonoTime,
        (used, slack): (Option<Percent>, Option<Slack>),
        from: Option<Percent>,
        hold: Duration,
    ) {
        let near = used
            .zip(from)
            .is_some_and(|(used, from)| used.0.saturating_mul(2) >= from.0);
        if near {
            self.near = Some(now);
        }
        // A level that was left must be seen to be left for as long.
        self.near = self.near.filter(|near| now.since(*near) <= hold);
        self.next = match self.near {
            Some(_) => now,
            None => now.after((hold / 2).min(Self::LONGEST)),
        };
        let far = slack.filter(|_| self.near.is_none());
        self.far = far.map(|(cpu, room)| Far { at: now, cpu, room });
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
            ..Threshold::MEMORY
        };
        let mut gauge = Gauge::default();
        let mut reported = Vec::new();
        for (round, used) in (0..).zip(readings) {
            let now = MonoTime(round * 5_000_000_000);
            if let Some(level) = gauge.observe(now, Percent(*used), &threshold) {
                reported.push(format!("{round}: {level}"));
            }
        }
        reported
    }

    /// Returns the seconds of the readings of a tick of five seconds, for a use in percent that changes
    /// at these seconds.
    fn readings(changes: &[(u64, u32)], until: u64) -> Vec<u64> {
        let mut readings = Readings::default();
        let mut seconds = Vec::new();
        for second in (0..until).step_by(5) {
            let now = MonoTime(second * 1_000_000_000);
            if readings.is_due(now) {
                let used = changes.iter().rfind(|(from, _)| *from <= second);
                let used = used.map(|(_, used)| Percent(*used));
                readings.note(
                    now,
                    (used, None),
                    Some(Percent(90)),
                    Duration::from_secs(60),
                );
                seconds.push(second);
            }
        }
        seconds
    }

    #[test]
    fn a_use_far_below_its_threshold_is_read_twice_in_its_time() {
        assert_eq!(readings(&[(0, 10)], 180), [0, 30, 60, 90, 120, 150]);
        // Near it, at every tick.
        assert_eq!(readings(&[(0, 45)], 60).len(), 12);
        let near = readings(&[(0, 10), (100, 60), (130, 10)], 260);
        let until_left_for_long: Vec<_> = (120..=190).step_by(5).collect();
        assert_eq!(near[..4], [0, 30, 60, 90]);
        assert_eq!(near[4..19], until_left_for_long);
        assert_eq!(near[19..], [220, 250]);
    }

    #[test]
    fn a_use_is_not_read_again_before_it_can_have_grown() {
        let second = |second: u64| MonoTime(second * 1_000_000_000);
        let mut readings = Readings::default();
        let cpu = Duration::from_secs(7);
        let mut note = |used: u32| {
            let slack = Some((cpu, Bytes(400 << 20)));
            let hold = Duration::from_secs(60);
            readings.note(
                second(0),
                (Some(Percent(used)), slack),
                Some(Percent(90)),
                hold,
            );
            readings
        };
        let far = note(10);
        let after = |millis: u64| Some(cpu + Duration::from_millis(millis));
        assert!(!far.may_have_grown(second(60), after(5)));
        assert!(far.may_have_grown(second(60), after(11)));
        assert!(far.may_have_grown(second(60), None), "it is not known");
        assert!(far.may_have_grown(second(300), after(0)), "long ago");
        assert!(
            far.may_have_grown(second(60), Some(Duration::ZERO)),
            "a counter began anew"
        );
        assert!(note(60).may_have_grown(second(60), after(0)), "it is near");
    }

    #[test]
    fn a_level_that_was_left_is_read_until_it_has_ended() {
        let left = readings(&[(0, 95), (100, 10)], 240);
        assert_eq!(left[..33], (0..=160).step_by(5).collect::<Vec<_>>());
        assert_eq!(left[33..], [190, 220]);
    }

    /// A peak before an hour of sleep and one after it are two peaks.
    #[test]
    fn a_level_does_not_count_as_held_while_the_host_was_suspended() {
        let threshold = Threshold {
            hold: Duration::from_secs(60),
            ..Threshold::MEMORY
        };
        let mut gauge = Gauge::default();
        let mut observe = |seconds: u64, used| {
            let now = MonoTime(seconds * 1_000_000_000);
            gauge.observe(now, Percent(used), &threshold)
        };
        assert_eq!(observe(0, 99), None);
        assert_eq!(observe(3600, 99), None);
        assert_eq!(observe(3630, 99), None);
        assert_eq!(observe(3660, 99), Some(Level::Critical));
        // Neither does its end.
        assert_eq!(observe(3665, 10), None);
        assert_eq!(observe(9000, 10), None);
        assert_eq!(observe(9030, 10), None);
        assert_eq!(observe(9060, 10), Some(Level::Normal));
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
        // One low reading at the end of the hold is no all-clear of the lower level.
        assert_eq!(
            levels(&[99, 99, 92, 10, 92, 92]),
            ["1: critical", "3: warn"]
        );
    }
}
