//! The current use of a workload, read on request.

use super::cgroupfs::Cgroup;
use super::counters::field;
use super::{clock, pressure, text_file};
use enforcer_model::limits::Limits;
use enforcer_model::probe::{Load, Work};
use enforcer_model::units::{Bytes, Limit, MonoTime};
use enforcer_model::views::{Details, LimitState, Waiting};
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Numbers of the kernel's files; `None` where the file says `max` or is missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// The memory without the page cache that could be dropped at once. This is what `memory.max`
    /// has to hold.
    pub working_set: u64,
    pub memory_max: Option<u64>,
    pub swap: u64,
    pub swap_max: Option<u64>,
    pub cpu_usec: u64,
    pub periods: u64,
    pub throttled_periods: u64,
}

/// Shares of the last ten seconds; empty where the kernel keeps none.
pub fn read_load(cgroup: &Cgroup) -> Load {
    let read = |file: &str| {
        cgroup
            .read_if_present(file)
            .ok()
            .flatten()
            .unwrap_or_default()
    };
    Load {
        cpu: pressure::avg10(&read("cpu.pressure"), "some"),
        memory: pressure::avg10(&read("memory.pressure"), "full"),
    }
}

/// Returns the work that was done in the cgroup's life.
pub fn read_work(cgroup: &Cgroup) -> Option<Work> {
    let moved = |io: String| {
        let parts = io.split_whitespace().filter_map(|word| {
            let (key, value) = word.split_once('=')?;
            let counts = ["rbytes", "wbytes"].contains(&key);
            counts.then(|| value.parse::<u64>().ok()).flatten()
        });
        Bytes(parts.sum())
    };
    let cpu = cgroup.read("cpu.stat").ok()?;
    Some(Work {
        cpu: Duration::from_micros(field(&cpu, "usage_usec")),
        io: cgroup.read_if_present("io.stat").ok()?.map(moved),
    })
}

/// The files that are read again and again. Each stays open from its first reading on, so that its
/// path is not looked up each time.
#[derive(Debug)]
pub struct UsageFiles {
    cgroup: Arc<Cgroup>,
    /// `None` inside if the kernel has no such file.
    open: [OnceLock<Option<File>>; 4],
    last: Mutex<Option<Last>>,
}

/// The time for which values are taken from the last reading while a workload neither runs nor
/// changes its memory.
const RESTS: Duration = Duration::from_secs(60);

/// What changes only if a process of the cgroup runs or the charged memory changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slow {
    pub(crate) inactive: u64,
    pub(crate) swap: Option<u64>,
}

/// The same, of the files that only a scrape reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slower {
    pub(crate) peak: Option<u64>,
    /// The counts in the order of `statistics::MEMORY_EVENTS`.
    pub(crate) events: [u64; 6],
    pub(crate) pids: Option<u64>,
}

/// The last reading.
#[derive(Clone, Copy, Debug)]
struct Last {
    at: MonoTime,
    memory: u64,
    cpu_usec: u64,
    slow: Slow,
    slower: Option<Slower>,
}

impl Last {
    /// Returns whether the workload has rested since then, by what it uses now.
    fn holds(&self, now: MonoTime, memory: u64, cpu_usec: u64) -> bool {
        (self.memory, self.cpu_usec) == (memory, cpu_usec) && now.since(self.at) < RESTS
    }
}

const CURRENT: usize = 0;
const STAT: usize = 1;
const CPU: usize = 2;
const SWAP: usize = 3;
const NAMES: [&str; 4] = [
    "memory.current",
    "memory.stat",
    "cpu.stat",
    "memory.swap.current",
];

impl UsageFiles {
    #[must_use]
    pub fn new(cgroup: Arc<Cgroup>) -> Self {
        Self {
            cgroup,
            open: Default::default(),
            last: Mutex::default(),
        }
    }

    fn file(&self, which: usize) -> Option<&File> {
        let open = || self.cgroup.open_file(NAMES[which], OFlag::O_RDONLY).ok();
        self.open[which].get_or_init(open).as_ref()
    }

