//! The fitness of this host for the agent. Each facility is tried and not assumed, and no check
//! changes anything.

use super::cgroupfs::MOUNT_POINT;
use super::{capabilities, memory_info, memory_state, perf};
use cgroups_rs::hierarchies::is_cgroup2_unified_mode;
use enforcer_model::views::{Grade, HostCheck};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::path::Path;

fn good(what: &str, found: impl Into<String>) -> HostCheck {
    HostCheck {
        what: what.to_owned(),
        grade: Grade::Good,
        found: found.into(),
        cure: None,
    }
}

fn fault(what: &str, grade: Grade, found: impl Into<String>, cure: &str) -> HostCheck {
    HostCheck {
        what: what.to_owned(),
        grade,
        found: found.into(),
        cure: Some(cure.to_owned()),
    }
}

/// Returns all checks, the most important first.
pub fn findings() -> Vec<HostCheck> {
    vec![
        cgroup2(),
        controllers(),
        privileges(),
        btf(),
        pins(),
        samples(),
        written_pages(),
        pressure(),
        swap(),
    ]
}

fn cgroup2() -> HostCheck {
    const WHAT: &str = "cgroup v2";
    if is_cgroup2_unified_mode() {
        return good(WHAT, format!("mounted at {MOUNT_POINT}"));
    }
    fault(
        WHAT,
        Grade::Missing,
        format!("{MOUNT_POINT} is not a cgroup v2 hierarchy"),
        "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 there",
    )
}

fn controllers() -> HostCheck {
    const WHAT: &str = "controllers";
    let path = format!("{MOUNT_POINT}/cgroup.controllers");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lacks = |wanted: &[&str]| {
        let missing = wanted
            .iter()
            .filter(|name| text.split_whitespace().all(|known| known != **name));
        missing.copied().collect::<Vec<_>>().join(", ")
    };
    let (needed, useful) = (lacks(&["cpu", "memory", "pids"]), lacks(&["cpuset", "io"]));
    let cure = "boot with cgroup_no_v1=all, so that no cgroup v1 hierarchy holds them";
    if !needed.is_empty() {
        return fault(
            WHAT,
            Grade::Missing,
            format!("{needed} are not there"),
            cure,
        );
    }
    if !useful.is_empty() {
        let found = format!("{useful} are not there: their keys are refused");
        return fault(WHAT, Grade::Less, found, cure);
    }
    good(WHAT, text.trim().replace(' ', ", "))
}

fn privileges() -> HostCheck {
    const WHAT: &str = "privileges";
    if nix::unistd::geteuid().is_root() {
        let missing = capabilities::missing();
        if missing.is_empty() {
            return good(WHAT, "root");
        }
        return fault(
            WHAT,
            Grade::Less,
            format!("root, without {}", missing.join(", ")),
            "give the agent these as well; docs/operating.md says what each is for",
        );
    }
    fault(
        WHAT,
        Grade::Less,
        "not root: workloads run as this user, without eBPF",
        "run it as root",
    )
}

fn btf() -> HostCheck {
    const WHAT: &str = "kernel types";
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        return good(WHAT, format!("BTF in {path}"));
    }
    fault(
        WHAT,
        Grade::Less,
        "no BTF: OOM kills are seen by counters alone, CPU loops only in /proc",
        "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
    )
}

fn pins() -> HostCheck {
    const WHAT: &str = "bpf file system";
    let path = "/sys/fs/bpf";
    if statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return good(WHAT, format!("mounted at {path}"));
    }
    fault(
        WHAT,
        Grade::Less,
        format!("{path} is none: reports of what happens while no agent runs lack names and codes"),
        "mount -t bpf bpf /sys/fs/bpf",
    )
}

fn samples() -> HostCheck {
    const WHAT: &str = "CPU samples";
    match perf::can_sample() {
        Ok(()) => good(WHAT, "perf events by CPU"),
        Err(error) => fault(
            WHAT,
            Grade::Less,
            format!(
                "perf events are refused ({error}): CPU loops are looked for in /proc once a second, and none is proved"
            ),
            "give the agent CAP_PERFMON, and allow perf_event_open in its seccomp filter",
        ),
    }
}

fn written_pages() -> HostCheck {
    const WHAT: &str = "proof of loops";
    if memory_state::has_soft_dirty() {
        return good(WHAT, "soft-dirty bits show which pages were written");
    }
    fault(
        WHAT,
        Grade::Less,
        "no soft-dirty bits: loops are proved only in processes of up to 16 MiB of anonymous memory",
        "use a kernel with CONFIG_MEM_SOFT_DIRTY=y",
    )
}

fn pressure() -> HostCheck {
    const WHAT: &str = "pressure";
    if std::fs::read_to_string("/proc/pressure/memory").is_ok() {
        return good(WHAT, "PSI in /proc/pressure");
    }
    fault(
        WHAT,
        Grade::Less,
        "no PSI: pressure is not measured",
        "boot with psi=1, on a kernel with CONFIG_PSI=y",
    )
}

fn swap() -> HostCheck {
    const WHAT: &str = "swap";
    match memory_info::totals() {
        Ok((_, swap)) if swap.0 > 0 => good(WHAT, swap.to_string()),
        Ok(_) => good(WHAT, "none: memory.swap.max has nothing to limit"),
        Err(error) => fault(
            WHAT,
            Grade::Less,
            format!("not known: {error}"),
            "mount /proc",
        ),
    }
}
