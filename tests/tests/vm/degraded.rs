//! Hosts that lack something: what docs/operating.md says still holds, holds, and what
//! doesn't is reported. Each agent has a mount namespace of its own, in which it is missing.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Degraded, DriftFound};
use enforcer_model::oom::{Incident, OomSource};
use enforcer_tests::agent::{Agent, prepare};
use enforcer_tests::{kernel, wait_for, wait_within};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;
use std::time::Duration;

const HOG: &str = "cgroup: { memory.max: 8M, memory.swap.max: 0 }\nrecovery: { backoff: { initial: 10m, max: 10m } }";

/// Covers a place with nothing.
fn hide(place: &str) -> nix::Result<()> {
    mount(
        Some("tmpfs"),
        place,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
}

/// A workload that is killed once, and the report of it.
fn oom_kill_of(agent: &Agent) -> Incident {
    let reported = agent.wait_for_event::<Incident>("hog");
    assert_eq!(
        kernel::read("hog", "memory.max").as_deref(),
        Some("8388608")
    );
    // The first restart is at once, the second is ten minutes away.
    agent.wait_for_events::<Incident>("hog", 2);
    wait_for("every kill the kernel counted to be reported", || {
        let reported = agent.events::<Incident>("hog");
        let last = reported.last()?.details.counter_after;
        (Some(last) == kernel::field("hog", "memory.events", "oom_kill")).then_some(())
    });
    reported.details
}

fn degraded(agent: &Agent) -> Vec<String> {
    let reported = agent.all_events::<Degraded>();
    let what = reported.iter().map(|event| event.details.what.clone());
    what.collect()
}

fn doctor_says(agent: &Agent, words: &str) {
    let reported = agent.cli(&["doctor"]);
    let text = String::from_utf8_lossy(&reported.stdout).into_owned();
    assert!(text.contains(words), "{text}");
}

fn agent_with(hog: &str) -> Agent {
    Agent::start(&manifest(&workload("hog", "hog", hog)))
}

fn without_btf() -> nix::Result<()> {
    hide("/sys/kernel/btf")
}

#[test]
fn without_the_kernels_types_oom_kills_are_counted() {
    prepare(without_btf);
    let agent = agent_with(HOG);
    assert_eq!(oom_kill_of(&agent).source, OomSource::Counters);
    assert_eq!(degraded(&agent), ["ebpf"]);
}

#[test]
fn a_protection_that_a_cgroup_above_makes_void_is_reported() {
    let outer = Path::new("/sys/fs/cgroup/outer");
    fs::write(
        "/sys/fs/cgroup/cgroup.subtree_control",
        "+memory +cpu +pids",
    )
    .unwrap();
    fs::create_dir(outer).unwrap();
    let limits = "cgroup: { memory.low: 8M }";
    let text = manifest(&workload("web", "rest", limits));
    let root = outer.join("enforcer");
    let agent = Agent::start_with(&text, &["--cgroup-root", root.to_str().unwrap()]);
    agent.wait_for_state("web", WorkloadState::Running);
    let reported = wait_for("it to be reported", || {
        let reported = agent.all_events::<Degraded>();
        reported
            .iter()
            .find(|event| event.details.what == "protection")
            .cloned()
    });
    let why = reported.details.why;
    assert!(
        why.contains("memory.low of /sys/fs/cgroup/outer is 0"),
        "{why}"
    );
    assert!(why.contains("ask for 8M"), "{why}");
    drop(agent);
    fs::remove_dir(outer).unwrap();
}

/// Root without what eBPF and perf events need, as a container engine may start it.
fn without_bpf() -> nix::Result<()> {
    const SYS_ADMIN: libc::c_ulong = 21;
    const PERFMON: libc::c_ulong = 38;
    const BPF: libc::c_ulong = 39;
    for capability in [SYS_ADMIN, PERFMON, BPF] {
        // SAFETY: no pointers are passed.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        nix::errno::Errno::result(dropped)?;
    }
    Ok(())
}

#[test]
fn without_the_right_to_ebpf_oom_kills_are_counted() {
    prepare(without_bpf);
    let agent = agent_with(HOG);
    assert_eq!(oom_kill_of(&agent).source, OomSource::Counters);
    assert_eq!(degraded(&agent), ["ebpf"]);
    let reported = agent.all_events::<Degraded>().remove(0);
    let why = reported.details.why;
    assert!(
        why.contains("not permitted") || why.contains("EPERM"),
        "{why}"
    );
}

fn without_bpffs() -> nix::Result<()> {
    hide("/sys/fs/bpf")
}

#[test]
fn without_bpffs_all_is_seen_while_the_agent_lives() {
    prepare(without_bpffs);
    let agent = agent_with(HOG);
    let reported = oom_kill_of(&agent);
    assert_eq!(reported.source, OomSource::Ebpf);
    assert_eq!(reported.victims[0].command, "fixture");
    assert_eq!(degraded(&agent), ["pins"]);
}

/// As where all watches of the host are taken.
fn without_inotify() -> nix::Result<()> {
    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EMFILE as u32;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt: 0,
        jf: 0,
        k,
    };
    let number = u32::try_from(libc::SYS_inotify_init1).unwrap_or(0);
    let mut program = [
        // The number of the system call is the first word.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number)
        },
        statement(libc::BPF_RET | libc::BPF_K, REFUSED),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program outlives the call, which copies it.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    nix::errno::Errno::result(set).map(drop)
}

