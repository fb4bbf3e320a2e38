//! The command line and the socket, as a user and a script meet them.

use crate::{manifest, workload};
use enforcer_model::claims::Throttling;
use enforcer_model::health::Health;
use enforcer_model::oom::Incident;
use enforcer_model::views::{Diagnosis, Grade, Workloads};
use enforcer_model::{Record, WorkloadState};
use enforcer_tests::agent::{self, Agent};
use enforcer_tests::wait_for;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

#[test]
fn the_doctor_finds_this_machine_fit_and_says_what_is_switched_off() {
    let examine = |arguments: &[&str]| {
        let output = agent::command(&agent::folder())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Diagnosis = serde_json::from_slice(&output.stdout).unwrap();
        assert!(answer.fit);
        answer.checks
    };
    for check in examine(&["doctor", "--json"]) {
        // A VM without swap is as good as any.
        assert_eq!(check.grade, Grade::Good, "{check:?}");
    }
    let checks = examine(&["doctor", "--json", "--ebpf", "off"]);
    let ebpf = checks.iter().find(|check| check.what == "eBPF").unwrap();
    assert_eq!(ebpf.grade, Grade::Less);
    assert!(ebpf.found.contains("none is proved"));
    assert!(ebpf.cure.is_some());
}

#[test]
fn an_answer_comes_as_it_was_asked_for() {
    let agent = Agent::start(&manifest(
        &(workload("db", "rest", "") + &workload("web", "rest", "")),
    ));
    agent.wait_for_state("web", WorkloadState::Running);
    agent.wait_for_state("db", WorkloadState::Running);
    let said = |arguments: &[&str]| {
        let output = agent.cli(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&["ps", "-o", "name"]), "db\nweb\n");
    assert_eq!(said(&["status", "web", "-o", "name"]), "web\n");
    assert!(
        said(&["ps", "-o", "wide"])
            .lines()
            .nth(1)
            .unwrap()
            .contains("/workloads/db")
    );
    let yaml = said(&["ps", "-o", "yaml"]);
    assert!(
        yaml.contains("name: web") && yaml.contains("schema: 1"),
        "{yaml}"
    );
    // A program gets one line.
    for arguments in [["ps", "-o", "json"].as_slice(), &["ps", "--json"]] {
        let json = said(arguments);
        assert_eq!(json.lines().count(), 1, "{json}");
        let shown: Keys = serde_json::from_str(&json).unwrap();
        assert_eq!(shown.workloads.len(), 2, "{json}");
    }
    let events = said(&["events", "-o", "yaml", "--last", "2"]);
    assert_eq!(events.matches("---\n").count(), 2, "{events}");
    let nameless = agent.cli(&["events", "-o", "name"]);
    assert_eq!(nameless.status.code(), Some(2), "{nameless:?}");
    assert!(said(&["man"]).contains("Limits, watches and restarts workloads"));
    assert!(said(&["completions", "bash"]).contains("_enforcer"));
}

/// The keys of each workload in an answer.
#[derive(serde::Deserialize)]
struct Keys {
    workloads: Vec<BTreeMap<String, IgnoredAny>>,
}

#[test]
fn ps_has_the_documented_shape() {
    let agent = Agent::start(&manifest(&workload(
        "web",
        "hog 4",
        "cgroup: { memory.max: 64M, memory.swap.max: 1M }",
    )));
    let pid = agent.wait_for_state("web", WorkloadState::Running).pid;
    let output = agent.cli(&["ps", "--json"]);
    let shown: Keys = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<&String> = shown.workloads[0].keys().collect();
    let expected = [
        "cgroup",
        "cpu_percent",
        "cpu_throttled_percent",
        "health",
        "last_exit",
        "memory_bytes",
        "memory_max_bytes",
        "name",
        "oom_kills",
        "pid",
        "ready",
        "reason",
        "restarts",
        "since",
        "state",
        "status_text",
        "swap_bytes",
        "swap_max_bytes",
        "throttle",
        "throttle_cpu_percent",
    ];
    assert_eq!(keys, expected);
    let shown: Workloads = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown.schema, 1);
    let web = &shown.workloads[0];
    assert_eq!(
        (web.name.to_string().as_str(), web.state, web.health),
        ("web", WorkloadState::Running, Health::Unknown)
    );
    assert_eq!(
        (web.pid, web.ready, web.throttle),
        (pid, true, Throttling::None)
    );
    assert_eq!(
        (web.memory_max_bytes, web.swap_max_bytes),
        (Some(64 << 20), Some(1 << 20))
    );
    assert_eq!(
        web.cgroup,
        enforcer_tests::kernel::cgroup("web").to_str().unwrap()
    );
    let table = String::from_utf8(agent.cli(&["ps"]).stdout).unwrap();
    assert!(table.starts_with("NAME  STATE"), "{table}");
}

