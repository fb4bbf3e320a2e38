//! The history: it has every event once and in order, whatever kills the agent, fills its disk or
//! damages its file.

use crate::{manifest, workload};
use enforcer_model::detail::{AgentChange, AgentState, Degraded, Exit, Kind, Lost};
use enforcer_model::ids::InstanceId;
use enforcer_model::oom::{Incident, OomSource};
use enforcer_model::{Record, WorkloadState};
use enforcer_tests::agent::{Agent, command};
use enforcer_tests::{kernel, wait_for, wait_within};
use nix::mount::{MsFlags, mount, umount};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn seqs(events: &[Record]) -> Vec<u64> {
    events.iter().map(|event| event.seq.0).collect()
}

/// Returns how often the agents were in this state.
fn changes(agent: &Agent, state: AgentState) -> usize {
    let changes = agent.all_events::<AgentChange>().into_iter();
    changes
        .filter(|change| change.details.state == state)
        .count()
}

/// In order, and each once.
fn assert_in_order(events: &[Record]) {
    let seqs = seqs(events);
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
}

#[test]
fn the_last_events_of_a_dead_agent_are_reported_by_the_next() {
    let more = "recovery: { backoff: { initial: 50ms, max: 50ms }, budget: off }";
    let mut agent = Agent::start_daemon(&manifest(&workload("crasher", "crash 3", more)));
    let mut known = BTreeSet::new();
    for _ in 0..5 {
        wait_for("news", || {
            let new = agent.history();
            (new.len() > known.len() + 4).then_some(())
        });
        let reported = agent.history();
        assert_in_order(&reported);
        let missing: Vec<_> = known
            .difference(&seqs(&reported).into_iter().collect())
            .copied()
            .collect();
        assert!(missing.is_empty(), "{missing:?} were reported before");
        known.extend(seqs(&reported));
        agent.start_again();
    }
    // Every exit has its start, however many agents there were.
    let reported = agent.history();
    let instances = |kind: Kind| -> Vec<Option<InstanceId>> {
        let of_kind = reported.iter();
        let of_kind = of_kind.filter(|event| event.detail.known_kind() == Some(kind));
        of_kind.map(|event| event.instance).collect()
    };
    let (starts, exits) = (instances(Kind::Start), instances(Kind::Exit));
    let unique: BTreeSet<_> = exits.iter().collect();
    assert_eq!(
        unique.len(),
        exits.len(),
        "an exit was reported twice: {exits:?}"
    );
    let started: BTreeSet<_> = starts.iter().collect();
    assert_eq!(
        started.len(),
        starts.len(),
        "a start was reported twice: {starts:?}"
    );
    assert!(unique.is_subset(&started), "{exits:?} without {starts:?}");
    wait_for("five agents to have said that they took over", || {
        (changes(&agent, AgentState::TookOver) == 5).then_some(())
    });
}

#[test]
fn hundreds_of_oom_kills_over_many_agents_are_reported_without_a_gap() {
    fs::remove_file("/tmp/starts").ok();
    let limits = "cgroup: { memory.max: 8M }\nrecovery: { backoff: off, budget: off }";
    let text = manifest(&workload("hog", "hog-times 120 /tmp/starts", limits));
    let mut agent = Agent::start_daemon(&text);
    let killed = || kernel::field("hog", "memory.events", "oom_kill");
    let mut deaths = 0;
    for until in (20..120).step_by(20) {
        wait_within(Duration::from_secs(120), "more kills", || {
            (killed()? >= until).then_some(())
        });
        agent.start_again();
        deaths += 1;
    }
    wait_within(Duration::from_secs(120), "the last restart", || {
        let view = agent.workload("hog");
        (view.restarts >= 120 && view.state == WorkloadState::Running).then_some(())
    });
    let reported = agent.events::<Incident>("hog");
    let mut counted = 0;
    for incident in &reported {
        let details = &incident.details;
        assert_eq!(
            details.counter_before, counted,
            "a gap or an overlap: {incident:#?}"
        );
        counted = details.counter_after;
    }
    assert_eq!(
        kernel::field("hog", "memory.events", "oom_kill"),
        Some(counted)
    );
    let by = |source: OomSource| {
        reported
            .iter()
            .filter(|incident| incident.details.source == source)
            .count()
    };
    println!(
        "{deaths} agents died; {} by eBPF, {} by counters, {} recovered",
        by(OomSource::Ebpf),
        by(OomSource::Counters),
        by(OomSource::Recovered)
    );
    let exits = agent.events::<Exit>("hog");
    assert!(exits.iter().all(|exit| exit.details.oom_killed));
    // One that is killed before it has counted its start is killed once more.
    assert!(exits.len() >= 120, "{}", exits.len());
    assert_eq!(exits.len(), reported.len());
}

