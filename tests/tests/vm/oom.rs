//! OOM kills: seen through eBPF, counted by the kernel, told once and truly.

use crate::{manifest, workload};
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, wait_for, wait_within};
use serde_json::Value;

const TINY: &str = "cgroup: { memory.max: 8M }\nrecovery: { backoff: off, budget: off }";

fn range(incident: &Value) -> (u64, u64) {
    let number = |key: &str| incident["details"][key].as_u64().unwrap();
    (number("counter_before"), number("counter_after"))
}

/// The ranges join without gaps, and end where the kernel's counter stands.
fn assert_books_closed(workload: &str, incidents: &[Value]) {
    let mut counted = 0;
    for incident in incidents {
        let (before, after) = range(incident);
        assert_eq!(before, counted, "a gap or an overlap: {incident:#}");
        assert!(after > before, "an incident of nothing: {incident:#}");
        counted = after;
    }
    assert_eq!(
        kernel::field(workload, "memory.events", "oom_kill"),
        Some(counted)
    );
}

fn two_hundred(arguments: &[&str]) -> Vec<Value> {
    // Before anything is counted in it.
    std::fs::remove_file("/tmp/starts").ok();
    let agent = Agent::start_with(
        &manifest(&workload("hog", "hog-times 200 /tmp/starts", TINY)),
        arguments,
    );
    // A busy host takes its time for them.
    let minutes = std::time::Duration::from_secs(240);
    wait_within(minutes, "the two hundredth restart", || {
        let view = agent.workload("hog");
        (view["restarts"].as_u64()? >= 200 && view["state"] == "running").then_some(())
    });
    let incidents = agent.events("hog", "oom_kill");
    assert_books_closed("hog", &incidents);
    assert_eq!(agent.workload("hog")["oom_kills"], 200);
    // Each exit stands behind its incident, and names it as its cause.
    for (incident, exit) in incidents.iter().zip(agent.events("hog", "exit")) {
        assert_eq!(exit["details"]["oom_killed"], true, "{exit:#}");
        assert_eq!(exit["caused_by"], incident["seq"], "{exit:#}");
    }
    incidents
}

fn told_by<'a>(incidents: &'a [Value], source: &'a str) -> impl Iterator<Item = &'a Value> {
    incidents
        .iter()
        .filter(move |incident| incident["details"]["source"] == source)
}

#[test]
fn two_hundred_kills_are_two_hundred_incidents_told_by_ebpf() {
    let incidents = two_hundred(&[]);
    assert_eq!(incidents.len(), 200);
    let by_ebpf = told_by(&incidents, "ebpf").count();
    println!("{by_ebpf} of 200 were told by eBPF");
    assert!(by_ebpf >= 198);
    for incident in told_by(&incidents, "ebpf") {
        let details = &incident["details"];
        let victim = &details["victims"][0];
        assert_eq!(victim["command"], "fixture", "{incident:#}");
        assert!(
            victim["rss_bytes"].as_u64().unwrap() > 4 << 20,
            "{incident:#}"
        );
        assert_eq!(details["scope"], "own", "{incident:#}");
        assert_eq!(details["limit_bytes"], 8 << 20, "{incident:#}");
    }
}

#[test]
fn without_ebpf_the_counters_tell_all_of_them() {
    let incidents = two_hundred(&["--ebpf", "off"]);
    assert_eq!(told_by(&incidents, "counters").count(), incidents.len());
    assert_eq!(incidents.len(), 200);
}

#[test]
fn the_old_layout_of_the_tracepoint_still_names_the_victim() {
    let agent = Agent::start_with(&manifest(&workload("hog", "hog", TINY)), &["--ebpf", "pid"]);
    let incidents = agent.wait_for_events("hog", "oom_kill", 20);
    let named = told_by(&incidents, "ebpf")
        .filter(|incident| incident["details"]["victims"][0]["command"] == "fixture");
    let count = named.count();
    println!("{count} of {} were named", incidents.len());
    assert!(count * 10 >= incidents.len() * 9);
}

#[test]
fn without_ebpf_it_says_that_it_is_degraded_and_why() {
    let agent = Agent::start_with(&manifest(&workload("rest", "rest", "")), &["--ebpf", "off"]);
    let degraded = wait_for("the event", || {
        let all = agent.get("/v1/events")?;
        let mut events = all.as_array()?.iter();
        events.find(|event| event["kind"] == "degraded").cloned()
    });
    assert_eq!(degraded["details"]["what"], "ebpf");
    assert!(
        degraded["details"]["why"]
            .as_str()
            .unwrap()
            .contains("switched off"),
        "{degraded:#}"
    );
}

