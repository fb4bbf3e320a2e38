//! Runs the VM's tests inside a guest, several at a time.
//!
//! Each test is a process of its own (`suite --exact NAME`) with its own mounts, its own
//! network and a slot, which names its cgroup root (see `enforcer_tests::slot`). Tests that
//! must be alone run after the others, one by one (see `enforcer_tests::plan`).
//!
//! The runner reports to xtask in lines that begin with `@@` (see `xtask/src/console.rs`):
//! `@@test OUTCOME MILLISECONDS NAME` for each test, and `@@alive` while it waits.
#![allow(clippy::disallowed_methods, reason = "a test measures times itself")]
#![allow(
    clippy::unwrap_used,
    reason = "a run that can't go on should say where"
)]

mod process;

use enforcer_tests::agent::ENFORCER;
use enforcer_tests::plan::{self, Share};
use process::{Finished, Place, run};
use std::collections::VecDeque;
use std::process::{Command, ExitCode};
use std::sync::mpsc::channel;
use std::time::Duration;

/// The time between two signs of life of the runner.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// The options of the runner.
struct Request {
    slots: usize,
    /// The place of this guest among those that share the tests.
    share: Share,
    /// Parts of names of tests; empty for all.
    names: Vec<String>,
}

impl Request {
    fn from_arguments() -> Self {
        let mut request = Self {
            slots: 1,
            share: Share::WHOLE,
            names: Vec::new(),
        };
        for argument in std::env::args().skip(1) {
            if let Some(slots) = argument.strip_prefix("--slots=") {
                request.slots = slots.parse().unwrap();
            } else if let Some(share) = argument.strip_prefix("--share=") {
                request.share = Share::read(share).unwrap();
            } else {
                request.names.push(argument);
            }
        }
        request
    }

    fn wants(&self, test: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| test.contains(name.as_str()))
    }
}

fn main() -> ExitCode {
    let request = Request::from_arguments();
    assert_ebpf_is_built_in();
    let all = process::list();
    let stale: Vec<&str> = plan::stale(&all).collect();
    assert!(stale.is_empty(), "rules of plan.rs name no test: {stale:?}");
    let mut here = Vec::new();
    for (at, test) in all.into_iter().enumerate() {
        if !request.wants(&test) {
            continue;
        }
        if request.share.has(&test, at) {
            here.push(test);
        } else {
            println!("@@test elsewhere 0 {test}");
        }
    }
    let (mut alone, mut together): (Vec<_>, Vec<_>) = here
        .into_iter()
        .partition(|test| plan::rule_of(plan::ALONE, test).is_some());
    alone.sort_by_key(|test| plan::rule_of(plan::ALONE, test));
    together.sort_by_key(|test| !plan::LONG.iter().any(|long| test.starts_with(long)));
    let slowness = enforcer_tests::measure_slowness();
    println!(
        "{} tests, {} at a time, then {} alone; waits are {slowness:.1} times as long as usual",
        together.len(),
        request.slots,
        alone.len(),
    );
    let failed = run_all(together, request.slots, slowness) + run_all(alone, 1, slowness);
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

/// Fails the run at once if the agent was compiled without its eBPF programs.
fn assert_ebpf_is_built_in() {
    let doctor = Command::new(ENFORCER).args(["doctor", "--json"]).output();
    let said = String::from_utf8(doctor.unwrap().stdout).unwrap();
    assert!(
        !said.contains("not built in"),
        "the agent under test has no eBPF programs; build it with `cargo xtask build`"
    );
}

/// Runs tests, this many at a time; returns how many failed.
fn run_all(tests: Vec<String>, slots: usize, slowness: f64) -> usize {
    let mut waiting: VecDeque<String> = tests.into();
    let mut free: Vec<usize> = (0..slots).rev().collect();
    let (sender, finished) = channel::<(usize, Finished)>();
    let mut failed = 0;
    while !waiting.is_empty() || free.len() < slots {
        while let Some(slot) = free.pop() {
            let Some(test) = waiting.pop_front() else {
                free.push(slot);
                break;
            };
            let place = Place {
                slot,
                // Tests that run side by side share one emulated CPU.
                slowness: slowness * slots as f64,
            };
            let sender = sender.clone();
            std::thread::spawn(move || {
                let _ = sender.send((slot, run(&test, place)));
            });
        }
        match finished.recv_timeout(SIGN_OF_LIFE) {
            Ok((slot, finished)) => {
                free.push(slot);
                failed += usize::from(!finished.passed);
                report(&finished);
            }
            Err(_) => println!("@@alive"),
        }
    }
    failed
}

fn report(finished: &Finished) {
    let outcome = if finished.passed { "passed" } else { "failed" };
    if !finished.passed {
        println!("---- {}", finished.test);
        // Indented, so that no line of it is taken for one of the runner's own.
        for line in finished.output.lines() {
            println!("  {line}");
        }
    }
    println!(
        "@@test {outcome} {} {}",
        finished.taken.as_millis(),
        finished.test
    );
}
