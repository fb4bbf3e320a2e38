//! What a program finds when it starts: its cgroup, its identity, and nothing
//! of the agent's.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Exit, Start};
use enforcer_model::oom::Incident;
use enforcer_model::units::Bytes;
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for};
use std::collections::BTreeMap;
use std::fs;

/// What the fixture reports of itself, by key.
fn report(agent: &Agent, name: &str) -> BTreeMap<String, String> {
    let output = wait_for("the report", || {
        let output = agent.output(name);
        output.contains("end of report").then_some(output)
    });
    let pair = |line: &str| {
        line.split_once(':')
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
    };
    output.lines().filter_map(pair).collect()
}

fn environment(agent: &Agent, name: &str) -> Vec<String> {
    let lines = agent.output(name);
    let mut variables: Vec<String> = lines
        .lines()
        .filter_map(|line| line.strip_prefix("environment "))
        .map(str::to_owned)
        .collect();
    variables.sort();
    variables
}

#[test]
fn nothing_of_the_agents_is_left() {
    fs::create_dir_all("/tmp/home").unwrap();
    fs::write(
        "/tmp/secret.env",
        "# of the file\nTOKEN=\"from the file\"\nPORT=1\n",
    )
    .unwrap();
    let more = "group: nogroup\ndirectory: /tmp/home\npriority: 70\n\
         environment: { PORT: \"9025\" }\nenvironment_files: [/tmp/secret.env]\n\
         capabilities: [CAP_NET_BIND_SERVICE]\nrlimits: { nofile: 4096, core: 0 }";
    let agent = Agent::start(&manifest(&workload("self", "report", more)));
    let found = report(&agent, "self");
    let place = format!("0::{}", kernel::path("self"));
    let expected = [
        ("Uid", "1000 1000 1000 1000"),
        ("Gid", "65534 65534 65534 65534"),
        ("Groups", "2000 65534"),
        ("Umask", "0022"),
        ("NoNewPrivs", "1"),
        ("SigBlk", "0000000000000000"),
        // Rust's own start ignores SIGPIPE, number 13; the agent left it alone.
        ("SigIgn", "0000000000001000"),
        ("sigpipe", "default"),
        // CAP_NET_BIND_SERVICE is number 10.
        ("CapInh", "0000000000000400"),
        ("CapPrm", "0000000000000400"),
        ("CapEff", "0000000000000400"),
        ("CapBnd", "0000000000000400"),
        ("CapAmb", "0000000000000400"),
        ("cgroup", place.as_str()),
        ("oom_score_adj", "-200"),
        ("session", "true"),
        ("directory", "/tmp/home"),
        ("descriptors", "0 1 2"),
        ("nofile", "4096 4096"),
    ];
    for (key, value) in expected {
        assert_eq!(found.get(key).map(String::as_str), Some(value), "{key}");
    }
    let variables = [
        "ENFORCER_WORKLOAD=self",
        "HOME=/tmp",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PORT=9025",
        "TOKEN=from the file",
        "USER=web",
    ];
    assert_eq!(environment(&agent, "self"), variables);
}

#[test]
fn without_capabilities_there_are_none_and_root_is_root() {
    let root = "  root:\n    command: [/bin/fixture, report]\n    user: root\n";
    let agent = Agent::start(&manifest(&(workload("plain", "report", "") + root)));
    let plain = report(&agent, "plain");
    for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(plain[key], "0000000000000000", "{key}");
    }
    assert_eq!(plain["nofile"], "1024 524288");
    assert_eq!(plain["oom_score_adj"], "0");
    let root = report(&agent, "root");
    assert_eq!(root["Uid"], "0 0 0 0");
    assert_eq!(root["NoNewPrivs"], "0");
    assert_ne!(root["CapEff"], "0000000000000000");
}

