//! The steps of a restart after an OOM kill, and of a start by a command, one by one: when each is
//! passed after the last sign of life, or after the command's own process is asked for.
//!
//! The agent under test is the build with failpoints, which appends a line to a file at each of them.

use super::{Samples, monotonic};
use enforcer_tests::agent::{self, Agent};
use enforcer_tests::{wait_for, wait_within};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const RESTARTS: usize = 60;
const STARTS: usize = 40;
const STAMPS: &str = "/tmp/stamps";
const STARTED: &str = "/tmp/started";
const TRACE: &str = "/tmp/trace";

/// Steps in order, each with its time.
type Marks = Vec<(String, Duration)>;

pub(super) fn trace(_floor: &Samples) {
    agent::use_failpoints();
    let manifest = "version: 1\nworkloads:\n  hog:\n    command: [/bin/floor, stamp, /tmp/stamps, hog]\n    user: web\n    \
         cgroup: { memory.max: 16M }\n    recovery: { backoff: off, budget: off }\n  \
         still:\n    command: [/bin/floor, stamp, /tmp/started]\n    user: web\n    \
         cgroup: { memory.max: 64M }\n    stop: { signal: SIGKILL }\n";
    let agent = Agent::start_daemon_with(manifest, &[("ENFORCER_TRACE", TRACE)]);
    wait_within(Duration::from_secs(600), "restarts", || {
        let stamps = fs::read_to_string(STAMPS).ok()?;
        let firsts = stamps.lines().filter(|line| line.starts_with("first "));
        (firsts.count() > RESTARTS).then_some(())
    });
    assert!(agent.cli(&["stop", "hog"]).status.success());
    let steps = marks(TRACE);
    let stamps = marks(STAMPS);
    let lives = stamps.windows(2).filter_map(|pair| match pair {
        [(last, from), (first, to)] => {
            ((last.as_str(), first.as_str()) == ("last", "first")).then_some((*from, *to))
        }
        _ => None,
    });
    print(
        "restarts",
        "the last sign of life",
        lives.map(|life| steps_within(&steps, life)),
    );
    let starts: Vec<_> = (0..STARTS).map(|_| start(&agent)).collect();
    print("starts", "the command is asked for", starts.into_iter());
}

/// Starts a stopped workload by a command. Returns the steps of the command and of the agent.
fn start(agent: &Agent) -> Marks {
    assert!(agent.cli(&["stop", "still"]).status.success());
    let firsts = marks(STARTED).len();
    fs::write(TRACE, "").unwrap();
    let from = monotonic();
    assert!(
        agent
            .cli_with(&["start", "still"], &[("ENFORCER_TRACE", TRACE)])
            .status
            .success()
    );
    let to = monotonic();
    let (_, first) = wait_for("the start", || marks(STARTED).get(firsts).cloned());
    let mut steps = marks(TRACE);
    steps.push(("first instruction".to_owned(), first));
    steps.push(("command returned".to_owned(), to));
    steps.sort_by_key(|(_, at)| *at);
    let since = steps
        .into_iter()
        .map(|(name, at)| (name, at.saturating_sub(from)));
    since.collect()
}

/// Returns the steps between two times, as times after the first of them.
fn steps_within(steps: &Marks, (from, to): (Duration, Duration)) -> Marks {
    let within = steps.iter().filter(|(_, at)| *at > from && *at <= to);
    let mut found: Marks = within
        .map(|(name, at)| (name.clone(), *at - from))
        .collect();
    found.push(("first instruction".to_owned(), to - from));
    found
}

/// Prints the median times of those that took the same steps in the same order, for the two most
/// frequent orders.
fn print(what: &str, after: &str, all: impl Iterator<Item = Marks>) {
    let mut kinds: BTreeMap<Vec<String>, Vec<Vec<Duration>>> = BTreeMap::new();
    for marks in all {
        let (names, times) = marks.into_iter().unzip();
        kinds.entry(names).or_default().push(times);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, times)| std::cmp::Reverse(times.len()));
    for (names, all) in kinds.into_iter().take(2) {
        println!("{} {what} by these steps, after {after}:", all.len());
        let mut before = Duration::ZERO;
        for (place, name) in names.iter().enumerate() {
            let times = Samples::of(all.iter().map(|times| times[place]).collect());
            let median = times.median();
            println!(
                "  {name:<20} {:8.2} ms  (+{:.2})",
                median.as_secs_f64() * 1e3,
                median.saturating_sub(before).as_secs_f64() * 1e3
            );
            before = median;
        }
    }
}

fn marks(file: &str) -> Marks {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mark = |line: &str| {
        let (name, nanos) = line.split_once(' ')?;
        Some((name.to_owned(), Duration::from_nanos(nanos.parse().ok()?)))
    };
    text.lines().filter_map(mark).collect()
}
