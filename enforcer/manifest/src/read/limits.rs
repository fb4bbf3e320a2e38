//! The `cgroup` section: keys that are cgroup v2 file names.

use super::{Fields, Reader, boolean};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::limits::{DiskRates, Limits, parse_cpu_list};
use enforcer_model::spec::Commands;
use enforcer_model::units::{Bytes, CpuWeight, Limit};
use std::collections::BTreeMap;

pub(crate) const KEYS: &[&str] = &[
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "cpu.uclamp.min",
    "cpu.uclamp.max",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.min",
    "memory.low",
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "memory.zswap.max",
    "memory.oom.group",
    "pids.max",
    "io.weight",
    "io.max",
    "hugetlb.64KB.max",
    "hugetlb.2MB.max",
    "hugetlb.32MB.max",
    "hugetlb.1GB.max",
];

fn pids_max(text: &str) -> Result<Limit<u64>, String> {
    match text {
        "max" => Ok(Limit::Max),
        // include/linux/threads.h, PID_MAX_LIMIT
        digits => quantity::integer(digits, 1..=4_194_304).map(Limit::At),
    }
}

impl Reader<'_> {
    /// Reads the ceiling of the commands of a workload.
    pub(super) fn commands(&mut self, node: &Node) -> Commands {
        let fields = self.fields(node, &["memory.max", "pids.max"]);
        let mut commands = Commands::default();
        let memory = &mut commands.memory_max;
        self.set(&fields, "memory.max", memory, quantity::bytes_or_max);
        self.set(&fields, "pids.max", &mut commands.pids_max, pids_max);
        commands
    }

    /// Reads the section into `limits`, which holds the defaults.
    pub(super) fn limits(&mut self, node: &Node, mut limits: Limits) -> Limits {
        let fields = self.fields(node, KEYS);
        self.set_some(&fields, "cpu.weight", &mut limits.cpu_weight, cpu_weight);
        self.set_some(&fields, "cpu.max", &mut limits.cpu_max, quantity::cpu_max);
        self.set_some(
            &fields,
            "cpu.max.burst",
            &mut limits.cpu_max_burst,
            |text| {
                let micros = quantity::duration(text)?.as_micros();
                u64::try_from(micros).map_err(|_| "a shorter duration".to_owned())
            },
        );
        self.set_some(&fields, "cpuset.cpus", &mut limits.cpuset_cpus, cpu_list);
        self.set_some(&fields, "cpuset.mems", &mut limits.cpuset_mems, node_list);
        let least = &mut limits.cpu_uclamp_min;
        self.set_some(&fields, "cpu.uclamp.min", least, quantity::share);
        let most = &mut limits.cpu_uclamp_max;
        self.set_some(&fields, "cpu.uclamp.max", most, quantity::share);
        self.set_some(
            &fields,
            "memory.zswap.max",
            &mut limits.memory_zswap_max,
            quantity::bytes_or_max,
        );
        self.huge_pages(&fields, &mut limits);
        self.set_some(
            &fields,
            "memory.max",
            &mut limits.memory_max,
            quantity::bytes_or_max,
        );
        self.set_some(
            &fields,
            "memory.min",
            &mut limits.memory_min,
            quantity::bytes_or_max,
        );
        self.set_some(
            &fields,
            "memory.low",
            &mut limits.memory_low,
            quantity::bytes_or_max,
        );
        self.set_some(
            &fields,
            "memory.swap.max",
            &mut limits.memory_swap_max,
            quantity::bytes_or_max,
        );
        self.set_some(
            &fields,
            "memory.oom.group",
            &mut limits.memory_oom_group,
            boolean,
        );
        self.set_some(&fields, "pids.max", &mut limits.pids_max, pids_max);
        self.set_some(&fields, "io.weight", &mut limits.io_weight, weight);
        if let Some(node) = fields.get("io.max") {
            limits.io_max = self.disks(node);
        }
        self.memory_high(&fields, &mut limits);
        self.memory_order(&fields, &limits);
        self.burst_fits(&fields, &limits);
        limits
    }

    /// Reads the limits of huge pages, of which the kernel counts whole ones.
    fn huge_pages(&mut self, fields: &Fields<'_>, limits: &mut Limits) {
        for (key, page, limit) in [
            ("hugetlb.64KB.max", 64 << 10, &mut limits.hugetlb_64kb_max),
            ("hugetlb.2MB.max", 2 << 20, &mut limits.hugetlb_2mb_max),
            ("hugetlb.32MB.max", 32 << 20, &mut limits.hugetlb_32mb_max),
            ("hugetlb.1GB.max", 1 << 30, &mut limits.hugetlb_1gb_max),
        ] {
            self.set_some(fields, key, limit, |text| {
                let limit = quantity::bytes_or_max(text)?;
                match limit.at() {
                    Some(Bytes(bytes)) if bytes % page != 0 => {
                        Err(format!("a multiple of {}, or max", Bytes(page)))
                    }
                    Some(_) | None => Ok(limit),
                }
            });
        }
    }

    /// Reads the rates of each disk. The kernel takes no rate of 0 (`tg_set_limit`).
    fn disks(&mut self, node: &Node) -> BTreeMap<String, DiskRates> {
        let positive = |text: &str| match text {
            "max" => Ok(Limit::Max),
            number => quantity::integer(number, 1..=u64::MAX).map(Limit::At),
        };
        let above_zero = |text: &str| match quantity::bytes_or_max(text)? {
            Limit::At(Bytes(0)) => Err("a size above 0, or max".to_owned()),
            limit @ (Limit::At(_) | Limit::Max) => Ok(limit),
        };
        let mut disks = BTreeMap::new();
        for (disk, node) in self.entries(node).iter() {
            if !disk.starts_with('/') || disk.contains(['\0', '\n']) {
                let shown = disk.escape_debug();
                self.fault(
                    Fault::error(node.span.clone(), format!("`{shown}` is no disk"))
                        .label("expected a device such as /dev/sda, or a path on it"),
                );
                continue;
            }
            let fields = self.fields(node, &["rbps", "wbps", "riops", "wiops"]);
            let mut rates = DiskRates::default();
            self.set(&fields, "rbps", &mut rates.rbps, above_zero);
            self.set(&fields, "wbps", &mut rates.wbps, above_zero);
            self.set(&fields, "riops", &mut rates.riops, positive);
            self.set(&fields, "wiops", &mut rates.wiops, positive);
            if fields.iter().next().is_none() {
                self.fault(
                    Fault::error(node.span.clone(), format!("`{disk}` has no rate"))
                        .label("expected rbps, wbps, riops or wiops"),
                );
            }
            disks.insert(disk.to_owned(), rates);
        }
        disks
    }

    /// A size, or a part of `memory.max`.
    fn memory_high(&mut self, fields: &Fields<'_>, limits: &mut Limits) {
        let Some(node) = fields.get("memory.high") else {
            return;
        };
        let max = limits.memory_max.and_then(Limit::at);
        limits.memory_high = self.parsed(node, |text| {
            if !text.ends_with('%') {
                return quantity::bytes_or_max(text)
                    .map_err(|expected| format!("{expected}, or a percentage of memory.max"));
            }
            let share = quantity::share(text)?;
            let whole = max.ok_or("a size: there is no memory.max to take a percentage of")?;
            Ok(Limit::At(whole.percent(share).page_rounded()))
        });
    }

    fn memory_order(&mut self, fields: &Fields<'_>, limits: &Limits) {
        let at = |limit: Option<Limit<Bytes>>| limit.and_then(Limit::at);
        let (Some(max), low) = (at(limits.memory_max), at(limits.memory_low)) else {
            self.memory_high_without_swap(fields, limits);
            return;
        };
        let pairs = [
            ("memory.high", at(limits.memory_high), "it would never act"),
            (
                "memory.low",
                low,
                "the protection can't be larger than the limit",
            ),
            (
                "memory.min",
                at(limits.memory_min),
                "the protection can't be larger than the limit",
            ),
        ];
        for (key, value, why) in pairs {
            if let (Some(node), Some(value)) = (fields.get(key), value)
                && value > max
            {
                self.fault(
                    Fault::error(
                        node.span.clone(),
                        format!("`{key}` is above `memory.max` ({max})"),
                    )
                    .label(format!("at most {max}; {why}")),
                );
            }
        }
        if max.0 > 0
            && max.page_rounded().0 == 0
            && let Some(node) = fields.get("memory.max")
        {
            self.fault(
                Fault::error(node.span.clone(), "`memory.max` is less than one page")
                    .label("the kernel would round it down to 0")
                    .help("plain numbers are bytes; did you mean a unit, like M?"),
            );
        }
        self.memory_high_without_swap(fields, limits);
    }

    fn memory_high_without_swap(&mut self, fields: &Fields<'_>, limits: &Limits) {
        let no_swap = limits.memory_swap_max == Some(Limit::At(Bytes(0)));
        if let (Some(node), true) = (fields.get("memory.high"), no_swap) {
            self.fault(
                Fault::warning(
                    node.span.clone(),
                    "`memory.high` with no swap can stall the workload",
                )
                .label("above it, allocations are slowed down, and nothing can be moved out")
                .help("allow some `memory.swap.max`, or leave `memory.high` out"),
            );
        }
    }

    fn burst_fits(&mut self, fields: &Fields<'_>, limits: &Limits) {
        let (Some(node), Some(burst)) = (fields.get("cpu.max.burst"), limits.cpu_max_burst) else {
            return;
        };
        let quota = limits.cpu_max.and_then(|max| max.quota.at());
        match quota {
            None if burst > 0 => self.fault(
                Fault::error(
                    node.span.clone(),
                    "`cpu.max.burst` without a quota in `cpu.max`",
                )
                .label("there is nothing to exceed"),
            ),
            Some(quota) if burst > quota => self.fault(
                Fault::error(
                    node.span.clone(),
                    "`cpu.max.burst` is above the quota of `cpu.max`",
                )
                .label(format!("at most {quota}us")),
            ),
            Some(_) | None => {}
        }
    }
}

fn cpu_weight(text: &str) -> Result<CpuWeight, String> {
    if text == "idle" {
        return Ok(CpuWeight::Idle);
    }
    weight(text)
        .map(CpuWeight::Of)
        .map_err(|expected| format!("{expected}, or idle"))
}

fn weight(text: &str) -> Result<u16, String> {
    let weight = quantity::integer(text, 1..=10_000)?;
    u16::try_from(weight).map_err(|_| "a weight from 1 to 10000".to_owned())
}

fn node_list(text: &str) -> Result<String, String> {
    cpu_list(text).map_err(|_| "a list of memory nodes like 0-1".to_owned())
}

fn cpu_list(text: &str) -> Result<String, String> {
    match parse_cpu_list(text) {
        Some(cpus) if !cpus.is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err("a list of CPUs like 0-3,8".to_owned()),
    }
}
