//! The steps of a restart after an OOM kill, one by one: when each is passed after the last sign of life.
//!
//! The agent under test is the build with failpoints, which appends a line to a file at each of them.

use super::Samples;
use enforcer_tests::agent::{self, Agent};
use enforcer_tests::wait_within;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const RESTARTS: usize = 60;
const STAMPS: &str = "/tmp/stamps";
const TRACE: &str = "/tmp/trace";

pub(super) fn trace(_floor: &Samples) {
    agent::use_failpoints();
    let manifest = "version: 1\nworkloads:\n  hog:\n    command: [/bin/floor, stamp, /tmp/stamps, hog]\n    user: web\n    \
         cgroup: { memory.max: 16M }\n    recovery: { backoff: off, budget: off }\n";
    let agent = Agent::start_daemon_with(manifest, &[("ENFORCER_TRACE", TRACE)]);
    wait_within(Duration::from_secs(600), "restarts", || {
        let stamps = fs::read_to_string(STAMPS).ok()?;
        let firsts = stamps.lines().filter(|line| line.starts_with("first "));
        (firsts.count() > RESTARTS).then_some(())
    });
    drop(agent);
    let stamps = marks(STAMPS);
    let steps = marks(TRACE);
    // The same steps in the same order, each with its times after the last sign of life.
    let mut kinds: BTreeMap<Vec<String>, Vec<Vec<Duration>>> = BTreeMap::new();
    for pair in stamps.windows(2) {
        let [(last, from), (first, to)] = pair else {
            continue;
        };
        if (last.as_str(), first.as_str()) != ("last", "first") {
            continue;
        }
        let within = steps.iter().filter(|(_, at)| at > from && at <= to);
        let (mut names, mut times): (Vec<_>, Vec<_>) =
            within.map(|(name, at)| (name.clone(), *at - *from)).unzip();
        names.push("first instruction".to_owned());
        times.push(*to - *from);
        kinds.entry(names).or_default().push(times);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, restarts)| std::cmp::Reverse(restarts.len()));
    for (names, restarts) in kinds.into_iter().take(2) {
        println!(
            "{} restarts by these steps, after the last sign of life:",
            restarts.len()
        );
        let mut before = Duration::ZERO;
        for (place, name) in names.iter().enumerate() {
            let times = Samples::of(restarts.iter().map(|times| times[place]).collect());
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

fn marks(file: &str) -> Vec<(String, Duration)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mark = |line: &str| {
        let (name, nanos) = line.split_once(' ')?;
        Some((name.to_owned(), Duration::from_nanos(nanos.parse().ok()?)))
    };
    text.lines().filter_map(mark).collect()
}
