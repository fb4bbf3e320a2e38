//! Measures the agent with a thousand workloads: at rest, under requests, and at a take-over; and
//! ten thousand OOM kills over many agents.

use super::{Samples, many, monotonic};
use enforcer_model::detail::Details;
use enforcer_model::oom::Incident;
use enforcer_model::{Record, WorkloadState};
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_within};
use std::fs;
use std::time::Duration;

pub(super) const LONG: Duration = Duration::from_secs(900);
/// The time at rest.
const QUIET: Duration = Duration::from_secs(60);
/// The request of `ps`.
const ASKED: usize = 20;

/// A rule of each kind. None of them ever holds.
const RULES: &str = "alerts:
  targets: { nobody: { command: [/bin/false] } }
  rules:
    memory: { memory: 85%, for: 2m }
    oom: { event: oom_kill }
    breaker: { state: breaker_open }
    unhealthy: { health: unhealthy, for: 1m }
    disk: { host: { disk: 99% }, for: 10m }
    lost: { event: lost }
";

fn name(number: usize) -> String {
    format!("rest-{number}")
}

pub(super) fn resting(count: usize) -> String {
    let one = |number| {
        let name = name(number);
        format!(
            "  {name}:\n    command: [/bin/fixture, rest]\n    user: web\n    cgroup: {{ memory.max: 16M }}\n"
        )
    };
    let workloads: String = (0..count).map(one).collect();
    format!("version: 1\nhost: {{ starts_at_once: 16 }}\nworkloads:\n{workloads}")
}

pub(super) fn running(agent: &Agent) -> Vec<u32> {
    let workloads = agent.workloads().into_iter();
    let running = workloads.filter(|one| one.state == WorkloadState::Running);
    running.filter_map(|one| one.pid).collect()
}

/// User and system time of a process so far; ticks are hundredths of a second.
pub(super) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

pub(super) fn thousand(_floor: &Samples) {
    let count = many();
    let bare = {
        let begun = monotonic();
        let agent = Agent::start_daemon(&resting(1));
        wait_within(LONG, "one workload", || {
            (running(&agent).len() == 1).then_some(())
        });
        monotonic() - begun
    };
    let begun = monotonic();
    let mut agent = Agent::start_daemon(&resting(count));
    wait_within(LONG, "all of them to run", || {
        (running(&agent).len() == count).then_some(())
    });
    println!(
        "{count} workloads run after {:.1} s; an agent with one after {:.1} s",
        (monotonic() - begun).as_secs_f64(),
        bare.as_secs_f64()
    );
    at_rest(&agent, &format!("{count} at rest"));
    fs::write(agent.folder().join("manifest.yaml"), resting(count) + RULES).unwrap();
    let applied = agent.cli(&["apply"]);
    assert!(applied.status.success(), "{applied:?}");
    at_rest(
        &agent,
        &format!("{count} at rest, with six rules of alerts"),
    );
    asked(&agent, count);
    let mut pids = running(&agent);
    pids.sort_unstable();
    let samples = (0..5).map(|_| {
        agent.kill();
        let begun = monotonic();
        agent.start_again();
        let answered = monotonic() - begun;
        let found = wait_within(LONG, "all of them again", || {
            let found = running(&agent);
            (found.len() == count).then_some(found)
        });
        let mut found = found;
        found.sort_unstable();
        assert_eq!(found, pids, "a process was replaced");
        (answered, monotonic() - begun)
    });
    let (answered, complete): (Vec<_>, Vec<_>) = samples.unzip();
    println!("another agent answers: {}", Samples::of(answered));
    let complete = Samples::of(complete);
    println!("… and has taken over all {count}: {complete}");
    println!(
        "    {:.1} × the start of an agent with one workload",
        complete.median().as_secs_f64() / bare.as_secs_f64()
    );
    at_rest(&agent, &format!("{count} taken over"));
}

fn at_rest(agent: &Agent, what: &str) {
    let pid = agent.pid();
    std::thread::sleep(QUIET / 6);
    let (begun, before) = (monotonic(), cpu_seconds(pid));
    std::thread::sleep(QUIET);
    let share = (cpu_seconds(pid) - before) / (monotonic() - begun).as_secs_f64();
    println!(
        "{what}, for {} s: {:.2} % of an emulated CPU (target 0.5 % of a core); {} resident, at its peak {} (at most 32 MiB)",
        QUIET.as_secs(),
        share * 100.0,
        kernel::status(pid, "VmRSS").unwrap(),
        kernel::status(pid, "VmHWM").unwrap()
    );
}

/// `ps --json`, beside the bare reading of the files that it takes its numbers from.
fn asked(agent: &Agent, count: usize) {
    let time = |mut act: Box<dyn FnMut()>| {
        let times = (0..ASKED).map(|_| {
            let begun = monotonic();
            act();
            monotonic() - begun
        });
        Samples::of(times.collect())
    };
    let files = [
        "memory.current",
        "memory.stat",
        "memory.swap.current",
        "memory.events",
        "cpu.stat",
    ];
    let floor = time(Box::new(move || {
        for number in 0..count {
            for file in files {
                assert!(kernel::read(&name(number), file).is_some());
            }
        }
    }));
    println!("reading {} files of {count} cgroups: {floor}", files.len());
    let samples = (0..ASKED).map(|_| {
        let begun = monotonic();
        let reported = agent.cli(&["ps", "--json"]);
        assert!(reported.status.success() && reported.stdout.len() > count * 100);
        monotonic() - begun
    });
    let reported = Samples::of(samples.collect());
    println!("`enforcer ps --json` of {count}: {reported}");
    println!("    {:.1} × the bare reading", reported.ratio_to(&floor));
}

/// Makes ten thousand OOM kills, and kills the agent after every five hundred. The reported ranges
/// must join up to the kernel's own counter.
pub(super) fn kills(_floor: &Samples) {
    const KILLS: u64 = 10_000;
    fs::remove_file("/tmp/starts").ok();
    let text = format!(
        "version: 1\nworkloads:\n  hog:\n    command: [/bin/fixture, hog-times, \"{KILLS}\", /tmp/starts]\n    user: web\n    \
         cgroup: {{ memory.max: 8M }}\n    recovery: {{ backoff: off, budget: off }}\n"
    );
    let mut agent = Agent::start_daemon(&text);
    let begun = monotonic();
    let restarts = |agent: &Agent| agent.workload("hog").restarts;
    for until in (500..KILLS).step_by(500) {
        wait_within(LONG, "more kills", || {
            (restarts(&agent) >= until).then_some(())
        });
        println!("{until} kills");
        agent.start_again();
    }
    wait_within(LONG, "the last restart", || {
        (restarts(&agent) >= KILLS && agent.workload("hog").state == WorkloadState::Running)
            .then_some(())
    });
    let wall = monotonic() - begun;
    let reported: Vec<Record> = agent.get("/v1/events?kind=oom_kill&last=20000").unwrap();
    let reported: Vec<Incident> = reported
        .into_iter()
        .filter_map(|record| Incident::of(record.detail))
        .collect();
    let mut counted = 0;
    for incident in &reported {
        assert_eq!(incident.counter_before, counted, "{incident:#?}");
        counted = incident.counter_after;
    }
    assert_eq!(
        kernel::field("hog", "memory.events", "oom_kill"),
        Some(counted)
    );
    println!(
        "{KILLS} kills over {} agents in {:.0} s: {} incidents, every increment of the kernel's {counted} explained once",
        KILLS / 500,
        wall.as_secs_f64(),
        reported.len()
    );
}
