//! The current use of a workload, read on request.

use super::cgroupfs::{Cgroup, CgroupError};
use super::counters::field;
use super::pressure;
use enforcer_model::limits::Limits;
use enforcer_model::probe::{Load, Work};
use enforcer_model::units::Bytes;
use enforcer_model::views::{Details, LimitState, Waiting};
use nix::fcntl::OFlag;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
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

pub fn read(cgroup: &Cgroup) -> Result<Usage, CgroupError> {
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

/// Returns the charged memory without the page cache that could be dropped at once.
pub fn working_set(cgroup: &Cgroup, current: u64) -> u64 {
    let stat = cgroup.read("memory.stat").unwrap_or_default();
    current.saturating_sub(field(&stat, "inactive_file"))
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

/// The files of the tick, kept open.
#[derive(Debug)]
pub struct LevelFiles {
    memory: File,
    cpu: File,
}

impl LevelFiles {
    pub fn open(cgroup: &Cgroup) -> std::io::Result<Self> {
        Ok(Self {
            memory: cgroup.open_file("memory.current", OFlag::O_RDONLY)?,
            cpu: cgroup.open_file("cpu.stat", OFlag::O_RDONLY)?,
        })
    }

    /// Bytes that are charged.
    pub fn memory(&self) -> Option<u64> {
        let mut buffer = [0; 32];
        let length = self.memory.read_at(&mut buffer, 0).ok()?;
        std::str::from_utf8(&buffer[..length])
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    pub fn cpu(&self) -> Option<Duration> {
        let mut buffer = [0; 512];
        let length = self.cpu.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(&buffer[..length]).ok()?;
        Some(Duration::from_micros(field(text, "usage_usec")))
    }
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

/// Returns the file with the effective value. A cgroup that asks for no CPUs, or for some that its
/// parent lacks, runs on other CPUs (cgroup-v2.rst, "Cpuset").
fn in_effect(file: &'static str) -> &'static str {
    match file {
        "cpuset.cpus" => "cpuset.cpus.effective",
        other => other,
    }
}

pub fn limit_states(cgroup: Option<&Cgroup>, limits: &Limits) -> Vec<LimitState> {
    let files = limits.files().into_iter();
    files
        .map(|entry| LimitState {
            file: entry.file.to_owned(),
            requested: entry.asked.then_some(entry.value),
            effective: cgroup
                .and_then(|cgroup| cgroup.read(in_effect(entry.file)).ok())
                .map(|text| text.trim().to_owned()),
        })
        .collect()
}