#[test]
fn a_process_is_born_in_its_cgroup() {
    // The kernel traces every migration: a child that was moved after its fork
    // would show there (include/trace/events/cgroup.h).
    const TRACING: &str = "/sys/kernel/tracing";
    let set = |value: &str| {
        fs::write(
            format!("{TRACING}/events/cgroup/cgroup_attach_task/enable"),
            value,
        )
        .unwrap()
    };
    let agent = Agent::start(&manifest(""));
    fs::write(format!("{TRACING}/trace"), "").unwrap();
    set("1");
    // The tracing itself works: this test moves itself out and back.
    let own = std::process::id().to_string();
    fs::create_dir_all("/sys/fs/cgroup/elsewhere").unwrap();
    fs::write("/sys/fs/cgroup/elsewhere/cgroup.procs", &own).unwrap();
    fs::write("/sys/fs/cgroup/cgroup.procs", &own).unwrap();
    agent.write_manifest(&manifest(&workload("born", "report", "")));
    assert!(agent.cli(&["apply"]).status.success());
    let found = report(&agent, "born");
    let pid = pid_of(&agent.workload("born"));
    set("0");
    fs::remove_dir("/sys/fs/cgroup/elsewhere").unwrap();
    let trace = fs::read_to_string(format!("{TRACING}/trace")).unwrap();
    assert!(
        trace.contains("dst_path=/elsewhere"),
        "the trace is empty:\n{trace}"
    );
    assert!(
        !trace.contains(&format!("pid={pid} ")),
        "it was moved:\n{trace}"
    );
    assert_eq!(found["cgroup"], format!("0::{}", kernel::path("born")));
}

#[test]
fn limits_hold_at_the_first_instruction() {
    let more = "cgroup: { memory.max: 8M }\nrecovery: { restart: never }";
    let agent = Agent::start(&manifest(&workload("greedy", "hog 256", more)));
    let incident = agent.wait_for_event::<Incident>("greedy");
    // It never held more than its limit, not even for a moment.
    let peak = incident.details.peak_bytes.unwrap();
    assert!(peak <= Bytes(8 << 20), "{incident:?}");
}

#[test]
fn what_cannot_be_executed_is_a_start_error() {
    fs::write("/tmp/no-program", "just text").unwrap();
    let missing = "  missing:\n    command: [/no/such/program]\n    user: web\n    recovery: { restart: never }\n";
    let text = "  text:\n    command: [/tmp/no-program]\n    user: web\n    recovery: { restart: never }\n";
    let nowhere = workload(
        "nowhere",
        "rest",
        "directory: /no/such/folder\nrecovery: { restart: never }",
    );
    let unheard = workload(
        "unheard",
        "rest",
        "logs: { to: journal }\nrecovery: { restart: never }",
    );
    let agent = Agent::start(&manifest(&format!("{missing}{text}{nowhere}{unheard}")));
    for (name, stage, errno) in [
        ("missing", "execute /no/such/program", libc::ENOENT),
        ("text", "execute /tmp/no-program", libc::EACCES),
        ("nowhere", "enter the directory", libc::ENOENT),
        ("unheard", "connect its output to journald", libc::ENOENT),
    ] {
        let view = agent.wait_for_state(name, WorkloadState::Failed);
        let start = agent.wait_for_event::<Start>(name);
        let error = start.details.error().unwrap();
        assert_eq!((&*error.stage, error.errno), (stage, Some(errno)));
        assert!(agent.events::<Exit>(name).is_empty(), "{name} never ran");
        assert!(view.reason.contains(stage), "{view:?}");
    }
    let failed = agent.cli(&["start", "missing"]);
    assert_eq!(failed.status.code(), Some(3));
    let reported = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        reported.contains("failed to execute /no/such/program: No such file or directory"),
        "{reported}"
    );
}

#[test]
fn logs_are_bounded_and_outlive_the_agent() {
    let more = "logs: { max_size: 64K, keep: 2 }";
    let mut agent = Agent::start(&manifest(&workload("chatty", "flood 1", more)));
    let logs = agent.folder().join("state/logs");
    // 1 MiB in lines of 64 bytes; the last one has this number. Its line may
    // have been moved away already.
    wait_for("the last line", || {
        let read = |file: &str| fs::read(logs.join(file)).unwrap_or_default();
        let all = [read("chatty.log"), read("chatty.log.1")].concat();
        String::from_utf8_lossy(&all)
            .contains("000000016383x")
            .then_some(())
    });
    for name in ["chatty.log", "chatty.log.1", "chatty.log.2"] {
        let size = fs::metadata(logs.join(name)).unwrap().len();
        assert!(size <= 64 << 10, "{name} has {size} bytes");
    }
    assert!(!logs.join("chatty.log.3").exists());
    assert!(agent.interrupt());
    assert!(logs.join("chatty.log").exists());
}

/// The part of an instance's file that the test reads.
#[derive(serde::Deserialize)]
struct Instance {
    pid: u32,
    start_ticks: u64,
    cgroup: u64,
}

/// The part of the agent's state that the test reads.
#[derive(serde::Deserialize)]
struct State {
    boot_id: String,
}