#[test]
fn exit_codes_are_what_scripts_rely_on() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    agent.wait_for_state("web", WorkloadState::Running);
    for (arguments, code) in [
        (&["ps"][..], 0),
        (&["inspect", "nobody"], 4),
        (&["stop", "nobody"], 4),
        (&["stop", "../x"], 4),
        (&["validate", "/no/such/file"], 1),
        (&["frobnicate"], 2),
        (&["ps", "--socket", "/no/such/socket"], 5),
        (&["stop", "web"], 0),
        (&["stop", "web"], 0),
        (&["start", "web"], 0),
        (&["restart", "web"], 0),
    ] {
        let output = agent.cli(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            code == 0 || output.stdout.is_empty(),
            "{arguments:?} speaks on stdout"
        );
    }
}

#[test]
fn others_may_not_even_look() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let socket = agent.folder().join("run/enforcer.sock");
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    let mut command = enforcer_tests::agent::command(agent.folder());
    let output = command.args(["ps"]).uid(65534).gid(65534).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn events_are_one_line_each_in_order() {
    let agent = Agent::start(&manifest(&workload(
        "hog",
        "hog",
        "cgroup: { memory.max: 8M }",
    )));
    agent.wait_for_events::<Incident>("hog", 2);
    let output = String::from_utf8(agent.cli(&["events", "--json"]).stdout).unwrap();
    let lines = output.lines();
    let keys: Vec<BTreeMap<String, IgnoredAny>> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lines = output.lines();
    let events: Vec<Record> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seqs: Vec<u64> = events.iter().map(|event| event.seq.0).collect();
    assert!(seqs.is_sorted() && seqs[0] == 1, "{seqs:?}");
    for key in [
        "seq",
        "time",
        "boot_id",
        "workload",
        "instance",
        "kind",
        "reason",
        "caused_by",
        "details",
    ] {
        assert!(keys.iter().all(|keys| keys.contains_key(key)), "{key}");
    }
    // An incident stands before the exit that it caused.
    let kinds: Vec<&str> = events.iter().map(|event| event.detail.kind()).collect();
    let first = |kind: &str| kinds.iter().position(|found| *found == kind).unwrap();
    assert!(first("oom_kill") < first("exit") && first("exit") < first("restart"));
    let words = String::from_utf8(
        agent
            .cli(&["events", "--workload", "hog", "--kind", "oom_kill"])
            .stdout,
    )
    .unwrap();
    assert!(
        words
            .lines()
            .all(|line| line.contains("hog: OOM kill: fixture (pid ")),
        "{words}"
    );
}

#[test]
fn a_second_agent_is_turned_away() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let pid = agent.wait_for_state("web", WorkloadState::Running).pid;
    let second = agent.cli(&[
        "run",
        "-f",
        agent.folder().join("manifest.yaml").to_str().unwrap(),
    ]);
    assert_eq!(second.status.code(), Some(1));
    let reported = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(reported.contains("another agent holds it"), "{reported}");
    // Not even with a runtime folder of its own may it touch what runs.
    let third = agent.cli(&[
        "run",
        "-f",
        agent.folder().join("manifest.yaml").to_str().unwrap(),
        "--runtime-dir",
        "/tmp/third",
    ]);
    let reported = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(
        reported.contains("that no agent with this runtime folder has left"),
        "{reported}"
    );
    assert_eq!(agent.workload("web").pid, pid);
}

#[test]
fn the_ebpf_programs_speak_through_the_agents_log() {
    enforcer_tests::agent::log_at("debug");
    let agent = Agent::start(&manifest(&workload(
        "hog",
        "hog",
        "cgroup: { memory.max: 8M }",
    )));
    agent.wait_for_events::<Incident>("hog", 1);
    let log = agent.folder().join("log");
    wait_for("a message of mark_victim", || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.contains("OOM victim").then_some(())
    });
}
