//! OOM kills: seen through eBPF, counted by the kernel, reported once and truly.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Degraded, Exit, RestartPlan};
use enforcer_model::ids::Cause;
use enforcer_model::oom::{Incident, OomSource, Scope};
use enforcer_model::units::Bytes;
use enforcer_tests::agent::{Agent, Event, pid_of, send};
use enforcer_tests::{kernel, wait_for, wait_within};

const TINY: &str = "cgroup: { memory.max: 8M }\nrecovery: { backoff: off, budget: off }";

/// The ranges join without gaps, and end where the kernel's counter stands.
fn assert_books_closed(workload: &str, incidents: &[Event<Incident>]) {
    let mut counted = 0;
    for incident in incidents {
        let (before, after) = (
            incident.details.counter_before,
            incident.details.counter_after,
        );
        assert_eq!(before, counted, "a gap or an overlap: {incident:#?}");
        assert!(after > before, "an incident of nothing: {incident:#?}");
        counted = after;
    }
    assert_eq!(
        kernel::field(workload, "memory.events", "oom_kill"),
        Some(counted)
    );
}

/// The number of kills that find a gap in the books.
const SOME: u64 = 40;

/// The number that was asked for on the main kernel, and some on the others.
fn many() -> u64 {
    if kernel::release().starts_with("6.12.") {
        100
    } else {
        SOME
    }
}

/// Has a workload be killed many times, and returns its incidents.
fn kill(many: u64, arguments: &[&str]) -> Vec<Event<Incident>> {
    // Before anything is counted in it.
    std::fs::remove_file("/tmp/starts").ok();
    let agent = Agent::start_with(
        &manifest(&workload(
            "hog",
            &format!("hog-times {many} /tmp/starts"),
            TINY,
        )),
        arguments,
    );
    // A busy host takes its time for them.
    let minutes = std::time::Duration::from_secs(240);
    wait_within(minutes, "the last restart", || {
        let view = agent.workload("hog");
        (view.restarts >= many && view.state == WorkloadState::Running).then_some(())
    });
    let incidents = agent.events::<Incident>("hog");
    assert_books_closed("hog", &incidents);
    assert_eq!(agent.workload("hog").oom_kills, many);
    assert_eq!(u64::try_from(incidents.len()).unwrap(), many);
    // Each exit stands behind its incident, and names it as its cause.
    for (incident, exit) in incidents.iter().zip(agent.events::<Exit>("hog")) {
        assert!(exit.details.oom_killed, "{exit:#?}");
        assert_eq!(exit.caused_by, Some(incident.seq), "{exit:#?}");
    }
    incidents
}

fn reported_by(
    incidents: &[Event<Incident>],
    source: OomSource,
) -> impl Iterator<Item = &Event<Incident>> {
    let of_it = move |incident: &&Event<Incident>| incident.details.source == source;
    incidents.iter().filter(of_it)
}

#[test]
fn each_of_many_kills_is_an_incident_reported_by_ebpf() {
    let incidents = kill(many(), &[]);
    let by_ebpf = reported_by(&incidents, OomSource::Ebpf).count();
    println!("{by_ebpf} of {} were reported by eBPF", incidents.len());
    let unnamed = incidents.len() - by_ebpf;
    assert!(unnamed <= incidents.len().div_ceil(100));
    for incident in reported_by(&incidents, OomSource::Ebpf) {
        let details = &incident.details;
        let victim = &details.victims[0];
        assert_eq!(victim.command, "fixture", "{incident:#?}");
        assert!(victim.rss_bytes > Bytes(4 << 20), "{incident:#?}");
        assert_eq!(details.scope, Scope::Own, "{incident:#?}");
        assert_eq!(details.limit_bytes, Some(Bytes(8 << 20)), "{incident:#?}");
    }
}

#[test]
fn without_ebpf_the_counters_report_all_of_them() {
    let incidents = kill(SOME, &["--ebpf", "off"]);
    assert_eq!(
        reported_by(&incidents, OomSource::Counters).count(),
        incidents.len()
    );
}

#[test]
fn the_old_layout_of_the_tracepoint_still_names_the_victim() {
    let agent = Agent::start_with(&manifest(&workload("hog", "hog", TINY)), &["--ebpf", "pid"]);
    let incidents = agent.wait_for_events::<Incident>("hog", 20);
    let named = reported_by(&incidents, OomSource::Ebpf)
        .filter(|incident| incident.details.victims[0].command == "fixture");
    let count = named.count();
    println!("{count} of {} were named", incidents.len());
    assert!(count * 10 >= incidents.len() * 9);
}

