//! Many at once: half of a thousand fail in one moment, and two hundred probes hang.
//! Their number depends on this machine's memory.

use crate::{manifest, until_it_listens, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{HealthChange, RestartPlan, Start};
use enforcer_model::health::Health;
use enforcer_model::requests::{AgentStatus, Readiness};
use enforcer_model::views::WorkloadView;
use enforcer_tests::agent::{Agent, send};
use enforcer_tests::{kernel, slowness, wait_within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(500);
/// How often something is said meanwhile.
const SAY: Duration = Duration::from_secs(30);

/// A thousand where there are 3 GB, else two hundred.
fn many() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.split_whitespace().nth(1).unwrap();
    if total.parse::<u64>().unwrap() > 2 << 20 {
        1000
    } else {
        200
    }
}

/// Past the harness, which keeps what a test says until it fails: a machine that is
/// silent for minutes is taken for dead.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Every workload, by name.
fn views(agent: &Agent) -> BTreeMap<String, WorkloadView> {
    let found = agent.workloads().into_iter();
    found.map(|view| (view.name.to_string(), view)).collect()
}

/// Waits until so many are ready, and then until all are good. Whether they are ready
/// is cheap to ask; everything else is a dozen files each, and would be the load.
fn wait_until_all(
    agent: &Agent,
    what: &str,
    ready: usize,
    good: impl Fn(&WorkloadView) -> bool,
) -> BTreeMap<String, WorkloadView> {
    let mut said = Instant::now();
    wait_within(LONG, what, || {
        let Readiness { workloads } = agent.get("/v1/ready")?;
        let now = workloads.values().filter(|ready| **ready).count();
        if said.elapsed() > SAY {
            said = Instant::now();
            say(&format!("{now} of {ready} are ready"));
        }
        if now != ready {
            return None;
        }
        let views = views(agent);
        views.values().all(&good).then_some(views)
    })
}

#[test]
fn half_of_all_fail_at_once_and_come_back_in_order() {
    let many = many();
    let control = format!(
        "priority: 100
        probes: {{ {}, liveness: {{ tcp: {{ port: 9040 }}, period: 500ms, timeout: 60s, failure_threshold: 3 }} }}",
        until_it_listens(9040)
    );
    let mut text = workload("control", "serve 9040", &control);
    for number in 0..many {
        let priority = if number % 4 == 0 { 80 } else { 20 };
        text.push_str(&workload(
            &format!("w{number}"),
            "rest",
            &format!("priority: {priority}"),
        ));
    }
    let agent = Agent::start(&manifest(&text));
    let before = wait_until_all(&agent, "all to run", many + 1, |view| {
        view.state == WorkloadState::Running
    });
    say(&format!(
        "{many} workloads run; the agent has {}",
        kernel::status(agent.pid(), "VmRSS").unwrap()
    ));
    let victims: Vec<&str> = before
        .keys()
        .filter(|name| name.starts_with('w'))
        .map(String::as_str)
        .take(many / 2)
        .collect();
    // In one moment, as the agent sees it.
    let held = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    kill(held, Signal::SIGSTOP).unwrap();
    for name in &victims {
        send(&before[*name], Signal::SIGKILL);
    }
    kill(held, Signal::SIGCONT).unwrap();
    let after = wait_until_all(&agent, "all to be back", many + 1, |view| {
        let killed = victims.contains(&view.name.to_string().as_str());
        view.state == WorkloadState::Running && view.restarts == u64::from(killed)
    });
    for (name, view) in &after {
        let killed = victims.contains(&name.as_str());
        assert_eq!(view.restarts, u64::from(killed), "{name}");
        assert_eq!(view.pid != before[name].pid, killed, "{name}");
    }
    // The important ones first. While the agent still reads who has gone, places are
    // free for the request that it has read; what waits in line is in order.
    let events = agent.all_events::<Start>();
    let names = events.iter().filter_map(|event| event.workload.as_ref());
    let starts: Vec<String> = names.map(ToString::to_string).collect();
    let starts: Vec<&str> = starts.iter().map(String::as_str).collect();
    let again = &starts[starts.len() - victims.len()..];
    let important = |name: &&str| {
        name[1..]
            .parse::<usize>()
            .is_ok_and(|number| number % 4 == 0)
    };
    let half = &again[..again.len() / 2];
    let early = half.iter().filter(|name| important(name)).count();
    let total = again.iter().filter(|name| important(name)).count();
    say(&format!(
        "{early} of {total} important ones were back in the first half"
    ));
    assert!(early * 10 >= total * 8, "{early} of {total}");
    // Whoever had nothing to do with it was asked in time, and never ill. How late is
    // reported, not judged: that depends on this machine.
    assert!(agent.events::<RestartPlan>("control").is_empty());
    let AgentStatus { probes, .. } = agent.get("/v1/agent").unwrap();
    say(&format!("probes: {probes:?}"));
    let health = agent.events::<HealthChange>("control");
    let ill = health
        .iter()
        .find(|event| event.details.to == Health::Unhealthy);
    assert!(ill.is_none(), "{ill:?}");
    wait_within(LONG, "control to be healthy", || {
        (agent.workload("control").health == Health::Healthy).then_some(())
    });
}

#[test]
fn probes_that_hang_delay_none_that_do_not() {
    // Two hundred hung ones are enough: one after another they would keep the others waiting for more than
    // an hour. More only take longer to start.
    let half = many().min(400) / 2;
    let long = Duration::from_secs(25).mul_f64(slowness()).as_secs();
    let probe = |port: u16, path: &str, seconds: u64| {
        format!(
            "probes: {{ readiness: {{ http: {{ port: {port}, path: {path} }}, period: {}s, timeout: {seconds}s, failure_threshold: 1 }} }}",
            long + 5
        )
    };
    let mut text = workload("hung", "serve 9041", "priority: 100");
    text.push_str(&workload("good", "serve 9042", "priority: 100"));
    // Nobody is asked before it listens.
    let agent = Agent::start(&manifest(&text));
    for name in ["hung", "good"] {
        agent.wait_for_output(name, "listening on");
    }
    for number in 0..half {
        text.push_str(&workload(
            &format!("h{number}"),
            "rest",
            &probe(9041, "/hang", 2),
        ));
        text.push_str(&workload(
            &format!("g{number}"),
            "rest",
            &probe(9042, "/health", long),
        ));
    }
    agent.write_manifest(&manifest(&text));
    assert!(agent.cli(&["apply"]).status.success());
    let views = wait_until_all(
        &agent,
        "every probe to have answered",
        half + 2,
        |view| match view.name.to_string().as_bytes() {
            [b'h', digit, ..] if digit.is_ascii_digit() => view.health == Health::Degraded,
            [b'g', digit, ..] if digit.is_ascii_digit() => view.health == Health::Healthy,
            _ => view.state == WorkloadState::Running,
        },
    );
    let ready = views.values().filter(|view| view.ready).count();
    assert_eq!(ready, half + 2);
    let AgentStatus { probes, .. } = agent.get("/v1/agent").unwrap();
    say(&format!("{half} hung, {half} well: {probes:?}"));
    let mut changes: BTreeMap<String, usize> = BTreeMap::new();
    for event in agent.all_events::<HealthChange>() {
        if let Some(name) = event.workload {
            *changes.entry(name.to_string()).or_default() += 1;
        }
    }
    let good = |name: &str| name.starts_with('g') && name != "good";
    let late = changes
        .iter()
        .filter(|(name, changes)| good(name) && **changes > 1)
        .count();
    say(&format!("{late} of {half} good ones were late once"));
    assert!(late * 10 <= half, "{late} of {half}");
}
