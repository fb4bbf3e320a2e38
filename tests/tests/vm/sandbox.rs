//! What a sandbox keeps a workload from. Each attempt succeeds without one first.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_tests::agent::{Agent, next_folder, pid_of};
use enforcer_tests::{kernel, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The reports of the attempts, which every user may write.
const REPORTS: &str = "/tmp/attempt-reports";
/// The last attempt.
const LAST: &str = "openat2";

fn make_ground() {
    for (path, mode) in [(REPORTS, 0o777), ("/home/other", 0o755), ("/boot", 0o755)] {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::write("/home/other/secret", "s3cret").unwrap();
    fs::create_dir_all("/var/tmp").unwrap();
    for file in ["/tmp/of-the-host", "/var/tmp/of-the-host"] {
        fs::write(file, "").unwrap();
    }
}

/// A workload that tries everything once, and then rests.
fn attempts(name: &str, user: &str, agent: &str, more: &str) -> String {
    let report = format!("{REPORTS}/{name}");
    let _ = fs::remove_file(&report);
    let more = format!(
        "before_start: [[/usr/bin/attempts, {report}, {agent}]]
        read_write_paths: [{REPORTS}]
        {more}"
    );
    workload(name, "rest", &more).replace("user: web", &format!("user: {user}"))
}

/// What each attempt of a workload came to.
fn outcomes(name: &str) -> BTreeMap<String, String> {
    let text = wait_for("the last attempt", || {
        let text = fs::read_to_string(format!("{REPORTS}/{name}")).ok()?;
        text.contains(&format!("\n{LAST} ")).then_some(text)
    });
    let lines = text.lines();
    let both = lines.map(|line| line.split_once(' ').unwrap());
    both.map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

fn reached(name: &str) -> BTreeSet<String> {
    let mut all = outcomes(name);
    all.retain(|_, outcome| outcome == "reached");
    all.into_keys().collect()
}

#[test]
fn what_succeeds_without_a_sandbox_fails_in_it() {
    make_ground();
    let socket = next_folder().join("run/enforcer.sock");
    let socket = socket.to_str().unwrap();
    let mut text = String::new();
    for user in ["root", "web"] {
        for level in ["off", "default"] {
            let more = format!("sandbox: {level}");
            text.push_str(&attempts(&format!("{user}-{level}"), user, socket, &more));
        }
    }
    let agent = Agent::start(&manifest(&text));
    let mut tried = BTreeSet::new();
    for user in ["root", "web"] {
        agent.wait_for_state(&format!("{user}-off"), WorkloadState::Running);
        agent.wait_for_state(&format!("{user}-default"), WorkloadState::Running);
        let off = reached(&format!("{user}-off"));
        let left = reached(&format!("{user}-default"));
        assert_eq!(left, BTreeSet::new(), "{user}");
        tried.extend(off);
    }
    let all: BTreeSet<String> = outcomes("root-off").into_keys().collect();
    let never: Vec<&String> = all.difference(&tried).collect();
    assert!(never.is_empty(), "these prove nothing: {never:?}");
    assert_eq!(tried.len(), 68);
}

/// Each key opens what it names, and nothing else.
#[test]
fn each_key_opens_what_it_names() {
    make_ground();
    let nowhere = "/nowhere";
    let keys = [
        (
            "tmp",
            "private_tmp: false",
            vec!["hosts-tmp", "hosts-var-tmp"],
        ),
        ("home", "read_only_paths: [/home/other]", vec!["other-home"]),
        (
            "log",
            "devices: [/dev/kmsg]\ncapabilities: [CAP_SYSLOG]",
            vec!["kernel-log-device"],
        ),
        (
            "calls",
            "system_calls: [ptrace, kcmp]",
            vec!["compare", "ptrace"],
        ),
    ];
    let mut text = String::new();
    for (name, key, _) in &keys {
        text.push_str(&attempts(
            name,
            "root",
            nowhere,
            &format!("sandbox: default\n{key}"),
        ));
    }
    let namespaces = "sandbox: default\nnamespaces: true";
    text.push_str(&attempts("spaces", "web", nowhere, namespaces));
    let agent = Agent::start(&manifest(&text));
    for (name, key, opened) in keys {
        agent.wait_for_state(name, WorkloadState::Running);
        let opened: BTreeSet<String> = opened.into_iter().map(str::to_owned).collect();
        assert_eq!(reached(name), opened, "{key}");
    }
    agent.wait_for_state("spaces", WorkloadState::Running);
    let found = reached("spaces");
    assert!(
        found.contains("unshare-users") && found.contains("clone3"),
        "{found:?}"
    );
    assert!(!found.contains("mount"), "{found:?}");
}

/// `version: 2` has it by default, except for root, and `version: 1` has not.
#[test]
fn the_second_version_of_a_manifest_has_a_sandbox() {
    make_ground();
    let text = workload("web", "rest", "") + &workload("root", "rest", "");
    let root = text.rfind("user: web").unwrap();
    let text = format!("{}user: root\n", &text[..root]);
    let agent = Agent::start(&manifest(&text).replace("version: 1", "version: 2"));
    let hides = |name: &str| {
        let pid = pid_of(&agent.wait_for_state(name, WorkloadState::Running));
        let inside = format!("/proc/{pid}/root/home/other/secret");
        (pid, !Path::new(&inside).exists())
    };
    let (web, hidden) = hides("web");
    assert!(hidden);
    assert!(!hides("root").1);
    assert_eq!(kernel::status(web, "Seccomp").unwrap().trim(), "2");
    assert_eq!(kernel::status(web, "NoNewPrivs").unwrap().trim(), "1");
    // The first version has none.
    agent.write_manifest(&manifest(&workload("web", "rest", "")));
    assert!(agent.cli(&["apply"]).status.success());
    let (again, hidden) = hides("web");
    assert!(again != web && !hidden);
}