#[test]
fn without_inotify_drift_is_found_in_its_turn() {
    prepare(without_inotify);
    let agent = Agent::start(&manifest(&workload(
        "web",
        "rest",
        "cgroup: { memory.max: 30M }",
    )));
    agent.wait_for_state("web", WorkloadState::Running);
    assert!(agent.log().contains("no inotify"), "{}", agent.log());
    fs::write(kernel::cgroup("web").join("memory.max"), "max").unwrap();
    wait_within(Duration::from_secs(180), "it to be put right", || {
        (kernel::read("web", "memory.max")? == "31457280").then_some(())
    });
    assert_eq!(agent.events::<DriftFound>("web").len(), 1);
}

fn without_pressure() -> nix::Result<()> {
    hide("/proc/pressure")
}

#[test]
fn without_psi_limits_and_kills_are_as_ever() {
    prepare(without_pressure);
    let agent = agent_with(HOG);
    assert_eq!(oom_kill_of(&agent).source, OomSource::Ebpf);
    assert!(degraded(&agent).is_empty());
    assert!(
        agent.log().contains("no trigger for memory pressure"),
        "{}",
        agent.log()
    );
}

#[test]
fn without_swap_its_limit_is_written_and_nothing_is_missed() {
    assert_eq!(
        std::fs::read_to_string("/proc/swaps")
            .unwrap()
            .lines()
            .count(),
        1
    );
    let agent = agent_with(HOG);
    assert_eq!(oom_kill_of(&agent).source, OomSource::Ebpf);
    assert_eq!(kernel::read("hog", "memory.swap.max").as_deref(), Some("0"));
    doctor_says(&agent, "none: memory.swap.max has nothing to limit");
}

fn with_a_read_only_state() -> nix::Result<()> {
    hide("/mnt")?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/mnt", None::<&str>, flags, None::<&str>)
}

#[test]
fn without_a_state_folder_everything_but_the_past_is_there() {
    std::fs::create_dir_all("/mnt").unwrap();
    prepare(with_a_read_only_state);
    let agent = Agent::start_with(
        &manifest(&workload("hog", "hog", HOG)),
        &["--state-dir", "/mnt"],
    );
    assert_eq!(oom_kill_of(&agent).source, OomSource::Ebpf);
    let mut reported = degraded(&agent);
    reported.sort();
    reported.dedup();
    assert_eq!(reported, ["history", "logs"]);
}
