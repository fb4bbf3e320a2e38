//! How full the host is: memory, CPUs, a file system.

use enforcer_core::units::Percent;
use nix::sys::statvfs::statvfs;
use procfs::{Current as _, CurrentSI as _, KernelStats, Meminfo};
use std::path::Path;

/// With the reading before, since CPU time only means something between two.
#[derive(Debug, Default)]
pub(crate) struct HostUsage {
    /// Ticks in all, and those that were idle.
    ticks: Option<(u64, u64)>,
}

impl HostUsage {
    /// What is neither free nor could be freed at once (`MemAvailable`, Linux 3.14).
    pub(crate) fn memory(&self) -> Option<Percent> {
        let meminfo = Meminfo::current().ok()?;
        let used = meminfo.mem_total.saturating_sub(meminfo.mem_available?);
        percent(used, meminfo.mem_total)
    }

    /// Of all CPUs, since the last reading; `None` for the first.
    pub(crate) fn cpu(&mut self) -> Option<Percent> {
        let total = KernelStats::current().ok()?.total;
        let idle = total.idle + total.iowait.unwrap_or(0);
        let busy = total.user
            + total.nice
            + total.system
            + total.irq.unwrap_or(0)
            + total.softirq.unwrap_or(0)
            + total.steal.unwrap_or(0);
        let (all_before, idle_before) = self.ticks.replace((busy + idle, idle))?;
        let all = (busy + idle).saturating_sub(all_before);
        percent(all.saturating_sub(idle.saturating_sub(idle_before)), all)
    }

    /// As df(1) counts: of what somebody who isn't root could use.
    pub(crate) fn disk(path: &Path) -> Option<Percent> {
        let status = statvfs(path).ok()?;
        let used = status.blocks().saturating_sub(status.blocks_free());
        // Rounded up, as df does.
        let all = used + status.blocks_available();
        percent(used.saturating_mul(100).div_ceil(all.max(1)), 100)
    }
}

fn percent(part: u64, whole: u64) -> Option<Percent> {
    let percent = u128::from(part) * 100 / u128::from(whole).max(1);
    (whole > 0).then(|| Percent(u32::try_from(percent).unwrap_or(100)))
}