#[test]
fn a_childs_kill_leaves_the_parent_alone_without_a_group() {
    let more = "cgroup: { memory.max: 16M, memory.oom.group: false }";
    let agent = Agent::start(&manifest(&workload("family", "child-hog", more)));
    let incident = agent.wait_for_events("family", "oom_kill", 1).remove(0);
    let view = agent.workload("family");
    assert_eq!(view["state"], "running");
    assert_eq!(view["restarts"], 0);
    assert_eq!(incident["details"]["group"], false);
    assert_eq!(incident["details"]["victims"].as_array().unwrap().len(), 1);
    assert_ne!(incident["details"]["victims"][0]["pid"], view["pid"]);
    assert_books_closed("family", &agent.events("family", "oom_kill"));
}

#[test]
fn a_childs_kill_takes_the_whole_group() {
    let more = "cgroup: { memory.max: 16M }\nrecovery: { backoff: { initial: 1h, max: 1h } }";
    let agent = Agent::start(&manifest(&workload("family", "child-hog", more)));
    // The second one waits for an hour, so that the books stand still.
    agent.wait_for_state("family", "backing_off");
    let incidents = agent.events("family", "oom_kill");
    assert_eq!(incidents.len(), 2, "{incidents:#?}");
    for incident in &incidents {
        assert_eq!(incident["details"]["group"], true, "{incident:#}");
        assert_eq!(
            incident["details"]["victims"].as_array().unwrap().len(),
            2,
            "{incident:#}"
        );
    }
    assert_books_closed("family", &incidents);
    let exits = agent.events("family", "exit");
    assert!(
        exits
            .iter()
            .all(|exit| exit["details"]["oom_killed"] == true),
        "{exits:#?}"
    );
}

#[test]
fn a_kill_from_outside_is_not_called_oom() {
    let agent = Agent::start(&manifest(&workload(
        "calm",
        "rest",
        "cgroup: { memory.max: 16M }",
    )));
    let pid = agent.wait_for_state("calm", "running")["pid"]
        .as_i64()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let exit = agent.wait_for_events("calm", "exit", 1).remove(0);
    assert_eq!(exit["details"]["signal"], 9);
    assert_eq!(exit["details"]["oom_killed"], false);
    assert!(agent.events("calm", "oom_kill").is_empty());
    let restart = agent.wait_for_events("calm", "restart", 1).remove(0);
    assert_eq!(restart["reason"], "exit");
}

#[test]
fn only_the_offender_dies() {
    let calm = workload("calm", "hog 8", "cgroup: { memory.max: 64M }");
    let agent = Agent::start(&manifest(&(calm + &workload("hog", "hog", TINY))));
    let before = agent.wait_for_state("calm", "running");
    agent.wait_for_events("hog", "oom_kill", 5);
    let after = agent.workload("calm");
    assert_eq!(before["pid"], after["pid"]);
    assert_eq!(after["oom_kills"], 0);
    assert_eq!(kernel::field("calm", "memory.events", "oom_kill"), Some(0));
}

#[test]
fn an_ancestors_limit_is_told_as_the_ancestors() {
    let hogs = workload(
        "greedy",
        "hog",
        "cgroup: { memory.max: 512M }\nrecovery: { restart: never }",
    );
    let agent = Agent::start(&format!(
        "version: 1\nhost:\n  cgroup: {{ memory.max: 48M }}\nworkloads:\n{hogs}"
    ));
    let incident = agent.wait_for_events("greedy", "oom_kill", 1).remove(0);
    assert_eq!(incident["details"]["scope"], "ancestor", "{incident:#}");
    assert_eq!(
        incident["details"]["cgroup"],
        kernel::workloads().to_str().unwrap()
    );
    assert_eq!(incident["details"]["limit_bytes"], 48 << 20);
}

#[test]
fn the_hosts_shortage_is_told_as_the_hosts() {
    // The ceilings give way to what the host really has.
    let more = "cgroup: { memory.swap.max: 0 }\npriority: 0\nrecovery: { restart: never }";
    let agent = Agent::start(&format!(
        "version: 1\nhost:\n  reserve: {{ memory: 0 }}\nworkloads:\n{}",
        workload("greedy", "hog", more)
    ));
    let incident = agent.wait_for_events("greedy", "oom_kill", 1).remove(0);
    assert_eq!(incident["details"]["scope"], "host", "{incident:#}");
    assert_eq!(incident["details"]["limit_bytes"], Value::Null);
}

#[test]
fn the_live_line_reads_as_a_sentence() {
    let agent = Agent::start(&manifest(&workload("hog", "hog", TINY)));
    agent.wait_for_events("hog", "oom_kill", 1);
    let line = wait_for("the line", || {
        agent
            .lines()
            .lines()
            .find(|line| line.contains("OOM kill"))
            .map(str::to_owned)
    });
    assert!(line.starts_with("hog: OOM kill: fixture (pid "), "{line}");
    assert!(
        line.ends_with(" of its 8M limit; restarting now (oom_kill), attempt 1"),
        "{line}"
    );
}
