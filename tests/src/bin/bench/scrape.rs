//! Measures the cost of a scrape, beside other ways to the same numbers: `cat` in a shell's loop,
//! and systemd-cgtop, which reads fewer files of each cgroup. Both are Debian's own.

use super::daemon::{LONG, cpu_seconds, resting, running};
use super::{Samples, many, monotonic};
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_within};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{UsageWho, getrusage};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const TREE: &str = "/debian";
const SCRAPES: usize = 20;
const RUNS: usize = 5;
const FILES: &str = "memory.current memory.stat memory.events memory.max memory.peak memory.swap.current \
    memory.swap.max cpu.stat pids.current cpu.pressure memory.pressure io.pressure";

pub(super) fn scrape(_floor: &Samples) {
    mount_into_tree(&["/proc", "/sys"]);
    for count in [10, 100, many()] {
        of(count);
    }
}

/// Shows the programs of the tree these folders of ours.
pub(super) fn mount_into_tree(places: &[&str]) {
    for place in places {
        let into = format!("{TREE}{place}");
        mount(
            Some(*place),
            into.as_str(),
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .unwrap();
    }
}

fn of(count: usize) {
    let agent = Agent::start_daemon(&resting(count));
    wait_within(LONG, "all of them to run", || {
        (running(&agent).len() == count).then_some(())
    });
    println!("{count} workloads");
    let cat = format!(
        "for w in /sys/fs/cgroup/enforcer/workloads/*/; do cd $w; cat {FILES} >/dev/null; done"
    );
    let (floor, cpu) = others(&["sh", "-c", &cat]);
    println!("  `cat` in a loop: {floor}; {cpu:.0} ms of CPU time each");
    let (top, top_cpu) = others(&["systemd-cgtop", "-n", "1", "-b"]);
    println!("  systemd-cgtop -n 1 -b: {top}; {top_cpu:.0} ms of CPU time each");
    let mut bytes = 0;
    // This resets the peak (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").unwrap();
    let resident = |which: &str| kernel::status(agent.pid(), which).unwrap();
    let at_rest = resident("VmRSS");
    let before = cpu_seconds(agent.pid());
    let times = (0..SCRAPES).map(|_| {
        let begun = monotonic();
        let (status, text) = agent.raw("GET /metrics", "");
        assert_eq!(status, 200);
        bytes = text.len();
        monotonic() - begun
    });
    let scrapes = Samples::of(times.collect());
    #[expect(clippy::cast_precision_loss)]
    let own = (cpu_seconds(agent.pid()) - before) * 1000.0 / SCRAPES as f64;
    println!("  a scrape: {scrapes}; {own:.0} ms of CPU time each; {bytes} bytes");
    println!(
        "    {:.2} × the loop of `cat`, with {:.2} × its CPU time; {:.2} × systemd-cgtop, with {:.2} × its CPU time",
        scrapes.ratio_to(&floor),
        own / cpu,
        scrapes.ratio_to(&top),
        own / top_cpu
    );
    println!(
        "  the agent's memory: {at_rest} before, {} at most meanwhile",
        resident("VmHWM")
    );
}

/// Runs a program of the tree, and returns its time and its CPU time in milliseconds.
fn others(command: &[&str]) -> (Samples, f64) {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let time = |value: nix::sys::time::TimeVal| {
            Duration::from_secs(u64::try_from(value.tv_sec()).unwrap())
                + Duration::from_micros(u64::try_from(value.tv_usec()).unwrap())
        };
        time(usage.user_time()) + time(usage.system_time())
    };
    let before = used();
    let times = (0..RUNS).map(|_| {
        let begun = monotonic();
        let ended = Command::new("/bin/fixture")
            .args(["chroot", TREE])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(ended.success(), "{command:?}: {ended}");
        let took = monotonic() - begun;
        // Minutes without a word would pass for a guest that hangs.
        println!("    {}: {:.1} s", command[0], took.as_secs_f64());
        took
    });
    let samples = Samples::of(times.collect());
    #[expect(clippy::cast_precision_loss)]
    let each = (used() - before).as_secs_f64() * 1000.0 / RUNS as f64;
    (samples, each)
}
