//! Every limit of the manifest, read back from the kernel.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::Start;
use enforcer_tests::agent::Agent;
use enforcer_tests::disk::Disk;
use enforcer_tests::{kernel, wait_for};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const ALL: &str = "cgroup: { cpu.weight: 59, cpu.max: 150%, cpu.max.burst: 20ms, cpuset.cpus: 0-1, \
     cpuset.mems: 0, hugetlb.2MB.max: 4M, memory.min: 1M, memory.low: 2M, memory.high: 75%, memory.max: 64M, memory.swap.max: 8M, \
     memory.oom.group: false, pids.max: 512, io.weight: 200 }";

#[test]
fn every_limit_is_in_the_kernel() {
    let agent = Agent::start(&manifest(&workload("all", "rest", ALL)));
    agent.wait_for_state("all", WorkloadState::Running);
    let expected = [
        ("cpu.weight", "59"),
        ("cpu.max", "150000 100000"),
        ("cpu.max.burst", "20000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("hugetlb.2MB.max", "4194304"),
        ("memory.min", "1048576"),
        ("memory.low", "2097152"),
        ("memory.high", "50331648"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "8388608"),
        ("memory.oom.group", "0"),
        ("pids.max", "512"),
        ("io.weight", "default 200"),
    ];
    for (file, value) in expected {
        assert_eq!(kernel::read("all", file).as_deref(), Some(value), "{file}");
    }
    // What `inspect` shows beside the request is the kernel's own answer.
    let limits = agent.inspect("all").limits;
    for (file, value) in expected {
        let shown = limits.iter().find(|limit| limit.file == file).unwrap();
        assert_eq!(shown.effective.as_deref(), Some(value), "{file}");
        assert_eq!(shown.requested.as_deref(), Some(value), "{file}");
    }
}

#[test]
fn a_controller_that_is_asked_for_later_is_enabled_then() {
    let agent = Agent::start(&manifest(&workload("late", "rest", "")));
    let before = agent.wait_for_state("late", WorkloadState::Running);
    assert_eq!(kernel::read("late", "hugetlb.2MB.max"), None);
    let asks = workload("late", "rest", "cgroup: { hugetlb.2MB.max: 4M }");
    agent.write_manifest(&manifest(&asks));
    let applied = agent.cli(&["apply"]);
    assert!(applied.status.success(), "{applied:?}");
    let limit = kernel::read("late", "hugetlb.2MB.max");
    assert_eq!(limit.as_deref(), Some("4194304"));
    assert_eq!(agent.workload("late").pid, before.pid);
}

/// Debian's kernels for clouds have neither of them, and others may have both.
#[test]
fn a_limit_that_the_kernel_lacks_is_refused_by_its_option() {
    let more = "recovery: { restart: never }";
    let asks = [
        (
            "squeezed",
            "memory.zswap.max",
            "8M",
            "8388608",
            "CONFIG_ZSWAP",
        ),
        (
            "clamped",
            "cpu.uclamp.max",
            "40%",
            "40.00",
            "CONFIG_UCLAMP_TASK_GROUP",
        ),
    ];
    let text: String = asks
        .iter()
        .map(|(name, file, asked, ..)| {
            workload(
                name,
                "rest",
                &format!("cgroup: {{ {file}: {asked} }}\n{more}"),
            )
        })
        .collect();
    let agent = Agent::start(&manifest(&text));
    for (name, file, _, value, option) in asks {
        let start = agent.wait_for_event::<Start>(name);
        match start.details.error() {
            Some(error) => {
                assert!(!kernel::cgroup(name).join(file).exists(), "{error:?}");
                assert!(
                    error.error.contains(file) && error.error.contains(option),
                    "{error:?}"
                );
                agent.wait_for_state(name, WorkloadState::Failed);
            }
            None => assert_eq!(kernel::read(name, file).as_deref(), Some(value)),
        }
    }
}

#[test]
fn what_the_manifest_leaves_out_keeps_the_kernels_default() {
    let agent = Agent::start(&manifest(&workload("plain", "rest", "")));
    agent.wait_for_state("plain", WorkloadState::Running);
    let defaults = [
        ("cpu.weight", "100"),
        ("cpu.max", "max 100000"),
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
        ("memory.oom.group", "1"),
    ];
    for (file, value) in defaults {
        assert_eq!(
            kernel::read("plain", file).as_deref(),
            Some(value),
            "{file}"
        );
    }
    // It asks for no CPUs, and runs on all that there are.
    let limits = agent.inspect("plain").limits;
    let mut shown = limits.iter();
    let cpus = shown.find(|limit| limit.file == "cpuset.cpus").unwrap();
    assert_eq!(cpus.requested, None);
    assert_eq!(cpus.effective.as_deref(), Some("0-1"));
    let nodes = shown.find(|limit| limit.file == "cpuset.mems").unwrap();
    assert_eq!(nodes.effective.as_deref(), Some("0"));
    // A file that nobody asks for and that the kernel lacks is not shown.
    assert!(limits.iter().all(|limit| limit.effective.is_some()));
}

#[test]
fn an_idle_workload_and_a_page_rounded_limit_are_as_asked() {
    let more = "cgroup: { cpu.weight: idle, memory.max: 20000000 }";
    let agent = Agent::start(&manifest(&workload("idle", "rest", more)));
    agent.wait_for_state("idle", WorkloadState::Running);
    assert_eq!(kernel::read("idle", "cpu.idle").as_deref(), Some("1"));
    // 20000000 is no multiple of 4096: the kernel's own rounding is no fault.
    assert_eq!(
        kernel::read("idle", "memory.max").as_deref(),
        Some("19996672")
    );
}

#[test]
fn the_host_keeps_its_reserve_and_parents_pass_protection_on() {
    let host = "version: 1\nhost:\n  reserve: { memory: 300M, swap: 50% }\n  cgroup: { cpu.weight: 80 }\nworkloads:\n";
    let one = workload(
        "one",
        "rest",
        "cgroup: { memory.low: 16M, memory.max: 64M }",
    );
    let two = workload(
        "two",
        "rest",
        "cgroup: { memory.low: 8M, memory.min: 4M, memory.max: 64M }",
    );
    let agent = Agent::start(&format!("{host}{one}{two}"));
    agent.wait_for_state("two", WorkloadState::Running);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo
        .lines()
        .find(|line| line.starts_with("MemTotal:"))
        .unwrap();
    let total: u64 = line
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024;
    let parent = |file: &str| kernel::read(".", file).unwrap();
    assert_eq!(
        parent("memory.max"),
        ((total - (300 << 20)) / 4096 * 4096).to_string()
    );
    assert_eq!(parent("cpu.weight"), "80");
    assert_eq!(parent("memory.low"), (24 << 20).to_string());
    assert_eq!(parent("memory.min"), (4 << 20).to_string());
    let root = fs::read_to_string(enforcer_tests::slot::root().join("memory.low")).unwrap();
    assert_eq!(root.trim(), (24 << 20).to_string());
}

#[test]
fn protected_memory_survives_reclaim() {
    let _swap = enforcer_tests::swap::Swap::on();
    let limits = "cgroup: { memory.max: 128M, memory.low: 40M }";
    let kept = workload("kept", "hog 32", limits);
    let open = workload("open", "hog 32", "cgroup: { memory.max: 128M }");
    let agent = Agent::start(&format!(
        "version: 1\nhost:\n  reserve: {{ swap: 0% }}\nworkloads:\n{kept}{open}"
    ));
    let current = |name: &str| {
        kernel::read(name, "memory.current")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let filled = |name: &str| (current(name) > 32 << 20).then_some(());
    agent.wait_for_state("kept", WorkloadState::Running);
    agent.wait_for_state("open", WorkloadState::Running);
    wait_for("both to have filled their memory", || {
        filled("kept").and(filled("open"))
    });
    let before = [current("kept"), current("open")];
    // Reclaim from the parent, which both share alike (memory.reclaim, since 5.19).
    // It fails with EAGAIN where it finds less than it was asked for.
    let _ = fs::write(
        kernel::cgroup(".").join("memory.reclaim"),
        (24 << 20).to_string(),
    );
    let after = [current("kept"), current("open")];
    println!(
        "kept {} -> {}, open {} -> {}",
        before[0], after[0], before[1], after[1]
    );
    let lost = [0, 1].map(|index| before[index].saturating_sub(after[index]));
    assert!(
        lost[1] > 12 << 20,
        "the other one was not reclaimed from: {lost:?}"
    );
    // memory.low is best effort: in a pass that finds all other pages in writeback to the swap, the
    // kernel takes some of the protected ones.
    assert!(
        lost[0] < lost[1] / 4,
        "the protected one lost memory: {lost:?}"
    );
}

#[test]
fn swap_has_its_own_boundary() {
    let _swap = enforcer_tests::swap::Swap::on();
    let more = "cgroup: { memory.max: 16M, memory.swap.max: 8M }\nrecovery: { restart: never }";
    let agent = Agent::start(&format!(
        "version: 1\nhost:\n  reserve: {{ swap: 0% }}\nworkloads:\n{}",
        workload("both", "hog 20", more)
    ));
    agent.wait_for_state("both", WorkloadState::Running);
    // 20 MiB fit into 16 of memory and 8 of swap, and nothing is killed.
    wait_for("swap to be used", || {
        let swapped: u64 = kernel::read("both", "memory.swap.current")?.parse().ok()?;
        (swapped > 3 << 20).then_some(())
    });
    assert_eq!(kernel::field("both", "memory.events", "oom_kill"), Some(0));
    let shown = agent.workload("both");
    assert_eq!(shown.swap_max_bytes, Some(8 << 20));
    assert!(shown.swap_bytes > 3 << 20);
}

/// A disk is limited by its device or by a path on it, and no other limit of a disk stays.
#[test]
fn a_disk_has_its_rates() {
    let place = Path::new("/tmp/limited");
    let _disk = Disk::mounted_at(place);
    let device = fs::metadata("/dev/loop1").unwrap().rdev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let line = |rates: &str| Some(format!("{major}:{minor} {rates}"));
    let limited = |disk: &str| {
        workload(
            "web",
            "rest",
            &format!("cgroup: {{ io.max: {{ {disk} }} }}"),
        )
    };
    let agent = Agent::start(&manifest(&limited(
        "/tmp/limited: { wbps: 1M, riops: 100 }",
    )));
    agent.wait_for_state("web", WorkloadState::Running);
    let first = line("rbps=max wbps=1048576 riops=100 wiops=max");
    assert_eq!(kernel::read("web", "io.max"), first);
    let shown = agent.inspect("web").limits;
    let shown = shown.iter().find(|limit| limit.file == "io.max").unwrap();
    assert_eq!(shown.effective, first);
    assert_eq!(
        shown.requested.as_deref(),
        Some("/tmp/limited rbps=max wbps=1048576 riops=100 wiops=max")
    );
    agent.write_manifest(&manifest(&limited("/dev/loop1: { rbps: 2M }")));
    assert!(agent.cli(&["apply"]).status.success());
    let second = line("rbps=2097152 wbps=max riops=max wiops=max");
    assert_eq!(kernel::read("web", "io.max"), second);
    // Another process lifts it, and it is written again.
    let file = kernel::cgroup("web").join("io.max");
    fs::write(file, line("rbps=max").unwrap()).unwrap();
    wait_for("the rate to come back", || {
        (kernel::read("web", "io.max") == second).then_some(())
    });
    agent.write_manifest(&manifest(&workload("web", "rest", "")));
    assert!(agent.cli(&["apply"]).status.success());
    assert_eq!(kernel::read("web", "io.max").as_deref(), Some(""));
    // What is on no disk is refused, with its reason.
    let more = limited("/proc: { wbps: 1M }").replace("  web:", "  none:");
    agent.write_manifest(&manifest(&more));
    assert!(agent.cli(&["apply"]).status.success());
    let start = agent.wait_for_event::<Start>("none").details;
    let error = start.error().unwrap();
    assert!(
        error
            .error
            .contains("find the disk of /proc: its file system is on no block device"),
        "{}",
        error.error
    );
}
