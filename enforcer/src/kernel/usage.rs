//! What a workload uses right now, read when somebody asks.

use super::cgroupfs::{Cgroup, CgroupError};
use super::counters::field;
use enforcer_core::limits::Limits;
use serde::Serialize;

/// Numbers of the kernel's files; `None` where the file says `max` or is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Without the page cache that could be dropped at once: what `memory.max`
    /// is really about.
    pub(crate) working_set: u64,
    pub(crate) memory_max: Option<u64>,
    pub(crate) swap: u64,
    pub(crate) swap_max: Option<u64>,
    pub(crate) cpu_usec: u64,
    pub(crate) periods: u64,
    pub(crate) throttled_periods: u64,
}

pub(crate) fn read(cgroup: &Cgroup) -> Result<Usage, CgroupError> {
    let number = |file: &str| -> Result<Option<u64>, CgroupError> {
        Ok(cgroup
            .read_if_present(file)?
            .and_then(|text| text.trim().parse().ok()))
    };
    let stat = cgroup.read_if_present("memory.stat")?.unwrap_or_default();
    let cpu = cgroup.read_if_present("cpu.stat")?.unwrap_or_default();
    let current = number("memory.current")?.unwrap_or(0);
    Ok(Usage {
        working_set: current.saturating_sub(field(&stat, "inactive_file")),
        memory_max: number("memory.max")?,
        swap: number("memory.swap.current")?.unwrap_or(0),
        swap_max: number("memory.swap.max")?,
        cpu_usec: field(&cpu, "usage_usec"),
        periods: field(&cpu, "nr_periods"),
        throttled_periods: field(&cpu, "nr_throttled"),
    })
}

/// CPU time alone: what an instance starts from, since its cgroup may have had
/// others before.
pub(crate) fn read_cpu(cgroup: &Cgroup) -> Usage {
    let cpu = cgroup.read("cpu.stat").unwrap_or_default();
    Usage {
        cpu_usec: field(&cpu, "usage_usec"),
        periods: field(&cpu, "nr_periods"),
        throttled_periods: field(&cpu, "nr_throttled"),
        ..Usage::default()
    }
}

/// Bytes that are charged now: what a smaller `memory.max` would have to fit.
pub(crate) fn memory_current(cgroup: &Cgroup) -> Option<u64> {
    cgroup.read("memory.current").ok()?.trim().parse().ok()
}

/// One limit: what the manifest asks, and what the kernel says.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LimitState {
    file: &'static str,
    /// `None` where the manifest is silent.
    requested: Option<String>,
    /// `None` where this cgroup has no such file.
    effective: Option<String>,
}

pub(crate) fn limit_states(cgroup: Option<&Cgroup>, limits: &Limits) -> Vec<LimitState> {
    let files = limits.files().into_iter();
    files
        .map(|entry| LimitState {
            file: entry.file,
            requested: entry.asked.then_some(entry.value),
            effective: cgroup
                .and_then(|cgroup| cgroup.read(entry.file).ok())
                .map(|text| text.trim().to_owned()),
        })
        .collect()
}
