//! The cgroup keys of the manifest as values, the kernel files that they become, and the
//! comparison of a request with the kernel's answer.

use crate::settings::Setting;
use crate::shapes;
use crate::units::{Bytes, CpuQuota, CpuWeight, Limit, Percent, asked_limit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The limits of a cgroup, by the names of its files. A key that is left out has the kernel's
/// default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Limits {
    /// The share of CPU time under contention, 1 to 10000 or `idle`. The default is 100; Docker's 512
    /// shares are 59.
    #[schemars(rename = "cpu.weight", with = "shapes::CpuWeight")]
    pub cpu_weight: Option<CpuWeight>,
    /// The CPU time in each period, of one CPU: `150%` is one and a half. The kernel's own pair,
    /// `50000 100000`, is allowed too.
    #[schemars(rename = "cpu.max", with = "shapes::CpuMax")]
    pub cpu_max: Option<CpuQuota>,
    /// The unused CPU time of earlier periods that one period may use in addition, in microseconds.
    #[setting(unit = "us")]
    #[schemars(rename = "cpu.max.burst", with = "shapes::Time")]
    pub cpu_max_burst: Option<u64>,
    /// The CPUs that the processes may use, such as `0-3,5`.
    #[schemars(rename = "cpuset.cpus", with = "shapes::CpuList")]
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that the processes may use, such as `0-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(rename = "cpuset.mems", with = "shapes::CpuList")]
    pub cpuset_mems: Option<String>,
    /// The least CPU performance that the scheduler assumes the processes to need, as a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(rename = "cpu.uclamp.min", with = "shapes::Share")]
    pub cpu_uclamp_min: Option<Percent>,
    /// The most CPU performance that the scheduler gives the processes, as a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(rename = "cpu.uclamp.max", with = "shapes::Share")]
    pub cpu_uclamp_max: Option<Percent>,
    /// The memory that is never reclaimed.
    #[serde(with = "asked_limit")]
    #[schemars(rename = "memory.min", with = "shapes::SizeOrMax")]
    pub memory_min: Option<Limit<Bytes>>,
    /// The memory that is protected from reclaim while others have more to give.
    #[serde(with = "asked_limit")]
    #[schemars(rename = "memory.low", with = "shapes::SizeOrMax")]
    pub memory_low: Option<Limit<Bytes>>,
    /// The memory above which the kernel slows the processes down and reclaims; also a share of
    /// `memory.max`.
    #[serde(with = "asked_limit")]
    #[schemars(rename = "memory.high", with = "shapes::SizeMaxOrShare")]
    pub memory_high: Option<Limit<Bytes>>,
    /// The memory at which the kernel kills. The suffixes K, M, G and T are binary.
    #[serde(with = "asked_limit")]
    #[schemars(rename = "memory.max", with = "shapes::SizeOrMax")]
    pub memory_max: Option<Limit<Bytes>>,
    /// The swap beside `memory.max`, and not part of it; 0 for none.
    #[serde(with = "asked_limit")]
    #[schemars(rename = "memory.swap.max", with = "shapes::SizeOrMax")]
    pub memory_swap_max: Option<Limit<Bytes>>,
    /// The compressed memory that zswap may hold of it; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "asked_limit")]
    #[schemars(rename = "memory.zswap.max", with = "shapes::SizeOrMax")]
    pub memory_zswap_max: Option<Limit<Bytes>>,
    /// With `true`, an OOM kill ends all processes together. That is a workload's default.
    #[schemars(rename = "memory.oom.group", with = "shapes::Truth")]
    pub memory_oom_group: Option<bool>,
    /// The most processes and threads.
    #[serde(with = "asked_limit")]
    #[schemars(rename = "pids.max", with = "shapes::CountOrMax")]
    pub pids_max: Option<Limit<u64>>,
    /// The share of disk time under contention, 1 to 10000. The default is 100.
    #[schemars(rename = "io.weight", with = "shapes::Whole<1, 10_000>")]
    pub io_weight: Option<u16>,
    /// The most that the processes may read and write, by disk: a block device, or a path on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(rename = "io.max", with = "shapes::DiskRates")]
    pub io_max: BTreeMap<String, DiskRates>,
    /// The memory in huge pages of 64 KB, where the CPU has this size.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "asked_limit")]
    #[schemars(rename = "hugetlb.64KB.max", with = "shapes::SizeOrMax")]
    pub hugetlb_64kb_max: Option<Limit<Bytes>>,
    /// The memory in huge pages of 2 MB, where the CPU has this size.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "asked_limit")]
    #[schemars(rename = "hugetlb.2MB.max", with = "shapes::SizeOrMax")]
    pub hugetlb_2mb_max: Option<Limit<Bytes>>,
    /// The memory in huge pages of 32 MB, where the CPU has this size.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "asked_limit")]
    #[schemars(rename = "hugetlb.32MB.max", with = "shapes::SizeOrMax")]
    pub hugetlb_32mb_max: Option<Limit<Bytes>>,
    /// The memory in huge pages of 1 GB, where the CPU has this size.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "asked_limit")]
    #[schemars(rename = "hugetlb.1GB.max", with = "shapes::SizeOrMax")]
    pub hugetlb_1gb_max: Option<Limit<Bytes>>,
}

/// The most that a cgroup may do on one disk in a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting)]
#[setting(inherit)]
pub struct DiskRates {
    pub rbps: Limit<Bytes>,
    pub wbps: Limit<Bytes>,
    pub riops: Limit<u64>,
    pub wiops: Limit<u64>,
}

impl Default for DiskRates {
    fn default() -> Self {
        Self {
            rbps: Limit::Max,
            wbps: Limit::Max,
            riops: Limit::Max,
            wiops: Limit::Max,
        }
    }
}

impl DiskRates {
    /// Returns a line of `io.max` for a disk.
    #[must_use]
    pub fn line(&self, disk: &str) -> String {
        let bytes = |limit: Limit<Bytes>| raw(limit.at().map(|bytes| bytes.0));
        format!(
            "{disk} rbps={} wbps={} riops={} wiops={}",
            bytes(self.rbps),
            bytes(self.wbps),
            raw(self.riops.at()),
            raw(self.wiops.at())
        )
    }
}

/// One kernel file and the text it should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileValue {
    pub file: &'static str,
    pub value: String,
    /// False where the manifest is silent and the kernel's default is meant:
    /// then a missing file is no fault.
    pub asked: bool,
}

/// Every file of [`Limits::files`] and the controller that makes it appear.
pub const CONTROLLERS: &[(&str, &str)] = &[
    ("cpu.idle", "cpu"),
    ("cpu.weight", "cpu"),
    ("cpu.max", "cpu"),
    ("cpu.max.burst", "cpu"),
    ("cpu.uclamp.min", "cpu"),
    ("cpu.uclamp.max", "cpu"),
    ("cpuset.cpus", "cpuset"),
    ("cpuset.mems", "cpuset"),
    ("memory.min", "memory"),
    ("memory.low", "memory"),
    ("memory.high", "memory"),
    ("memory.swap.max", "memory"),
    ("memory.zswap.max", "memory"),
    ("memory.max", "memory"),
    ("memory.oom.group", "memory"),
    ("pids.max", "pids"),
    ("io.weight", "io"),
    ("io.max", "io"),
    ("hugetlb.64KB.max", "hugetlb"),
    ("hugetlb.2MB.max", "hugetlb"),
    ("hugetlb.32MB.max", "hugetlb"),
    ("hugetlb.1GB.max", "hugetlb"),
];

/// Returns what a kernel lacks that has a file's controller and not the file.
#[must_use]
pub fn missing_with(file: &str) -> &'static str {
    match file {
        "memory.zswap.max" => "a kernel with CONFIG_ZSWAP (the file exists since Linux 5.19)",
        "cpu.uclamp.min" | "cpu.uclamp.max" => "a kernel with CONFIG_UCLAMP_TASK_GROUP",
        "memory.swap.max" => "a kernel with CONFIG_SWAP",
        "io.max" => "a kernel with CONFIG_BLK_DEV_THROTTLING",
        "cpu.max" | "cpu.max.burst" => "a kernel with CONFIG_CFS_BANDWIDTH",
        file if file.starts_with("hugetlb.") => "a CPU with huge pages of this size",
        _ => "a newer kernel",
    }
}

/// Returns the controller that a file belongs to.
#[must_use]
pub fn controller_of(file: &str) -> &'static str {
    CONTROLLERS
        .iter()
        .find(|(name, _)| *name == file)
        .map_or("", |(_, controller)| controller)
}

impl Limits {
    /// Returns the files in the order in which they must be written: swap before memory (else a
    /// shrink could spill), `cpu.idle` before the weight (an idle group refuses one), the quota
    /// before its burst (a burst above the quota is EINVAL; the writer clears an old burst first).
    #[must_use]
    pub fn files(&self) -> Vec<FileValue> {
        let limit =
            |limit: Option<Limit<Bytes>>| limit.map(|limit| raw(limit.at().map(|bytes| bytes.0)));
        let weight = match self.cpu_weight {
            None => None,
            // The kernel keeps its own weight for an idle group.
            Some(CpuWeight::Idle) => Some("100".to_owned()),
            Some(CpuWeight::Of(weight)) => Some(weight.to_string()),
        };
        let idle = self.cpu_weight == Some(CpuWeight::Idle);
        let mut files = vec![
            file("cpu.idle", idle.then(|| "1".to_owned()), "0"),
            file(
                "cpu.max",
                self.cpu_max.map(|quota| quota.to_string()),
                "max 100000",
            ),
            file(
                "cpu.max.burst",
                self.cpu_max_burst.map(|burst| burst.to_string()),
                "0",
            ),
            file("cpu.uclamp.min", self.cpu_uclamp_min.map(clamp), "0.00"),
            file("cpu.uclamp.max", self.cpu_uclamp_max.map(clamp), "max"),
            file("cpuset.cpus", self.cpuset_cpus.clone(), ""),
            file("cpuset.mems", self.cpuset_mems.clone(), ""),
            file("memory.min", limit(self.memory_min), "0"),
            file("memory.low", limit(self.memory_low), "0"),
            file("memory.swap.max", limit(self.memory_swap_max), "max"),
            file("memory.zswap.max", limit(self.memory_zswap_max), "max"),
            file("memory.high", limit(self.memory_high), "max"),
            file("memory.max", limit(self.memory_max), "max"),
            file(
                "memory.oom.group",
                self.memory_oom_group
                    .map(|group| u8::from(group).to_string()),
                "0",
            ),
            file(
                "pids.max",
                self.pids_max.map(|limit| raw(limit.at())),
                "max",
            ),
            file(
                "io.weight",
                self.io_weight.map(|weight| format!("default {weight}")),
                "default 100",
            ),
            file("io.max", self.io_max_lines(), ""),
            file("hugetlb.64KB.max", limit(self.hugetlb_64kb_max), "max"),
            file("hugetlb.2MB.max", limit(self.hugetlb_2mb_max), "max"),
            file("hugetlb.32MB.max", limit(self.hugetlb_32mb_max), "max"),
            file("hugetlb.1GB.max", limit(self.hugetlb_1gb_max), "max"),
        ];
        if !idle {
            files.insert(1, file("cpu.weight", weight, "100"));
        }
        files
    }

    /// Returns the lines of `io.max`, with the disks as the manifest names them.
    fn io_max_lines(&self) -> Option<String> {
        let lines = self.io_max.iter().map(|(disk, rates)| rates.line(disk));
        (!self.io_max.is_empty()).then(|| lines.collect::<Vec<_>>().join("\n"))
    }

    /// Returns the controllers that the wanted limits need.
    pub fn controllers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.files()
            .into_iter()
            .filter(|entry| entry.asked)
            .map(|entry| (controller_of(entry.file), entry.file))
    }

    /// Lowers these limits to a ceiling of memory.
    #[must_use]
    pub fn with_memory_ceiling(mut self, memory: Bytes, swap: Option<Bytes>) -> Self {
        self.memory_max = Some(Limit::At(lower(self.memory_max, memory)));
        if let Some(swap) = swap {
            self.memory_swap_max = Some(Limit::At(lower(self.memory_swap_max, swap)));
        }
        self
    }
}

fn lower(asked: Option<Limit<Bytes>>, ceiling: Bytes) -> Bytes {
    asked
        .and_then(Limit::at)
        .map_or(ceiling, |asked| asked.min(ceiling))
}

fn raw(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |value| value.to_string())
}

/// Returns a clamp as the kernel prints it (`kernel/sched/core.c`, `cpu_uclamp_print`).
fn clamp(percent: Percent) -> String {
    match percent.0 {
        100 => "max".to_owned(),
        percent => format!("{percent}.00"),
    }
}

fn file(file: &'static str, value: Option<String>, default: &str) -> FileValue {
    let asked = value.is_some();
    FileValue {
        file,
        value: value.unwrap_or_else(|| default.to_owned()),
        asked,
    }
}

/// Returns whether the kernel's answer is the request. Page rounding is no drift, and a
/// list of CPUs may be written in several ways.
#[must_use]
pub fn is_in_effect(file: &str, requested: &str, answer: &str) -> bool {
    let (requested, answer) = (requested.trim(), answer.trim());
    if requested == answer {
        return true;
    }
    if file == "io.max" {
        return parse_io_max(requested) == parse_io_max(answer);
    }
    if file.starts_with("cpuset.") {
        return parse_cpu_list(requested) == parse_cpu_list(answer);
    }
    let is_size = file.starts_with("memory.") && file != "memory.oom.group";
    match (is_size, requested.parse(), answer.parse()) {
        (true, Ok(requested), Ok(answer)) => Bytes(requested).page_rounded() == Bytes(answer),
        (true | false, _, _) => false,
    }
}

/// Parses the lines of `io.max` into the limits of each disk. A disk without a limit is left out, as the
/// kernel does.
#[must_use]
pub fn parse_io_max(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let limited = lines.map(|(disk, limits)| {
        let limits = limits.split_whitespace();
        let mut set: Vec<&str> = limits.filter(|limit| !limit.ends_with("=max")).collect();
        set.sort_unstable();
        (disk, set)
    });
    limited.filter(|(_, limits)| !limits.is_empty()).collect()
}

/// Parses a list of CPUs as the kernel writes it: `0-3,8`. `None` if it is no such list.
#[must_use]
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    const MOST: u32 = 8192;
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// `cpu.weight` for the `cpu.shares` of cgroup v1, by the formula that the
/// runtimes settled on (runc 1.3.2, crun 1.23): it keeps 1024 at 100, the
/// default of both. 0 is unset.
#[must_use]
pub fn weight_of_shares(shares: u64) -> Option<u16> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        3..262_144 => {
            let log = f64::from(u32::try_from(shares).ok()?).log2();
            let weight = 10f64
                .powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0)
                .ceil();
            (1..=10_000u16)
                .rev()
                .find(|candidate| f64::from(*candidate) <= weight)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(limits: &Limits, expected: &Expect) {
        let text: String = limits
            .files()
            .iter()
            .filter(|entry| entry.asked)
            .map(|entry| format!("{} {}\n", entry.file, entry.value))
            .collect();
        expected.assert_eq(&text);
    }

    #[test]
    fn files_come_in_the_order_the_kernel_takes_them() {
        let limits = Limits {
            cpu_weight: Some(CpuWeight::Of(59)),
            cpu_max: Some(CpuQuota {
                quota: Limit::At(150_000),
                period: 100_000,
            }),
            cpu_max_burst: Some(20_000),
            memory_max: Some(Limit::At(Bytes(1 << 30))),
            memory_swap_max: Some(Limit::At(Bytes(0))),
            memory_oom_group: Some(true),
            pids_max: Some(Limit::Max),
            io_weight: Some(100),
            ..Limits::default()
        };
        check(
            &limits,
            &expect![[r#"
            cpu.weight 59
            cpu.max 150000 100000
            cpu.max.burst 20000
            memory.swap.max 0
            memory.max 1073741824
            memory.oom.group 1
            pids.max max
            io.weight default 100
        "#]],
        );
    }

    #[test]
    fn an_idle_group_is_given_no_weight() {
        let limits = Limits {
            cpu_weight: Some(CpuWeight::Idle),
            ..Limits::default()
        };
        check(
            &limits,
            &expect![[r#"
            cpu.idle 1
        "#]],
        );
        assert!(
            limits
                .files()
                .iter()
                .all(|entry| entry.file != "cpu.weight")
        );
    }

    #[test]
    fn page_rounding_and_spelling_are_no_drift() {
        assert!(is_in_effect("memory.max", "1000000", "999424\n"));
        assert!(is_in_effect("cpuset.cpus", "0,1,2", "0-2\n"));
        assert!(is_in_effect("memory.max", "max", "max\n"));
        assert!(!is_in_effect("memory.max", "1000000", "max\n"));
        assert!(!is_in_effect("memory.max", "1000000", "995328\n"));
        assert!(!is_in_effect("pids.max", "4097", "4096\n"));
    }

    #[test]
    fn shares_become_the_weight_that_runtimes_use_today() {
        let table = [
            (0, None),
            (2, Some(1)),
            (128, Some(21)),
            (256, Some(35)),
            (512, Some(59)),
            (1024, Some(100)),
            (2048, Some(174)),
            (4096, Some(303)),
            (262_144, Some(10_000)),
        ];
        for (shares, weight) in table {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
    }
}
