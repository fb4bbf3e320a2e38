//! Directories that are made for a workload.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{RestartPlan, Start};
use enforcer_tests::agent::{Agent, pid_of};
use enforcer_tests::{kernel, wait_for};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

fn make_bases() {
    for base in ["/var/lib", "/var/cache"] {
        fs::create_dir_all(base).unwrap();
    }
}

#[test]
fn directories_are_the_workloads_and_those_below_run_go_with_it() {
    make_bases();
    let more = "runtime_directory: [made-rt, made-rt/sub]
        state_directory: { names: made-state, mode: '0700' }
        cache_directory: made-cache
        before_start: [[/bin/fixture, note, /run/made-rt/sub/seen, RUNTIME_DIRECTORY], [/bin/fixture, note, /var/lib/made-state/seen, STATE_DIRECTORY]]
        recovery: { backoff: off }";
    let agent = Agent::start(&manifest(&workload("web", "rest", more)));
    let pid = pid_of(&agent.wait_for_state("web", WorkloadState::Running));
    let own = kernel::status(pid, "Uid").unwrap();
    let own: u32 = own.split_whitespace().next().unwrap().parse().unwrap();
    for (path, mode) in [
        ("/run/made-rt", 0o755),
        ("/run/made-rt/sub", 0o755),
        ("/var/lib/made-state", 0o700),
        ("/var/cache/made-cache", 0o755),
    ] {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (own, mode), "{path}");
    }
    let seen = fs::read_to_string("/run/made-rt/sub/seen").unwrap();
    assert_eq!(seen.trim(), "/run/made-rt:/run/made-rt/sub");
    let seen = fs::read_to_string("/var/lib/made-state/seen").unwrap();
    assert_eq!(seen.trim(), "/var/lib/made-state");
    // They stay over a restart, with what is in them.
    fs::write("/run/made-rt/kept", "").unwrap();
    assert!(agent.cli(&["restart", "web"]).status.success());
    assert!(Path::new("/run/made-rt/kept").exists());
    assert!(agent.cli(&["stop", "web"]).status.success());
    wait_for("the runtime directory to go", || {
        (!Path::new("/run/made-rt").exists()).then_some(())
    });
    assert!(Path::new("/var/lib/made-state/seen").exists());
    assert!(Path::new("/var/cache/made-cache").exists());
}

#[test]
fn a_directory_of_others_is_neither_taken_nor_removed() {
    make_bases();
    fs::create_dir_all("/run/others-rt/of-root").unwrap();
    fs::create_dir_all("/var/lib/others").unwrap();
    symlink("/var/lib/others", "/var/lib/others-link").unwrap();
    let once = "recovery: { restart: never }";
    let taken = workload(
        "taken",
        "rest",
        &format!("runtime_directory: others-rt\n{once}"),
    );
    let led = workload(
        "led",
        "rest",
        &format!("state_directory: others-link\n{once}"),
    );
    let mut root = workload("root", "rest", "runtime_directory: others-rt");
    root = root.replace("user: web", "user: root");
    let agent = Agent::start(&manifest(&format!("{taken}{led}{root}")));
    for (name, stage, why) in [
        (
            "taken",
            "make its runtime_directory /run/others-rt",
            "it is there, belongs to root and is not empty",
        ),
        (
            "led",
            "make its state_directory /var/lib/others-link",
            "Not a directory",
        ),
    ] {
        let start = agent.wait_for_event::<Start>(name).details;
        let error = start.error().unwrap();
        assert_eq!((error.stage.as_str(), error.error.as_str()), (stage, why));
        assert!(agent.events::<RestartPlan>(name).is_empty());
    }
    // A workload of root may use it; what it has not made stays.
    agent.wait_for_state("root", WorkloadState::Running);
    assert!(agent.cli(&["stop", "root"]).status.success());
    assert!(Path::new("/run/others-rt/of-root").exists());
    assert_eq!(fs::metadata("/var/lib/others").unwrap().uid(), 0);
}
