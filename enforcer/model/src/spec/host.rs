//! The host's section: its reserve, and the limits of all workloads together.

use super::{Alerts, HostWatch, Mode};
use crate::limits::Limits;
use crate::settings::{Setting, displayed};
use crate::shapes;
use crate::units::{Bytes, Limit, Percent};
use schemars::JsonSchema;
use std::fmt;
use std::sync::Arc;

/// The reserve of the host, and the limits of all workloads together.
#[derive(Clone, Debug, Default, PartialEq, Setting, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Host {
    #[setting(live)]
    pub reserve: Reserve,
    #[setting(live)]
    #[schemars(rename = "cgroup")]
    pub limits: Limits,
    /// The starts under way at a time. The default is twice the number of CPUs.
    #[setting(live)]
    #[schemars(with = "shapes::Whole<1, 10_000>")]
    pub starts_at_once: Option<u32>,
    /// The thresholds of the whole host.
    #[setting(live)]
    pub watch: HostWatch,
    /// The manifest's own: a workload may have another.
    #[setting(live)]
    #[schemars(skip)]
    pub mode: Mode,
    /// The manifest's `alerts` section.
    #[setting(live)]
    #[schemars(skip)]
    pub alerts: Arc<Alerts>,
}

/// The memory and swap that no workload gets. The default is 10 % of the memory but at most 1 GiB,
/// and half of the swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Reserve {
    #[schemars(with = "shapes::SizeOrShare")]
    pub memory: Option<Portion>,
    #[schemars(with = "shapes::SizeOrShare")]
    pub swap: Option<Portion>,
}

/// An amount, or a part of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Portion {
    Amount(Bytes),
    Share(Percent),
}

displayed!(Portion);

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount(amount) => amount.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl Portion {
    #[must_use]
    pub fn of(self, whole: Bytes) -> Bytes {
        match self {
            Self::Amount(amount) => amount.min(whole),
            Self::Share(percent) => whole.percent(percent),
        }
    }
}

impl Host {
    /// Returns the limits of the workloads' parent on a host with this much memory and swap: what
    /// the manifest says, held below what is left by the reserve.
    #[must_use]
    pub fn ceiling(&self, memory: Bytes, swap: Bytes, tasks: u64) -> Limits {
        const MOST: Bytes = Bytes(1 << 30);
        let tenth = memory.percent(Percent(10));
        let kept = self
            .reserve
            .memory
            .map_or(tenth.min(MOST), |portion| portion.of(memory));
        let kept_swap = self
            .reserve
            .swap
            .unwrap_or(Portion::Share(Percent(50)))
            .of(swap);
        let left = |whole: Bytes, kept: Bytes| Bytes(whole.0.saturating_sub(kept.0)).page_rounded();
        let swap_left = (swap.0 > 0).then(|| left(swap, kept_swap));
        let mut limits = self
            .limits
            .clone()
            .with_memory_ceiling(left(memory, kept), swap_left);
        // An operator has to be able to log in: the last tenth is not for workloads.
        let most = Limit::At(tasks / 10 * 9);
        limits.pids_max = limits.pids_max.or((tasks > 0).then_some(most));
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_from_all_workloads_together() {
        let host = Host::default();
        let limits = host.ceiling(Bytes(8 << 30), Bytes(2 << 30), 32_768);
        // 10 % of 8 GiB, rounded to what is left in whole pages; half of the swap.
        assert_eq!(
            limits.memory_max,
            Some(Limit::At(Bytes((8 << 30) - (8 << 30) / 10).page_rounded()))
        );
        assert_eq!(limits.memory_swap_max, Some(Limit::At(Bytes(1 << 30))));
        assert_eq!(limits.pids_max, Some(Limit::At(29_484)), "nine tenths");
        let large = host.ceiling(Bytes(64 << 30), Bytes(0), 32_768);
        assert_eq!(large.memory_max, Some(Limit::At(Bytes(63 << 30))));
        assert_eq!(large.memory_swap_max, None, "no swap, nothing to keep");
    }
}