    /// Returns the bytes that are charged.
    pub fn memory(&self) -> Option<u64> {
        number(self.file(CURRENT)?)
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Returns the bytes of the page cache that could be dropped at once.
    pub(crate) fn inactive(&self) -> Option<u64> {
        Some(field(&text(self.file(STAT)?)?, "inactive_file"))
    }

    /// Returns the charged bytes without the page cache that could be dropped at once.
    pub fn working_set(&self) -> Option<u64> {
        Some(self.memory()?.saturating_sub(self.inactive()?))
    }

    pub(crate) fn cpu_text(&self) -> Option<String> {
        text(self.file(CPU)?)
    }

    pub fn cpu(&self) -> Option<Duration> {
        Some(Duration::from_micros(field(
            &self.cpu_text()?,
            "usage_usec",
        )))
    }

    pub(crate) fn swap(&self) -> Option<u64> {
        number(self.file(SWAP)?)
    }

    /// Returns `memory.max` and `memory.swap.max`: those of `known`, or what the files say without it.
    pub(crate) fn limits(&self, known: Option<&Limits>) -> (Option<u64>, Option<u64>) {
        let Some(limits) = known else {
            let read = |file| self.cgroup.read(file).ok()?.trim().parse().ok();
            return (read("memory.max"), read("memory.swap.max"));
        };
        let whole_pages = |limit: Option<Limit<Bytes>>| {
            let bytes = limit.and_then(Limit::at)?;
            Some(bytes.0 - bytes.0 % procfs::page_size())
        };
        (
            whole_pages(limits.memory_max),
            whole_pages(limits.memory_swap_max),
        )
    }

    /// Returns what changes only if a process of the cgroup runs or the charged memory changes: as it was
    /// at the last reading, if neither has happened since. The kernel makes these values by much work,
    /// and most workloads of a host rest. `more` reads what only a scrape needs.
    pub(crate) fn slow(
        &self,
        (memory, cpu_usec): (u64, u64),
        more: Option<fn(&Cgroup) -> Option<Slower>>,
    ) -> Option<(Slow, Slower)> {
        let now = clock::now();
        let last = *self.last.lock();
        let last = last.filter(|last| last.holds(now, memory, cpu_usec));
        let slower = match (last.and_then(|last| last.slower), more) {
            (Some(known), _) => Some(known),
            (None, Some(read)) => Some(read(&self.cgroup)?),
            (None, None) => None,
        };
        let slow = match last {
            Some(last) => last.slow,
            None => Slow {
                inactive: self.inactive()?,
                swap: self.swap(),
            },
        };
        *self.last.lock() = Some(Last {
            at: last.map_or(now, |last| last.at),
            memory,
            cpu_usec,
            slow,
            slower,
        });
        Some((slow, slower.unwrap_or_default()))
    }

    /// Reads the whole use. `limits` are those that the kernel is known to have; without them they
    /// are read too.
    pub fn read(&self, limits: Option<&Limits>) -> Usage {
        let (memory_max, swap_max) = self.limits(limits);
        let cpu = self.cpu_text().unwrap_or_default();
        let cpu_usec = field(&cpu, "usage_usec");
        let memory = self.memory();
        let slow = memory.and_then(|memory| self.slow((memory, cpu_usec), None));
        let slow = slow.unwrap_or_default().0;
        Usage {
            working_set: memory.unwrap_or(0).saturating_sub(slow.inactive),
            memory_max,
            swap: slow.swap.unwrap_or(0),
            swap_max,
            cpu_usec,
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
        }
    }
}

fn number(file: &File) -> Option<u64> {
    let mut buffer = [0; 32];
    let length = file.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..length]).ok()?;
    text.trim().parse().ok()
}

fn text(file: &File) -> Option<String> {
    text_file::read(file).ok()
}

/// Reads the values that only a screen shows.
pub fn read_more(cgroup: &Cgroup) -> Details {
    let text = |file: &str| cgroup.read_if_present(file).ok().flatten();
    let waiting = |file: &str| pressure::share10(&text(file)?, "some");
    let quota = text("cpu.max").and_then(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()? * 100.0)
    });
    Details {
        pids: text("pids.current").and_then(|text| text.trim().parse().ok()),
        cpu_max_percent: quota,
        waiting_percent: Waiting {
            cpu: waiting("cpu.pressure"),
            memory: waiting("memory.pressure"),
            io: waiting("io.pressure"),
        },
    }
}

/// CPU time alone: what an instance starts from, since its cgroup may have had
/// others before.
pub fn read_cpu(cgroup: &Cgroup) -> Usage {
    let cpu = cgroup.read("cpu.stat").unwrap_or_default();
    Usage {
        cpu_usec: field(&cpu, "usage_usec"),
        periods: field(&cpu, "nr_periods"),
        throttled_periods: field(&cpu, "nr_throttled"),
        ..Usage::default()
    }
}

/// Returns the CPU time of the cgroup at a path, with those below it; 0 if it cannot be read.
#[must_use]
pub fn cpu_of(path: &Path) -> Duration {
    let used = Cgroup::open_foreign(path).map(|cgroup| read_cpu(&cgroup).cpu_usec);
    Duration::from_micros(used.unwrap_or_default())
}

/// Returns the memory that a cgroup may still take; `None` without a limit.
pub fn memory_free(cgroup: &Cgroup) -> Option<Bytes> {
    let max: u64 = cgroup.read("memory.max").ok()?.trim().parse().ok()?;
    let used = memory_current(cgroup)?;
    Some(Bytes(max.saturating_sub(used.0)))
}

/// Returns the memory that is charged now; `None` without a memory controller.
pub fn memory_current(cgroup: &Cgroup) -> Option<Bytes> {
    let current = cgroup.read("memory.current").ok()?;
    current.trim().parse().ok().map(Bytes)
}

/// Returns the file with the effective value. A cgroup that asks for no CPUs or memory nodes, or for some
/// that its parent lacks, uses others (cgroup-v2.rst, "Cpuset").
fn in_effect(file: &'static str) -> &'static str {
    match file {
        "cpuset.cpus" => "cpuset.cpus.effective",
        "cpuset.mems" => "cpuset.mems.effective",
        other => other,
    }
}

/// `io.max` has a line for each disk.
fn in_one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}

/// Returns each limit that was asked for or that this kernel has.
pub fn limit_states(cgroup: Option<&Cgroup>, limits: &Limits) -> Vec<LimitState> {
    let files = limits.files().into_iter();
    files
        .map(|entry| LimitState {
            file: entry.file.to_owned(),
            requested: entry.asked.then(|| in_one_line(&entry.value)),
            effective: cgroup
                .and_then(|cgroup| cgroup.read(in_effect(entry.file)).ok())
                .map(|text| in_one_line(&text))
                .filter(|text| entry.file != "io.max" || !text.is_empty()),
        })
        .filter(|limit| limit.requested.is_some() || limit.effective.is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_holds_while_the_workload_rests() {
        let last = Last {
            at: MonoTime(5),
            memory: 4096,
            cpu_usec: 17,
            slow: Slow::default(),
            slower: None,
        };
        let soon = MonoTime(5).after(RESTS - Duration::from_secs(1));
        assert!(last.holds(soon, 4096, 17));
        assert!(!last.holds(soon, 8192, 17), "its memory has changed");
        assert!(!last.holds(soon, 4096, 18), "it has run");
        assert!(!last.holds(MonoTime(5).after(RESTS), 4096, 17), "it is old");
    }
}