#[test]
fn what_runs_is_recorded_before_it_runs() {
    let agent = Agent::start(&manifest(&workload("known", "rest", "")));
    let view = agent.wait_for_state("known", WorkloadState::Running);
    let text = fs::read_to_string(agent.folder().join("run/instances/known.json")).unwrap();
    let record: Instance = serde_json::from_str(&text).unwrap();
    assert_eq!(Some(record.pid), view.pid);
    let stat = fs::read_to_string(format!("/proc/{}/stat", record.pid)).unwrap();
    // Field 22, counted behind the command in parentheses (proc(5)).
    let start = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(19)
        .unwrap()
        .parse::<u64>()
        .unwrap();
    assert_eq!(record.start_ticks, start);
    assert_eq!(
        record.cgroup,
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(kernel::cgroup("known")).unwrap())
    );
    let text = fs::read_to_string(agent.folder().join("run/state.json")).unwrap();
    let state: State = serde_json::from_str(&text).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(state.boot_id, boot_id.trim());
}

#[test]
fn a_user_by_number_needs_no_account() {
    let text = "  self:\n    command: [/bin/fixture, report]\n    user: 4000:4001\n    groups: [44]\n    \
                umask: 0027\n";
    let agent = Agent::start(&manifest(text));
    let found = report(&agent, "self");
    let expected = [
        ("Uid", "4000 4000 4000 4000"),
        ("Gid", "4001 4001 4001 4001"),
        ("Groups", "44 4001"),
        ("Umask", "0027"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
    ];
    for (key, value) in expected {
        assert_eq!(found.get(key).map(String::as_str), Some(value), "{key}");
    }
    let variables = environment(&agent, "self");
    assert!(variables.contains(&"HOME=/".to_owned()), "{variables:?}");
    assert!(variables.contains(&"USER=4000".to_owned()), "{variables:?}");
}

#[test]
fn a_nice_value_below_zero_is_the_programs_and_not_the_agents() {
    let agent = Agent::start(&manifest(&workload("eager", "rest", "nice: -5")));
    let pid = pid_of(&agent.wait_for_state("eager", WorkloadState::Running));
    let nice = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Field 19, counted behind the command in parentheses (proc(5)).
        let after = stat.rsplit_once(')').unwrap().1;
        after.split_whitespace().nth(16).unwrap().to_owned()
    };
    assert_eq!(nice(pid), "-5");
    assert_eq!(nice(agent.pid()), "0");
}

/// Returns the processes whose parent is this one, and that have this name.
fn children_of(parent: u32, name: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_wanted = |pid: &u32| {
        kernel::status(*pid, "PPid").is_some_and(|found| found == parent.to_string())
            && kernel::status(*pid, "Name").is_some_and(|found| found == name)
    };
    pids.filter(is_wanted).collect()
}

#[test]
fn children_are_the_agents_and_a_fork_server_that_was_killed_is_replaced() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    let first = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let server = children_of(agent.pid(), "fork-server");
    assert_eq!(server.len(), 1, "{server:?}");
    assert_eq!(
        kernel::status(first, "PPid"),
        Some(agent.pid().to_string()),
        "the agent must be able to wait for it"
    );
    let signal = |pid: u32, signal| {
        let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    };
    // A service manager and a terminal may signal every process of the agent.
    signal(server[0], nix::sys::signal::Signal::SIGTERM);
    assert!(agent.cli(&["restart", "web"]).status.success());
    assert_eq!(children_of(agent.pid(), "fork-server"), server);
    signal(server[0], nix::sys::signal::Signal::SIGKILL);
    assert!(agent.cli(&["restart", "web"]).status.success());
    let other = children_of(agent.pid(), "fork-server");
    assert_eq!(other.len(), 1, "{other:?}");
    assert_ne!(other, server);
    let now = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    assert_eq!(kernel::status(now, "PPid"), Some(agent.pid().to_string()));
}

#[test]
fn an_environment_larger_than_a_sockets_buffer_reaches_the_program() {
    let long = "x".repeat(100 << 10);
    let variables: String = (0..6).map(|n| format!("V{n}: \"{long}\", ")).collect();
    let more = format!("environment: {{ {variables} }}");
    let agent = Agent::start(&manifest(&workload("self", "report", &more)));
    report(&agent, "self");
    let sizes = environment(&agent, "self");
    let large = sizes.iter().filter(|one| one.len() > long.len());
    assert_eq!(large.count(), 6);
}
