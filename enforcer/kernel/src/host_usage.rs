//! The use of the host's memory, CPUs and file system.

use enforcer_model::units::Percent;
use nix::sys::statvfs::statvfs;
use procfs::{Current as _, CurrentSI as _, KernelStats, Meminfo};
use std::path::Path;

/// A part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    part: u64,
    whole: u64,
}

impl Used {
    fn of(part: u64, whole: u64) -> Option<Self> {
        (whole > 0).then_some(Self { part, whole })
    }

    /// Returns the used share, from 0 to 1.
    pub fn ratio(self) -> f64 {
        #[expect(clippy::cast_precision_loss)]
        let ratio = self.part as f64 / self.whole as f64;
        ratio
    }

    /// Rounded down.
    pub fn percent(self) -> Percent {
        self.percent_of(u128::from(self.part) * 100 / u128::from(self.whole))
    }

    /// Rounded up, as df(1) does.
    pub fn percent_up(self) -> Percent {
        self.percent_of((u128::from(self.part) * 100).div_ceil(u128::from(self.whole)))
    }

    fn percent_of(self, percent: u128) -> Percent {
        Percent(u32::try_from(percent).unwrap_or(u32::MAX))
    }
}

/// The reader of the host's use. It keeps the reading before, because CPU time has a meaning only
/// between two.
#[derive(Debug, Default)]
pub struct HostUsage {
    /// Ticks in all, and those that were idle.
    ticks: Option<(u64, u64)>,
    /// The use between the last two readings that were far enough apart.
    last: Option<Used>,
}

impl HostUsage {
    /// Returns the memory that is neither free nor could be freed at once (`MemAvailable`, Linux
    /// 3.14).
    pub fn memory(&self) -> Option<Used> {
        let meminfo = Meminfo::current().ok()?;
        let used = meminfo.mem_total.saturating_sub(meminfo.mem_available?);
        Used::of(used, meminfo.mem_total)
    }

    /// Returns the use of all CPUs since the last reading; `None` at first. Within a second it
    /// gives the same answer again, so that many callers do not spoil each other's.
    pub fn cpu(&mut self) -> Option<Used> {
        let stat = KernelStats::current().ok()?;
        let total = stat.total;
        let idle = total.idle + total.iowait.unwrap_or(0);
        let busy = total.user
            + total.nice
            + total.system
            + total.irq.unwrap_or(0)
            + total.softirq.unwrap_or(0)
            + total.steal.unwrap_or(0);
        let now = (busy + idle, idle);
        let Some((all_before, idle_before)) = self.ticks else {
            self.ticks = Some(now);
            return None;
        };
        let all = now.0.saturating_sub(all_before);
        let cpus = u64::try_from(stat.cpu_time.len()).unwrap_or(1).max(1);
        let second = procfs::ticks_per_second() * cpus;
        // A first answer of a short time is worth more than none.
        if all >= second || (self.last.is_none() && all > 0) {
            self.ticks = Some(now);
            let idle = idle.saturating_sub(idle_before);
            self.last = Used::of(all.saturating_sub(idle), all);
        }
        self.last
    }

    /// Returns the use of a file system as df(1) counts it: of the space that a user other than
    /// root can use.
    pub fn disk(path: &Path) -> Option<Used> {
        let status = statvfs(path).ok()?;
        let used = status.blocks().saturating_sub(status.blocks_free());
        Used::of(used, used + status.blocks_available())
    }
}
