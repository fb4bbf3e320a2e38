//! The tests of a host with systemd as its first process: what the package brings, what
//! the units promise, and what a shell of such a host may do. One after another, each
//! leaves the host as it found it.
#![allow(clippy::disallowed_methods, reason = "a test measures times itself")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

mod attach;
mod daemons;
mod fleet;
mod import;
mod journal;
mod metrics;
mod package;
mod scope;
mod strict;
mod top;
mod traffic;
mod units;
// These two leave more behind than the others, so they come last.
mod with_engines;
mod with_images;

use enforcer_model::views::{WorkloadView, Workloads};
use enforcer_model::{Record, WorkloadState};
use enforcer_tests::wait_within;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A wait this long costs nothing where all is well, and a slow host needs its time.
const PATIENCE: Duration = Duration::from_secs(240);
/// The time after which a test says that it waits: a guest that prints nothing for five minutes is taken
/// for one that stands still.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

const MANIFEST: &str = "/etc/enforcer/workloads.d/web.yaml";

fn shell(script: &str) -> Output {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).stdin(Stdio::null());
    shell.env("DEBIAN_FRONTEND", "noninteractive");
    shell.output().unwrap()
}

/// What a script prints; it must end well.
fn sh(script: &str) -> String {
    let output = shell(script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{script}`: {}\n{text}{error}\n{}",
        output.status,
        journal()
    );
    text.trim().to_owned()
}

fn journal() -> String {
    let units = "journalctl --no-pager -n 60 -o cat -u enforcer -u enforcer-workloads";
    String::from_utf8_lossy(&shell(units).stdout).into_owned()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut said = Instant::now();
    let patient = || {
        if said.elapsed() > SIGN_OF_LIFE {
            said = Instant::now();
            // The test's own output is shown only if it fails.
            let _ = writeln!(std::io::stderr().lock(), "still waiting for {what}");
        }
        look()
    };
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_within(PATIENCE, what, patient)
    }));
    looked.unwrap_or_else(|_| panic!("waited in vain for {what}\n{}", journal()))
}

/// Every file but what the package manager itself keeps, the accounts, the units, and
/// what is left in the kernel, a line each.
fn host() -> BTreeSet<String> {
    let reported = sh(
        "find / -xdev \\( -path /var/lib/dpkg -o -path /var/cache -o -path /var/log -o -path /var/lib/apt \
        -o -path /tmp -o -path /root -o -path '/etc/*-' -o -path /etc/.pwd.lock -o -path /etc/ld.so.cache \\) -prune \
        -o -print; getent group; ls /run | grep enforcer || true; \
        systemctl list-unit-files --no-legend 'enforcer*' || true; systemctl list-units --all --no-legend 'enforcer*' | grep -v not-found || true; \
        ls -d /sys/fs/bpf/enforcer /sys/fs/cgroup/enforcer.slice 2>/dev/null || true",
    );
    reported.lines().map(str::to_owned).collect()
}

/// The same before anything was ever installed.
fn before() -> &'static BTreeSet<String> {
    static BEFORE: OnceLock<BTreeSet<String>> = OnceLock::new();
    BEFORE.get_or_init(host)
}

/// The first revision on a host that has none, whatever the test before has left.
fn install_anew() {
    let _ = before();
    if shell("dpkg-query -W enforcer").status.success() {
        purge();
    }
    install(1);
}

/// By dpkg alone, which takes half of apt's time; `package.rs` tries apt.
fn install(revision: u32) {
    sh(&format!("dpkg --install /root/enforcer_{revision}.deb"));
}

fn purge() {
    // A test that failed may have left the fleet's package, which needs the other one.
    sh("dpkg --purge enforcer-fleet enforcer");
    sh("rm -rf /etc/enforcer");
    daemons::unmake();
}

/// Asks a server once, and takes the first byte of its answer, if there is one in time.
fn get(port: u16, path: &str) {
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; head -c 1 <&3"
    );
    shell(&format!("timeout 5 bash -c \"{script}\""));
}

/// The kinds of a workload's events, in their order.
fn kinds_of(workload: &str) -> String {
    let text = sh(&format!("enforcer events {workload} --json"));
    let events = text.lines().map(serde_json::from_str::<Record>);
    let kinds = events.map(|one| one.unwrap().detail.kind().to_owned());
    kinds.collect::<Vec<_>>().join(" ")
}

/// One workload that rests, below its limit.
fn put_manifest(mode: &str) {
    let text = format!(
        "version: 1\nworkloads:\n  web:\n    command: [/usr/bin/fixture, {mode}]\n    user: web\n    \
         cgroup: {{ memory.max: 64M, memory.swap.max: 0 }}\n"
    );
    std::fs::write(MANIFEST, text).unwrap();
}

/// The first workload; `None` if no agent answers.
fn workload() -> Option<WorkloadView> {
    let listed = shell("enforcer ps --json");
    let listed: Workloads = serde_json::from_slice(&listed.stdout).ok()?;
    listed.workloads.into_iter().next()
}

fn running() -> u32 {
    wait_for("the workload to run", || {
        workload()
            .filter(|found| found.state == WorkloadState::Running)?
            .pid
    })
}

/// The agent's own number; `None` while there is none.
fn agent() -> Option<u32> {
    let shown = shell("systemctl show -P MainPID enforcer.service");
    let pid: u32 = String::from_utf8_lossy(&shown.stdout).trim().parse().ok()?;
    (pid != 0).then_some(pid)
}

/// Waits for another agent than this one, until it answers.
fn next_agent(before: u32) -> u32 {
    wait_for("the next agent", || {
        let pid = agent().filter(|pid| *pid != before)?;
        let active = shell("systemctl is-active --quiet enforcer")
            .status
            .success();
        (active && shell("enforcer ps").status.success()).then_some(pid)
    })
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}
