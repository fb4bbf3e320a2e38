//! The claims on one workload's CPU time, and the limits that the kernel gets: the manifest's,
//! lowered by the claims. A claim never gives more than the manifest does, and leaves nothing
//! behind when it ends.

use crate::limits::Limits;
use crate::units::{CpuQuota, CpuWeight, Percent};
use crate::words::words;
use serde::{Deserialize, Serialize};

/// The claims that are in force beside the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// `cpu.weight` is 1: it runs when no other workload wants the CPU.
    pub demoted: bool,
    /// The lowest `cpu.max` that is claimed, as a share of one CPU.
    pub throttled: Option<Percent>,
}

words! {
    /// The kind of claim that lowers a workload's CPU time most.
    #[derive(Default)]
    pub enum Throttling {
        #[default]
        None = "none",
        /// `cpu.weight` is 1.
        Demoted = "demoted",
        /// `cpu.max` is lower than the manifest's.
        Throttled = "throttled",
    }
}

impl Claims {
    /// Returns the claim that takes most.
    #[must_use]
    pub fn throttling(self) -> Throttling {
        match self {
            Self {
                throttled: Some(_), ..
            } => Throttling::Throttled,
            Self { demoted: true, .. } => Throttling::Demoted,
            Self {
                demoted: false,
                throttled: None,
            } => Throttling::None,
        }
    }

    /// Returns both claims at once.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            demoted: self.demoted || other.demoted,
            throttled: match (self.throttled, other.throttled) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            },
        }
    }

    /// Returns the limits that the kernel should have.
    #[must_use]
    pub fn effective(self, limits: &Limits) -> Limits {
        let mut limits = limits.clone();
        if self.demoted && limits.cpu_weight != Some(CpuWeight::Idle) {
            limits.cpu_weight = Some(CpuWeight::Of(1));
        }
        if let Some(percent) = self.throttled {
            let quota = CpuQuota::of_one_cpu(percent);
            if limits.cpu_max.is_none_or(|present| quota.is_below(present)) {
                limits.cpu_max = Some(quota);
                // A burst above the quota is EINVAL, and one beside a claim void.
                limits.cpu_max_burst = None;
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Limit;

    fn demoted() -> Claims {
        Claims {
            demoted: true,
            throttled: None,
        }
    }

    fn throttled(percent: u32) -> Claims {
        Claims {
            demoted: false,
            throttled: Some(Percent(percent)),
        }
    }

    #[test]
    fn a_claim_takes_and_never_gives() {
        let limits = Limits {
            cpu_weight: Some(CpuWeight::Of(59)),
            cpu_max: Some(CpuQuota::of_one_cpu(Percent(50))),
            cpu_max_burst: Some(20_000),
            ..Limits::default()
        };
        assert_eq!(Claims::default().effective(&limits), limits);
        assert_eq!(
            demoted().effective(&limits).cpu_weight,
            Some(CpuWeight::Of(1))
        );
        assert_eq!(throttled(80).effective(&limits), limits);
        let held = throttled(20).effective(&limits);
        assert_eq!(
            held.cpu_max,
            Some(CpuQuota {
                quota: Limit::At(20_000),
                period: 100_000
            })
        );
        assert_eq!(held.cpu_max_burst, None);
        assert_eq!(held.cpu_weight, limits.cpu_weight);
    }

    #[test]
    fn an_idle_workload_is_lower_than_any_weight() {
        let idle = Limits {
            cpu_weight: Some(CpuWeight::Idle),
            ..Limits::default()
        };
        assert_eq!(demoted().effective(&idle), idle);
    }

    #[test]
    fn the_lowest_claim_counts() {
        let both = throttled(20).and(throttled(50)).and(demoted());
        assert_eq!(
            (both.throttled, both.throttling().as_str()),
            (Some(Percent(20)), "throttled")
        );
        assert_eq!(demoted().throttling().as_str(), "demoted");
        assert_eq!(Claims::default().throttling().as_str(), "none");
    }
}