#[test]
fn without_ebpf_it_says_that_it_is_degraded_and_why() {
    let agent = Agent::start_with(&manifest(&workload("rest", "rest", "")), &["--ebpf", "off"]);
    let degraded = wait_for("the event", || {
        agent.all_events::<Degraded>().into_iter().next()
    });
    assert_eq!(degraded.details.what, "ebpf");
    assert!(
        degraded.details.why.contains("switched off"),
        "{degraded:#?}"
    );
}

#[test]
fn a_childs_kill_leaves_the_parent_alone_without_a_group() {
    let more = "cgroup: { memory.max: 16M, memory.oom.group: false }";
    let agent = Agent::start(&manifest(&workload("family", "child-hog", more)));
    let incident = agent.wait_for_event::<Incident>("family");
    let view = agent.workload("family");
    assert_eq!(view.state, WorkloadState::Running);
    assert_eq!(view.restarts, 0);
    assert!(!incident.details.group);
    assert_eq!(incident.details.victims.len(), 1);
    assert_ne!(incident.details.victims[0].pid, pid_of(&view));
    assert_books_closed("family", &agent.events::<Incident>("family"));
}

#[test]
fn a_childs_kill_takes_the_whole_group() {
    let more = "cgroup: { memory.max: 16M }\nrecovery: { backoff: { initial: 1h, max: 1h } }";
    let agent = Agent::start(&manifest(&workload("family", "child-hog", more)));
    // The second one waits for an hour, so that the books stand still.
    agent.wait_for_state("family", WorkloadState::BackingOff);
    let incidents = agent.events::<Incident>("family");
    assert_eq!(incidents.len(), 2, "{incidents:#?}");
    for incident in &incidents {
        assert!(incident.details.group, "{incident:#?}");
        assert_eq!(incident.details.victims.len(), 2, "{incident:#?}");
    }
    assert_books_closed("family", &incidents);
    let exits = agent.events::<Exit>("family");
    assert!(
        exits.iter().all(|exit| exit.details.oom_killed),
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
    let view = agent.wait_for_state("calm", WorkloadState::Running);
    send(&view, nix::sys::signal::Signal::SIGKILL);
    let exit = agent.wait_for_event::<Exit>("calm");
    assert_eq!(exit.details.signal, Some(9));
    assert!(!exit.details.oom_killed);
    assert!(agent.events::<Incident>("calm").is_empty());
    let restart = agent.wait_for_event::<RestartPlan>("calm");
    assert_eq!(restart.reason, Some(Cause::Exit));
}

#[test]
fn only_the_offender_dies() {
    let calm = workload("calm", "hog 8", "cgroup: { memory.max: 64M }");
    let agent = Agent::start(&manifest(&(calm + &workload("hog", "hog", TINY))));
    let before = agent.wait_for_state("calm", WorkloadState::Running);
    agent.wait_for_events::<Incident>("hog", 5);
    let after = agent.workload("calm");
    assert_eq!(before.pid, after.pid);
    assert_eq!(after.oom_kills, 0);
    assert_eq!(kernel::field("calm", "memory.events", "oom_kill"), Some(0));
}

#[test]
fn an_ancestors_limit_is_reported_as_the_ancestors() {
    let hogs = workload(
        "greedy",
        "hog",
        "cgroup: { memory.max: 512M }\nrecovery: { restart: never }",
    );
    let agent = Agent::start(&format!(
        "version: 1\nhost:\n  cgroup: {{ memory.max: 48M }}\nworkloads:\n{hogs}"
    ));
    let incident = agent.wait_for_event::<Incident>("greedy");
    let above = kernel::workloads().display().to_string();
    assert_eq!(incident.details.scope, Scope::Ancestor(above));
    assert_eq!(incident.details.limit_bytes, Some(Bytes(48 << 20)));
}

#[test]
fn the_hosts_shortage_is_reported_as_the_hosts() {
    // The ceilings give way to what the host really has.
    let more = "cgroup: { memory.swap.max: 0 }\npriority: 0\nrecovery: { restart: never }";
    let agent = Agent::start(&format!(
        "version: 1\nhost:\n  reserve: {{ memory: 0 }}\nworkloads:\n{}",
        workload("greedy", "hog", more)
    ));
    let incident = agent.wait_for_event::<Incident>("greedy");
    assert_eq!(incident.details.scope, Scope::Host, "{incident:#?}");
    assert_eq!(incident.details.limit_bytes, None);
}

#[test]
fn the_live_line_reads_as_a_sentence() {
    let agent = Agent::start(&manifest(&workload("hog", "hog", TINY)));
    agent.wait_for_events::<Incident>("hog", 1);
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
