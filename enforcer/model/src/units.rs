//! The only file in which a number has no unit yet: quantities, how they are
//! written for the kernel, and how a person reads them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// The page size of every kernel this agent runs on for now (x86-64).
pub const PAGE: u64 = 4096;

/// An amount of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    #[must_use]
    pub fn from_pages(pages: u64) -> Self {
        Self(pages.saturating_mul(PAGE))
    }

    /// Returns the value that the kernel keeps: whole pages, rounded down
    /// (`page_counter_memparse`).
    #[must_use]
    pub fn page_rounded(self) -> Self {
        Self(self.0 / PAGE * PAGE)
    }

    /// Returns a part of this amount.
    #[must_use]
    pub fn percent(self, percent: Percent) -> Self {
        let part = u128::from(self.0) * u128::from(percent.0) / 100;
        Self(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

/// Writes `1.5G`, `32M`, `512K` or `100B`. The suffixes are binary, as in the manifest.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [
            (1 << 40, "T"),
            (1 << 30, "G"),
            (1 << 20, "M"),
            (1 << 10, "K"),
        ];
        for (size, suffix) in UNITS {
            if self.0 >= size {
                if self.0.is_multiple_of(size) {
                    return write!(f, "{}{suffix}", self.0 / size);
                }
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return write!(f, "{}.{}{suffix}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// A limit of the kernel's: a value, or none at all, which it writes `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit<T> {
    At(T),
    Max,
}

impl<T: Copy> Limit<T> {
    #[must_use]
    pub fn at(self) -> Option<T> {
        match self {
            Self::At(value) => Some(value),
            Self::Max => None,
        }
    }
}

/// `null` in JSON where there is no limit.
impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(value) => value.serialize(serializer),
            Self::Max => serializer.serialize_none(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Max, Self::At))
    }
}

/// For checkpoints, which know no limit at all from one that wasn't asked for:
/// `"max"` is the one, `null` the other.
pub(crate) mod asked_limit {
    use super::Limit;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Asked<T> {
        At(T),
        Max(Word),
    }

    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Max,
    }

    pub(crate) fn serialize<T: Serialize + Copy, S: Serializer>(
        limit: &Option<Limit<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let asked = limit.map(|limit| match limit {
            Limit::At(value) => Asked::At(value),
            Limit::Max => Asked::Max(Word::Max),
        });
        asked.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Limit<T>>, D::Error> {
        let asked = Option::<Asked<T>>::deserialize(deserializer)?;
        Ok(asked.map(|asked| match asked {
            Asked::At(value) => Limit::At(value),
            Asked::Max(Word::Max) => Limit::Max,
        }))
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(value) => value.fmt(f),
            Self::Max => f.write_str("max"),
        }
    }
}

/// A whole percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Percent(pub u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// `cpu.weight`: 1 to 10000, or the class below every weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuWeight {
    /// `cpu.idle` 1, since Linux 5.15.
    Idle,
    Of(u16),
}

impl fmt::Display for CpuWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Of(weight) => weight.fmt(f),
        }
    }
}

/// `cpu.max`: microseconds of CPU time in each period of microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuQuota {
    pub quota: Limit<u64>,
    pub period: u64,
}

impl CpuQuota {
    /// Returns whether this allows less CPU time than the other, also with another period.
    #[must_use]
    pub fn is_below(self, other: Self) -> bool {
        match (self.quota, other.quota) {
            (Limit::Max, _) => false,
            (Limit::At(_), Limit::Max) => true,
            (Limit::At(own), Limit::At(others)) => {
                u128::from(own) * u128::from(other.period)
                    < u128::from(others) * u128::from(self.period)
            }
        }
    }

    pub const DEFAULT_PERIOD: u64 = 100_000;

    /// Returns the quota for a share of one CPU; 150 % is one and a half CPUs.
    #[must_use]
    pub fn of_one_cpu(percent: Percent) -> Self {
        Self {
            quota: Limit::At(u64::from(percent.0) * 1000),
            period: Self::DEFAULT_PERIOD,
        }
    }
}

/// The form of the file `cpu.max`.
impl fmt::Display for CpuQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.quota, self.period)
    }
}

/// A moment of a clock that only goes forward, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MonoTime(pub u64);

impl MonoTime {
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(nanos(wait)))
    }

    /// Returns the time since `earlier`, or zero if it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a duration as a person reads it: `800ms`, `1.5s`, `2m`, `1h30m`.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        1..1000 => format!("{millis}ms"),
        1000..60_000 if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        1000..60_000 => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        _ => long_duration(duration.as_secs()),
    }
}

fn long_duration(seconds: u64) -> String {
    let parts = [
        (seconds / 86_400, 'd'),
        (seconds % 86_400 / 3600, 'h'),
        (seconds % 3600 / 60, 'm'),
        (seconds % 60, 's'),
    ];
    let mut shown = parts
        .iter()
        .skip_while(|part| part.0 == 0)
        .take(2)
        .filter(|part| part.0 > 0);
    let mut text = String::new();
    for (number, unit) in &mut shown {
        text.push_str(&format!("{number}{unit}"));
    }
    text
}

/// Readings and askings that lie further apart than this say nothing about the time between
/// them. They are seconds apart while the agent runs; a suspended host makes such a gap, since
/// the clock counts the time of its sleep (CLOCK_BOOTTIME).
pub const STANDSTILL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_a_person_writes_them() {
        let shown: Vec<String> = [0, 100, 1 << 20, 33_554_432, 1_610_612_736, 1_000_000]
            .map(|n| Bytes(n).to_string())
            .into();
        assert_eq!(shown, ["0B", "100B", "1M", "32M", "1.5G", "976.5K"]);
    }

    #[test]
    fn the_kernel_rounds_limits_down_to_pages() {
        assert_eq!(Bytes(1_000_000).page_rounded(), Bytes(999_424));
    }

    #[test]
    fn durations_read_as_a_person_writes_them() {
        let shown: Vec<String> = [0, 800, 1000, 1500, 60_000, 90_000, 5_400_000, 90_000_000]
            .map(|millis| human_duration(Duration::from_millis(millis)))
            .into();
        assert_eq!(
            shown,
            ["0s", "800ms", "1s", "1.5s", "1m", "1m30s", "1h30m", "1d1h"]
        );
    }
}
