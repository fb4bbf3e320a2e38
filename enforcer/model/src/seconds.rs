//! Durations as numbers of seconds, for `#[serde(with = "seconds")]`.

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};
use std::time::Duration;

pub(crate) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Reads back what [`serialize`] wrote. Writing the result again gives the same number.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_was_read_is_written_as_it_was() {
        // A simple generator: the numbers differ in every bit, and each run has the same ones.
        let mut state = 1_u64;
        for bits in 0..63_u32 {
            for _ in 0..200 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let written = Duration::from_nanos(state >> (63 - bits)).as_secs_f64();
                let read = Duration::try_from_secs_f64(written).expect("a duration");
                assert_eq!(read.as_secs_f64().to_bits(), written.to_bits(), "{written}");
            }
        }
    }
}
