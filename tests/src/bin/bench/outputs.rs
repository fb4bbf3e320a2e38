//! Measures the cost of outputs: lines a second beside a plain file and beside journald, and memory
//! and CPU time with a thousand quiet workloads and ten busy ones. journald is Debian's own, with
//! its rate limit switched off.

use super::daemon::{LONG, cpu_seconds, resting, running};
use super::scrape::{TREE, mount_into_tree};
use super::{Samples, many, monotonic, stamps};
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_for, wait_within};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 5;
const MEBIBYTES: usize = 4;
/// Lines of 64 bytes.
const LINES: usize = MEBIBYTES << 14;
const CHATTY: usize = 10;
const WATCHED: Duration = Duration::from_secs(60);
const JOURNAL: &str = "/run/systemd/journal/stdout";

pub(super) fn outputs(_floor: &Samples) {
    let mut journald = journald();
    rates(journald.id());
    at_rest(journald.id());
    journald.kill().unwrap();
    journald.wait().unwrap();
}

fn journald() -> Child {
    mount_into_tree(&["/proc", "/sys", "/dev", "/run"]);
    let settings = "[Journal]\nStorage=volatile\nRuntimeMaxUse=64M\nRateLimitIntervalSec=0\nReadKMsg=no\nAudit=no\n";
    fs::write(format!("{TREE}/etc/systemd/journald.conf"), settings).unwrap();
    let started = Command::new("/bin/fixture")
        .args(["chroot", TREE, "/usr/lib/systemd/systemd-journald"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("journald", || Path::new(JOURNAL).exists().then_some(()));
    started
}

fn holder() -> u32 {
    wait_for("the holder", || {
        let listed = fs::read_to_string("/sys/fs/cgroup/enforcer/holder/cgroup.procs").ok()?;
        listed.trim().parse().ok()
    })
}

/// Returns the time from a writer's first line to its last, by its own stamps.
fn writing(stamped: &str) -> Duration {
    let times: Vec<Duration> = wait_within(LONG, "the last line", || {
        let times: Vec<_> = stamps(stamped).into_iter().map(|(_, at)| at).collect();
        (times.len() >= 2).then_some(times)
    });
    fs::remove_file(stamped).unwrap();
    times[1] - times[0]
}

/// Lines a second into a file, through the holder and to journald, by turns.
fn rates(journald: u32) {
    let workload = |name: &str, logs: &str| {
        format!(
            "  {name}:\n    command: [/bin/fixture, flood-and-stamp, \"{MEBIBYTES}\", /tmp/{name}]\n    user: web\n    \
             stop: {{ signal: SIGKILL }}\n    logs: {{ {logs} }}\n"
        )
    };
    let agent = Agent::start(&format!(
        "version: 1\nworkloads:\n{}{}",
        workload("held", "max_size: 64M"),
        workload("journaled", "to: journal")
    ));
    let held = holder();
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut cpu = [0.0; 2];
    for round in 0..=ROUNDS {
        let file = File::create("/tmp/plain").unwrap();
        let mut plain = Command::new("/bin/fixture")
            .args([
                "flood-and-stamp",
                &MEBIBYTES.to_string(),
                "/tmp/plain-stamps",
            ])
            .stdout(file)
            .spawn()
            .unwrap();
        let bare = writing("/tmp/plain-stamps");
        plain.kill().unwrap();
        plain.wait().unwrap();
        let mut taken = vec![bare];
        for (index, (name, keeper)) in [("held", held), ("journaled", journald)].iter().enumerate()
        {
            // The first round is of the agent's own start.
            let before = cpu_seconds(*keeper);
            if round > 0 {
                assert!(agent.cli(&["restart", name]).status.success());
            }
            taken.push(writing(&format!("/tmp/{name}")));
            settle(*keeper);
            if round > 0 {
                cpu[index] += cpu_seconds(*keeper) - before;
            }
        }
        println!("    round {round}: {taken:.2?}");
        if round > 0 {
            for (all, one) in times.iter_mut().zip(taken) {
                all.push(one);
            }
        }
    }
    let [plain, held, journaled] = times.map(Samples::of);
    #[expect(clippy::cast_precision_loss)]
    let rate = |samples: &Samples| LINES as f64 / samples.median().as_secs_f64();
    println!(
        "{LINES} lines of 64 bytes into a plain file: {plain}; {:.0} lines/s",
        rate(&plain)
    );
    for (what, samples, cpu) in [
        ("the holder", &held, cpu[0]),
        ("journald", &journaled, cpu[1]),
    ] {
        #[expect(clippy::cast_precision_loss)]
        let each = cpu * 1e6 / (ROUNDS * LINES) as f64;
        println!(
            "… to {what}: {samples}; {:.0} lines/s; {:.2} × the plain file; {each:.1} µs of its CPU time a line",
            rate(samples),
            samples.ratio_to(&plain)
        );
    }
    println!(
        "    the holder takes {:.2} of journald's time",
        held.ratio_to(&journaled)
    );
}

/// Waits until a process has used no CPU time for a while.
fn settle(pid: u32) {
    const REST: Duration = Duration::from_millis(500);
    let mut last = (cpu_seconds(pid), monotonic());
    wait_within(LONG, "it to rest", || {
        let used = cpu_seconds(pid);
        if used > last.0 {
            last = (used, monotonic());
        }
        (monotonic() - last.1 >= REST).then_some(())
    });
}

/// A thousand workloads that rest, and ten that write a hundred lines a second each.
fn at_rest(journald: u32) {
    let count = many();
    let chatty = |logs: &str| {
        let one = |number| {
            format!(
                "  chatty-{number}:\n    command: [/bin/fixture, count, \"1000000000\", \"10\"]\n    user: web\n    \
                 stop: {{ signal: SIGKILL }}\n    logs: {{ {logs} }}\n"
            )
        };
        resting(count) + &(0..CHATTY).map(one).collect::<String>()
    };
    let agent = Agent::start_daemon(&chatty("max_size: 10M"));
    let all_run = || {
        wait_within(LONG, "all of them to run", || {
            (running(&agent).len() == count + CHATTY).then_some(())
        });
    };
    all_run();
    let held = holder();
    report("holder", held, agent.pid(), count);
    let journaled = chatty("to: journal");
    fs::write(agent.folder().join("manifest.yaml"), journaled).unwrap();
    assert!(agent.cli(&["apply"]).status.success());
    all_run();
    report("journald", journald, agent.pid(), count);
    report("holder, with nothing to write", held, agent.pid(), count);
}

fn report(what: &str, keeper: u32, agent: u32, count: usize) {
    std::thread::sleep(WATCHED / 6);
    let used = |pid| cpu_seconds(pid);
    let (begun, before) = (monotonic(), [used(keeper), used(agent)]);
    std::thread::sleep(WATCHED);
    let took = (monotonic() - begun).as_secs_f64();
    let share = |index: usize, pid| (used(pid) - before[index]) / took * 100.0;
    println!(
        "{count} quiet and {CHATTY} chatty workloads, {} s: {what}: {:.2} % of an emulated CPU, {} resident ({} anonymous); the agent: {:.2} %",
        WATCHED.as_secs(),
        share(0, keeper),
        kernel::status(keeper, "VmRSS").unwrap(),
        kernel::status(keeper, "RssAnon").unwrap(),
        share(1, agent)
    );
}