#[test]
fn a_full_disk_stops_nothing_and_loses_nothing() {
    let disk = "/tmp/small";
    fs::create_dir_all(disk).unwrap();
    mount(
        Some("tmpfs"),
        disk,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=2M"),
    )
    .unwrap();
    {
        let more = "recovery: { backoff: { initial: 50ms, max: 50ms }, budget: off }";
        let text = manifest(&workload("crasher", "crash 3", more));
        let agent = Agent::start_with(&text, &["--state-dir", disk]);
        agent.wait_for_events::<Exit>("crasher", 2);
        let filler = Path::new(disk).join("filler");
        let mut much = fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut much, &[7; 4096]).is_ok() {}
        drop(much);
        let degraded = wait_for("it to be reported", || {
            let mut faults = agent.all_events::<Degraded>().into_iter();
            faults.find(|fault| fault.details.what == "history")
        });
        let why = degraded.details.why;
        assert!(why.contains("full"), "{why}");
        let before = agent.workload("crasher").restarts;
        wait_for("restarts to go on", || {
            (agent.workload("crasher").restarts > before + 5).then_some(())
        });
        fs::remove_file(filler).unwrap();
        wait_for("it to be written again", || {
            (changes(&agent, AgentState::HistoryResumed) > 0).then_some(())
        });
        assert!(agent.all_events::<Lost>().is_empty());
        assert_in_order(&agent.history());
    }
    umount(disk).unwrap();
}

#[test]
fn a_damaged_history_is_set_aside_and_reported() {
    let mut agent = Agent::start_daemon(&manifest(&workload("web", "rest", "")));
    let view = agent.wait_for_state("web", WorkloadState::Running);
    agent.kill();
    let folder = agent.folder().join("state");
    fs::write(folder.join("history.db"), [7; 20_000]).unwrap();
    // What is still in the log would mend it.
    for part in ["history.db-wal", "history.db-shm"] {
        let _ = fs::remove_file(folder.join(part));
    }
    agent.start_again();
    wait_for("it to be reported", || {
        let mut faults = agent.all_events::<Degraded>().into_iter();
        let fault = faults.find(|fault| fault.details.what == "history")?;
        fault.details.why.contains("set aside as").then_some(())
    });
    assert_eq!(
        agent.wait_for_state("web", WorkloadState::Running).pid,
        view.pid
    );
    let names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.starts_with("history.damaged-")),
        "{names:?}"
    );
}

#[test]
fn why_reports_the_chain_behind_a_restart() {
    let limits = "cgroup: { memory.max: 8M }\nrecovery: { backoff: { initial: 10m, max: 10m } }";
    let agent = Agent::start(&manifest(&workload("hog", "hog", limits)));
    agent.wait_for_state("hog", WorkloadState::BackingOff);
    let reported = agent.cli(&["why", "hog"]);
    let text = String::from_utf8_lossy(&reported.stdout).into_owned();
    println!("{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].contains("8M"), "{text}");
    assert!(lines[1].contains("└─ "), "{text}");
    assert!(lines[2].contains("restart"), "{text}");
    assert!(lines[3].starts_with("now: backing_off"), "{text}");
    assert!(lines[4].starts_with("next: attempt in "), "{text}");
    assert!(lines[4].contains("2 of 5 restarts used"), "{text}");
    let nobody = agent.cli(&["why", "nobody"]);
    assert_eq!(nobody.status.code(), Some(4), "{nobody:?}");
}

#[test]
fn events_are_found_by_time_kind_and_number_and_followed() {
    let more = "recovery: { backoff: { initial: 50ms, max: 50ms }, budget: off }";
    let agent = Agent::start(&manifest(&workload("crasher", "crash 3", more)));
    agent.wait_for_events::<Exit>("crasher", 3);
    let lines = |arguments: &[&str]| {
        let output = agent.cli(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert_eq!(lines(&["events", "--last", "2"]), 2);
    assert!(lines(&["events", "--kind", "exit"]) >= 3);
    assert_eq!(lines(&["events", "--workload", "nobody"]), 0);
    assert_eq!(lines(&["events", "--until", "1h"]), 0);
    assert!(lines(&["events", "--since", "1h", "--json"]) >= 5);
    let wrong = agent.cli(&["events", "--since", "yesterday"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    // What is followed goes on while it happens.
    let last = seqs(&agent.history()).into_iter().max().unwrap();
    let followed = agent.read_lines(&format!("/v1/events/stream?after={last}&kind=exit"), 3);
    let followed: Vec<Record> = followed
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        followed
            .iter()
            .all(|event| event.detail.known_kind() == Some(Kind::Exit) && event.seq.0 > last)
    );
    assert_in_order(&followed);
}

#[test]
fn a_follower_gets_the_events_of_the_next_agent() {
    let mut agent = Agent::start_daemon(&manifest(&workload("web", "rest", "")));
    agent.wait_for_state("web", WorkloadState::Running);
    let mut following = command(agent.folder())
        .args(["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut seqs = lines.map(|line| {
        let event: Record = serde_json::from_str(&line.unwrap()).unwrap();
        (event.seq.0, event.detail.known_kind())
    });
    let before = seqs.find(|(_, kind)| *kind == Some(Kind::Start)).unwrap().0;
    agent.kill();
    agent.start_again();
    assert!(agent.cli(&["restart", "web"]).status.success());
    // Everything since, each once: the next one is the next number.
    let mut expected = before;
    let started = seqs.find(|(seq, kind)| {
        expected += 1;
        assert_eq!(*seq, expected, "{kind:?}");
        *kind == Some(Kind::Start)
    });
    assert!(started.is_some());
    following.kill().unwrap();
    following.wait().unwrap();
}
