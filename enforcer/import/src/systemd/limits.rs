//! Limits of resources (systemd.resource-control(5), setrlimit(2)).

use super::unit::{Unit, is_yes};
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;
use crate::values::weight;

pub(super) fn read(
    unit: &mut Unit<'_>,
    key: &str,
    value: &str,
    values: &[String],
) -> Option<Outcome> {
    if let Some(name) = key.strip_prefix("Limit") {
        return Some(rlimit(unit, name, value));
    }
    Some(match key {
        "MemoryMax" | "MemoryLimit" => size(unit, "memory.max", value),
        "MemoryHigh" => size(unit, "memory.high", value),
        "MemoryLow" => size(unit, "memory.low", value),
        "MemoryMin" => size(unit, "memory.min", value),
        "MemorySwapMax" => size(unit, "memory.swap.max", value),
        "MemoryZSwapMax" => size(unit, "memory.zswap.max", value),
        "TasksMax" => match value.ends_with('%') {
            true => needs_you("write the number of processes: `pids.max`"),
            false => word(
                unit,
                "pids.max",
                if value == "infinity" { "max" } else { value },
            ),
        },
        "CPUQuota" => word(unit, "cpu.max", value),
        "CPUQuotaPeriodSec" => needs_you("write both: `cpu.max: 50ms/200ms`"),
        "CPUWeight" | "StartupCPUWeight" if value != "idle" => word(unit, "cpu.weight", value),
        "IOWeight" | "StartupIOWeight" => word(unit, "io.weight", value),
        "CPUShares" | "StartupCPUShares" => match value.parse::<u64>() {
            Ok(shares) => {
                let weight = weight(shares);
                unit.put(&["cgroup", "cpu.weight"], Yaml::word(weight));
                near(format!("shares {value} → weight {weight}"))
            }
            Err(_) => needs_you("the value is not understood"),
        },
        "AllowedCPUs" => text(unit, "cpuset.cpus", value),
        "AllowedMemoryNodes" => text(unit, "cpuset.mems", value),
        "IOReadBandwidthMax" | "IOWriteBandwidthMax" | "IOReadIOPSMax" | "IOWriteIOPSMax" => {
            rates(unit, key, values)
        }
        "OOMPolicy" => {
            let together = value != "continue";
            unit.put(&["cgroup", "memory.oom.group"], Yaml::word(together));
            exact("")
        }
        "ManagedOOMSwap"
        | "ManagedOOMMemoryPressure"
        | "ManagedOOMMemoryPressureLimit"
        | "ManagedOOMPreference" => {
            near("`host.watch` and `priority` decide what steps back for the host")
        }
        "CPUWeight" => near("`cpu.weight: 1` is the least"),
        "BlockIOWeight" | "BlockIOAccounting" | "StartupBlockIOWeight" => {
            dropped("it was for cgroup v1")
        }
        "DeviceAllow" | "DevicePolicy" => {
            near("a sandbox has harmless devices, and those of `devices`")
        }
        _ if key.ends_with("Accounting") && is_yes(value) => exact("the agent counts everything"),
        _ if key.ends_with("Accounting") => near("the agent counts everything"),
        _ => return None,
    })
}

fn word(unit: &mut Unit<'_>, file: &str, value: &str) -> Outcome {
    unit.put(&["cgroup", file], Yaml::word(value));
    exact("")
}

fn text(unit: &mut Unit<'_>, file: &str, value: &str) -> Outcome {
    let list: Vec<&str> = value
        .split([' ', ','])
        .filter(|part| !part.is_empty())
        .collect();
    unit.put(&["cgroup", file], Yaml::Text(list.join(",")));
    exact("")
}

/// Sizes of systemd are powers of 1024 here; a share is of the host's memory.
fn size(unit: &mut Unit<'_>, file: &str, value: &str) -> Outcome {
    if value == "infinity" {
        return word(unit, file, "max");
    }
    match crate::values::size(value) {
        Some(size) => {
            unit.put(&["cgroup", file], Yaml::Word(size));
            exact("")
        }
        None => needs_you(format!("write the size: `{file}`")),
    }
}

fn rlimit(unit: &mut Unit<'_>, name: &str, value: &str) -> Outcome {
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let limit = match hard {
        "infinity" => "max".to_owned(),
        _ => match crate::values::size(hard) {
            Some(size) => size,
            None => return needs_you("write the limit as a number"),
        },
    };
    unit.put(&["rlimits", &name.to_ascii_lowercase()], Yaml::Word(limit));
    match soft == hard {
        true => exact(""),
        false => near("the soft limit is the hard one"),
    }
}

fn rates(unit: &mut Unit<'_>, key: &str, values: &[String]) -> Outcome {
    let rate = match key {
        "IOReadBandwidthMax" => "rbps",
        "IOWriteBandwidthMax" => "wbps",
        "IOReadIOPSMax" => "riops",
        _ => "wiops",
    };
    for value in values {
        let Some((device, limit)) = value.split_once(' ') else {
            return needs_you("the value is not understood");
        };
        let limit = match limit.trim() {
            "infinity" => "max".to_owned(),
            limit => match crate::values::size(limit) {
                Some(size) => size,
                None => return needs_you("the value is not understood"),
            },
        };
        unit.put(&["cgroup", "io.max", device, rate], Yaml::Word(limit));
    }
    near("K, M and G are powers of 1024; a path must be a device")
}
