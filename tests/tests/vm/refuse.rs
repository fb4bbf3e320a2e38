//! Hosts on which nothing may be started: refused before anything is, with the
//! file, the error and the cure.

use crate::{manifest, workload};
use enforcer_tests::agent::{command, folder, in_own_namespace};
use enforcer_tests::wait_for;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::process::Output;

/// Runs an agent in a mount namespace of its own, as `prepare` leaves it.
fn run_in(prepare: fn() -> nix::Result<()>, arguments: &[&str], more: &str) -> Output {
    let folder = folder();
    fs::remove_file("/tmp/started").ok();
    let file = folder.join("manifest.yaml");
    fs::write(
        &file,
        manifest(&workload("web", "hog-times 0 /tmp/started", more)),
    )
    .unwrap();
    let mut agent = command(&folder);
    in_own_namespace(&mut agent, prepare);
    agent
        .args(arguments)
        .args(["run", "-f"])
        .arg(&file)
        .output()
        .unwrap()
}

fn assert_refused(output: &Output, words: &[&str]) {
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{reported}");
    for word in words {
        assert!(reported.contains(word), "`{word}` is not in: {reported}");
    }
    assert!(
        !std::path::Path::new("/tmp/started").exists(),
        "something was started"
    );
    assert!(
        !enforcer_tests::slot::root().exists(),
        "something was left behind"
    );
}

/// What is no user of this host, or no name, is refused where it stands, and nothing runs.
#[test]
fn users_and_names_that_are_none() {
    let folder = folder();
    let file = folder.join("manifest.yaml");
    fs::remove_file("/tmp/started").ok();
    let refused = |text: &str, words: &str| {
        fs::write(&file, text).unwrap();
        for verb in [["validate"].as_slice(), &["run", "-f"]] {
            let output = command(&folder).args(verb).arg(&file).output().unwrap();
            let reported = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}: {reported}");
            assert!(
                reported.contains(words) && reported.contains("manifest.yaml:"),
                "{text}: {reported}"
            );
        }
    };
    let started = "command: [/bin/fixture, hog-times, \"0\", /tmp/started]";
    for user in [
        "0day",
        "-1",
        "4294967295",
        "4294967296",
        "",
        "unknown",
        "a:b",
        "web\\nroot",
    ] {
        let text = format!("version: 1\nworkloads:\n  web:\n    {started}\n    user: \"{user}\"\n");
        refused(&text, "user");
        let text = text.replace("user: ", "user: web\n    group: ");
        refused(&text, "group");
    }
    let long = "a".repeat(64);
    for name in [
        "..", ".", "a/../b", "/a", "a b", "-a", "a-", "A", "a\\nb", "", &long,
    ] {
        let text = format!("version: 1\nworkloads:\n  \"{name}\":\n    {started}\n    user: web\n");
        refused(&text, "name");
    }
    assert!(!std::path::Path::new("/tmp/started").exists());
    assert!(!enforcer_tests::slot::root().exists());
    assert!(!std::path::Path::new("/sys/fs/b").exists());
}

fn read_only() -> nix::Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(
        None::<&str>,
        "/sys/fs/cgroup",
        None::<&str>,
        flags,
        None::<&str>,
    )
}

#[test]
fn a_read_only_hierarchy() {
    let output = run_in(read_only, &[], "");
    assert_refused(&output, &["/sys/fs/cgroup", "errno 30", "remount,rw"]);
}

fn hybrid() -> nix::Result<()> {
    mount(
        Some("tmpfs"),
        "/sys/fs/cgroup",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    nix::unistd::mkdir("/sys/fs/cgroup/unified", nix::sys::stat::Mode::S_IRWXU)
}

#[test]
fn a_hybrid_hierarchy() {
    let output = run_in(hybrid, &[], "");
    assert_refused(
        &output,
        &[
            "use /sys/fs/cgroup: it is not a cgroup v2 hierarchy",
            "hybrid",
            "systemd.unified_cgroup_hierarchy=1",
        ],
    );
}

fn as_it_is() -> nix::Result<()> {
    Ok(())
}

/// What an agent says while a v1 hierarchy takes a controller away from v2, as on a host
/// that was half converted.
fn without_controller(v2: &str, v1: &str, limits: &str) -> Output {
    let is_listed = || {
        let listed = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        listed.split_whitespace().any(|word| word == v2)
    };
    // The kernel refuses this while a cgroup that another test has left uses the controller.
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("-{v2}")).unwrap();
    fs::create_dir_all("/tmp/v1").unwrap();
    // Cgroups that were removed hold on to it for a moment.
    wait_for("the v1 hierarchy", || {
        mount(
            Some("cgroup"),
            "/tmp/v1",
            Some("cgroup"),
            MsFlags::empty(),
            Some(v1),
        )
        .ok()
    });
    let output = run_in(as_it_is, &[], limits);
    nix::mount::umount("/tmp/v1").unwrap();
    wait_for("the controller to come back", || is_listed().then_some(()));
    output
}

#[test]
fn a_missing_controller_that_a_manifest_asks_for() {
    let output = without_controller("io", "blkio", "cgroup: { io.weight: 50 }");
    let words = [
        "cgroup.controllers",
        "the controller `io`",
        "`io.weight` needs it",
    ];
    assert_refused(&output, &words);
}

#[test]
fn a_missing_controller() {
    let output = without_controller("pids", "pids", "cgroup: { pids.max: 7 }");
    let words = [
        "cgroup.controllers",
        "the controller `pids`",
        "`pids.max` needs it",
        "cgroup_no_v1=pids",
    ];
    assert_refused(&output, &words);
}

#[test]
fn a_root_outside_the_hierarchy() {
    let output = run_in(as_it_is, &["--cgroup-root", "/tmp/elsewhere"], "");
    assert_refused(
        &output,
        &["use /tmp/elsewhere: it is not a cgroup v2 hierarchy"],
    );
}
