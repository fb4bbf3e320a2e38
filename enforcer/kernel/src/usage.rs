//! The current use of a workload, read on request.

use super::cgroupfs::Cgroup;
use super::counters::field;
use super::{pressure, text_file};
use enforcer_model::limits::Limits;
use enforcer_model::probe::{Load, Work};
use enforcer_model::units::{Bytes, Limit};
use enforcer_model::views::{Details, LimitState, Waiting};
use nix::fcntl::OFlag;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
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

    /// Reads the whole use. `limits` are those that the kernel is known to have; without them they
    /// are read too.
    pub fn read(&self, limits: Option<&Limits>) -> Usage {
        let (memory_max, swap_max) = self.limits(limits);
        let cpu = self.cpu_text().unwrap_or_default();
        // A workload that may not swap has nothing there.
        let swap = (swap_max != Some(0)).then(|| self.swap()).flatten();
        Usage {
            working_set: self.working_set().unwrap_or(0),
            memory_max,
            swap: swap.unwrap_or(0),
            swap_max,
            cpu_usec: field(&cpu, "usage_usec"),
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
