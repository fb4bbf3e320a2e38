//! The delays with which checks begin. They show whether the agent keeps up.

use enforcer_model::requests::ProbeLateness;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Powers of two of a microsecond, up to half an hour.
const BUCKETS: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Lateness {
    counts: [AtomicU64; BUCKETS],
}

impl Lateness {
    pub(super) fn record(&self, late: Duration) {
        let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let bits = usize::try_from(u64::BITS - micros.leading_zeros()).unwrap_or(0);
        self.counts[bits.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the lateness since the agent began. The seconds are upper bounds, to a factor of two.
    pub(crate) fn summary(&self) -> ProbeLateness {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .collect();
        let asked: u64 = counts.iter().sum();
        // The first bucket by which this part of all is reached.
        let part = |permille: u64| {
            let wanted = asked.saturating_mul(permille).div_ceil(1000);
            let mut seen = 0;
            let bucket = counts.iter().position(|count| {
                seen += count;
                seen >= wanted && wanted > 0
            });
            bucket.map_or(0.0, |bits| Duration::from_micros(1 << bits).as_secs_f64())
        };
        ProbeLateness {
            asked,
            late_p50_seconds: part(500),
            late_p99_seconds: part(990),
            late_max_seconds: part(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_upper_bounds() {
        let lateness = Lateness::default();
        for _ in 0..99 {
            lateness.record(Duration::from_micros(100));
        }
        lateness.record(Duration::from_millis(50));
        let summary = lateness.summary();
        assert_eq!(summary.asked, 100);
        let micros = [
            summary.late_p50_seconds,
            summary.late_p99_seconds,
            summary.late_max_seconds,
        ]
        .map(|seconds| (seconds * 1e6).round());
        assert_eq!(micros, [128.0, 128.0, 65_536.0]);
    }
}
