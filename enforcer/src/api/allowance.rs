//! Limits the requests that the agent answers in a second on its TCP listener.

use enforcer_core::units::MonoTime;
use std::time::Duration;

/// A load balancer that asks for a thousand workloads every second is far below it.
const A_SECOND: u64 = 2000;

/// The number of requests that may be answered now. It grows with time, up to [`A_SECOND`].
#[derive(Debug)]
pub(super) struct Allowance {
    left: u64,
    since: MonoTime,
}

impl Allowance {
    pub(super) fn new(now: MonoTime) -> Self {
        Self {
            left: A_SECOND,
            since: now,
        }
    }

    /// Takes one request off; returns false if none is left.
    pub(super) fn take(&mut self, now: MonoTime) -> bool {
        let one = Duration::from_secs(1) / u32::try_from(A_SECOND).unwrap_or(u32::MAX);
        let grown = now.since(self.since).as_nanos() / one.as_nanos().max(1);
        if grown > 0 {
            let grown = u64::try_from(grown).unwrap_or(u64::MAX);
            let left = self.left.saturating_add(grown);
            // The fraction of a request that has grown so far is kept.
            self.since = match left >= A_SECOND {
                true => now,
                false => self
                    .since
                    .after(one * u32::try_from(grown).unwrap_or(u32::MAX)),
            };
            self.left = left.min(A_SECOND);
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_answered_in_a_second_and_no_more() {
        let at = |millis: u64| MonoTime(millis * 1_000_000);
        let mut allowance = Allowance::new(at(0));
        let mut answered = |millis: u64, asked: u64| {
            let asked = 0..asked;
            asked.filter(|_| allowance.take(at(millis))).count()
        };
        assert_eq!(answered(0, 5000), 2000);
        assert_eq!(answered(500, 5000), 1000);
        assert_eq!(answered(500, 1), 0);
        // However they are spread, as many as that: three in two milliseconds.
        let spread = (0..1500).filter(|step| answered(501 + step * 2 / 3, 1) > 0);
        assert_eq!(spread.count(), 1500);
        // The number does not grow beyond one second's.
        assert_eq!(answered(60_000, 5000), 2000);
    }
}
