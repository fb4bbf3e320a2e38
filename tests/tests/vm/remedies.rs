//! What is done between two instances, in which order starts take their turns, and
//! who steps back when the host runs short.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::claims::Throttling;
use enforcer_model::detail::{
    Degraded, Exit, HostPressure, PressureAnswer, RestartPlan, Start, Stop,
};
use enforcer_model::ids::Cause;
use enforcer_model::level::Level;
use enforcer_model::spec::StrategyName;
use enforcer_tests::agent::{Agent, send};
use enforcer_tests::{kernel, wait_for};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A folder that belongs to the user `web`.
fn folder_of_web(path: &str) {
    fs::create_dir_all(path).unwrap();
    std::os::unix::fs::chown(path, Some(1000), Some(1000)).unwrap();
}

#[test]
fn a_reset_empties_the_users_own_folders_and_no_others() {
    folder_of_web("/tmp/srv/cache");
    fs::create_dir_all("/tmp/srv/others").unwrap();
    fs::write("/tmp/srv/others/kept", "").unwrap();
    // What a link leads to is not its own.
    let _ = fs::remove_file("/tmp/srv/cache/link");
    std::os::unix::fs::symlink("/tmp/srv/others", "/tmp/srv/cache/link").unwrap();
    let more = "recovery: { strategy: reset, reset_paths: [/tmp/srv/cache], backoff: off, budget: { restarts: 2, within: 1h } }";
    let cache = workload("cache", "count-and-fill /tmp/srv/cache", more);
    let foreign = workload(
        "foreign",
        "crash",
        &more.replace("/tmp/srv/cache", "/tmp/srv/others"),
    );
    let agent = Agent::start(&manifest(&format!("{cache}{foreign}")));
    agent.wait_for_state("cache", WorkloadState::BreakerOpen);
    // The link was there at the first start alone, and was removed itself.
    assert_eq!(agent.output("cache"), "entries 1\nentries 0\nentries 0\n");
    let restart = agent.wait_for_event::<RestartPlan>("cache");
    assert_eq!(restart.details.strategy, StrategyName::Reset);
    agent.wait_for_state("foreign", WorkloadState::BreakerOpen);
    assert!(Path::new("/tmp/srv/others/kept").exists());
    let starts = agent.events::<Start>("foreign");
    let mut errors = starts.iter().filter_map(|start| start.details.error());
    let refused = errors.find(|error| error.stage == "clear the reset paths");
    let reported = refused.map_or("", |error| &error.error);
    assert!(
        reported.contains("/tmp/srv/others: it belongs to another user"),
        "{reported}"
    );
}

/// A reset sees the files that its workload sees, and has no filters of a sandbox.
#[test]
fn a_reset_works_in_a_sandbox_and_in_a_root() {
    let root = "/tmp/root-of-reset";
    for folder in ["proc", "bin", "cache"] {
        fs::create_dir_all(format!("{root}/{folder}")).unwrap();
    }
    fs::copy("/bin/fixture", format!("{root}/bin/fixture")).unwrap();
    for path in ["/srv/boxed/sub/deep", "/tmp/of-reset/sub/deep"] {
        fs::create_dir_all(path).unwrap();
        fs::write(format!("{path}/file"), "").unwrap();
        for folder in std::path::Path::new(path).ancestors().take(3) {
            std::os::unix::fs::chown(folder, Some(1000), Some(1000)).unwrap();
        }
    }
    let more = |path: &str| {
        format!(
            "recovery: {{ strategy: reset, reset_paths: [{path}], backoff: off, budget: {{ restarts: 1, within: 1h }} }}
            sandbox: default"
        )
    };
    let boxed = workload("boxed", "crash", &more("/srv/boxed"));
    let mounted = format!(
        "root: {root}
        mounts: [{{ from: /tmp/of-reset, to: /cache }}]
        {}",
        more("/cache/sub")
    );
    let rooted = workload("rooted", "crash", &mounted).replace("user: web", "user: \"1000:1000\"");
    let agent = Agent::start(&manifest(&format!("{boxed}{rooted}")));
    for (name, path) in [("boxed", "/srv/boxed"), ("rooted", "/tmp/of-reset/sub")] {
        agent.wait_for_state(name, WorkloadState::BreakerOpen);
        let starts = agent.events::<Start>(name);
        let errors: Vec<_> = starts
            .iter()
            .filter_map(|start| start.details.error())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{path}");
    }
    fs::remove_dir_all("/srv/boxed").unwrap();
}

#[test]
fn recreating_makes_a_new_cgroup_and_a_new_log() {
    folder_of_web("/tmp/doomed");
    let more = "recovery: { strategy: [restart, recreate], backoff: off, budget: { restarts: 2, within: 1h }, breaker: { cooldown: 1h, max: 1h } }";
    let agent = Agent::start(&manifest(&workload(
        "web",
        "crash-when-told /tmp/doomed/die",
        more,
    )));
    let inode = || fs::metadata(kernel::cgroup("web")).unwrap().ino();
    let wait_for_words = |count: usize| {
        wait_for("it to wait", || {
            let said = agent.output("web");
            (said.matches("waiting").count() == count).then_some(())
        });
    };
    let die = |restarts: u64, words: usize| {
        fs::write("/tmp/doomed/die", "").unwrap();
        wait_for("the restart", || {
            let view = agent.workload("web");
            (view.restarts == restarts && view.state == WorkloadState::Running).then_some(())
        });
        wait_for_words(words);
    };
    agent.wait_for_state("web", WorkloadState::Running);
    wait_for_words(1);
    let first = inode();
    die(1, 2);
    assert_eq!(inode(), first, "the first attempt only restarts");
    die(2, 1);
    assert_ne!(inode(), first, "the second one has a new cgroup");
    let older = fs::read_to_string(agent.folder().join("state/logs/web.log.1")).unwrap();
    assert_eq!(
        (older.as_str(), agent.output("web").as_str()),
        ("waiting\nwaiting\n", "waiting\n")
    );
}

#[test]
fn the_users_own_command_is_given_the_failure() {
    let file = "/tmp/failure";
    fs::write(file, "").unwrap();
    std::os::unix::fs::chown(file, Some(1000), Some(1000)).unwrap();
    let more = format!(
        "recovery: {{ strategy: {{ exit: {{ run: [/bin/fixture, complain, {file}] }} }}, backoff: off, budget: {{ restarts: 1, within: 1h }} }}"
    );
    let agent = Agent::start(&manifest(&workload("web", "crash 7", &more)));
    agent.wait_for_state("web", WorkloadState::BreakerOpen);
    let reported = fs::read_to_string(file).unwrap();
    for word in [
        "ENFORCER_WORKLOAD=web",
        "ENFORCER_CAUSE=exit",
        "ENFORCER_ATTEMPT=1",
        "ENFORCER_EXIT_CODE=7",
    ] {
        assert!(reported.contains(word), "{word} is not in {reported}");
    }
    // It failed, which is reported, and the workload was started all the same.
    let degraded = agent.wait_for_event::<Degraded>("web");
    let why = degraded.details.why;
    assert!(
        why.contains("exited with code 3: complaint by uid 1000"),
        "{why}"
    );
    assert_eq!(agent.events::<Exit>("web").len(), 2);
}

#[test]
fn starts_take_turns_by_priority_and_wait_for_what_they_need() {
    let flag = "/tmp/db-is-up";
    let _ = fs::remove_file(flag);
    let readiness = format!(
        "probes: {{ readiness: {{ exec: {{ command: [/bin/fixture, exists, {flag}] }}, period: 200ms, timeout: 20s }} }}"
    );
    let mut text = workload("db", "rest", &readiness);
    text.push_str(&workload(
        "web",
        "rest",
        "priority: 100\nneeds: { db: ready }",
    ));
    text.push_str(&workload(
        "log",
        "rest",
        "priority: 1\nneeds: { db: started }",
    ));
    for number in [20, 40, 60, 80] {
        text.push_str(&workload(
            &format!("w{number}"),
            "rest",
            &format!("priority: {number}"),
        ));
    }
    let agent = Agent::start(&format!(
        "version: 1\nhost: {{ starts_at_once: 1 }}\nworkloads:\n{text}"
    ));
    agent.wait_for_state("log", WorkloadState::Running);
    let view = agent.workload("web");
    assert_eq!(
        (view.state, &*view.reason),
        (WorkloadState::Pending, "waiting for db to be ready")
    );
    fs::write(flag, "").unwrap();
    agent.wait_for_state("web", WorkloadState::Running);
    let starts = agent.all_events::<Start>();
    let names = starts.iter().filter_map(|event| event.workload.as_ref());
    let order: Vec<String> = names.map(ToString::to_string).collect();
    assert_eq!(order, ["w80", "w60", "db", "w40", "w20", "log", "web"]);
    // A start by hand waits for nothing.
    fs::remove_file(flag).unwrap();
    wait_for("db to be unready", || {
        (!agent.workload("db").ready).then_some(())
    });
    assert!(agent.cli(&["restart", "web"]).status.success());
}

#[test]
fn a_full_disk_has_its_command_run_and_is_looked_at_again() {
    let disk = "/tmp/disk";
    fs::create_dir_all(disk).unwrap();
    mount(
        Some("disk"),
        disk,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=8m"),
    )
    .unwrap();
    fs::write(format!("{disk}/big"), vec![1u8; 6 << 20]).unwrap();
    let host = format!(
        "version: 1\nhost:\n  watch: {{ disk: {{ path: {disk}, warn: 50%, critical: 60%, for: 0s, run: [/bin/fixture, remove, {disk}/big] }} }}\nworkloads:\n"
    );
    let agent = Agent::start(&(host + &workload("web", "rest", "")));
    let reported = wait_for("the disk to be well again", || {
        let reported = agent.all_events::<HostPressure>();
        reported
            .iter()
            .any(|event| event.details.level == Level::Normal)
            .then_some(reported)
    });
    drop(agent);
    let gone = !Path::new(&format!("{disk}/big")).exists();
    umount(disk).unwrap();
    assert!(gone);
    let shown: Vec<(Level, PressureAnswer)> = reported
        .iter()
        .map(|event| (event.details.level, event.details.done))
        .collect();
    assert_eq!(
        shown,
        [
            (Level::Critical, PressureAnswer::Warned),
            (Level::Critical, PressureAnswer::Ran),
            (Level::Normal, PressureAnswer::Warned)
        ]
    );
    assert_eq!(reported[0].details.used_percent, Some(75));
}

#[test]
fn the_least_important_steps_back_when_the_host_is_short_of_memory() {
    // Any host uses more than 2 % of its memory, and none more than 100 %.
    let host = |critical: u32| {
        let watch = format!("memory: {{ warn: 1%, critical: {critical}%, for: 0s }}");
        let watch = if critical > 50 {
            watch.replace("warn: 1%", "warn: 99%")
        } else {
            watch
        };
        let batch = "priority: 10\nstop: { grace: 1h }";
        let batch = workload("batch", "ignore-term", batch);
        let shop = workload("shop", "rest", "priority: 90");
        format!("version: 1\nhost:\n  watch: {{ {watch} }}\nworkloads:\n{batch}{shop}")
    };
    let agent = Agent::start(&host(100));
    agent.wait_for_output("batch", "ready");
    let running = agent.wait_for_state("batch", WorkloadState::Running);
    agent.write_manifest(&host(2));
    assert!(agent.cli(&["apply"]).status.success());
    // It is demoted, and asked to stop ten seconds later. It lives on until this test kills it, so
    // that nobody has to look in time.
    wait_for("batch to be demoted", || {
        (agent.workload("batch").throttle == Throttling::Demoted).then_some(())
    });
    wait_for("the kernel to have it", || {
        (kernel::read("batch", "cpu.weight").as_deref() == Some("1")).then_some(())
    });
    agent.wait_for_state("batch", WorkloadState::Stopping);
    send(&running, Signal::SIGKILL);
    agent.wait_for_state("batch", WorkloadState::Stopped);
    // The last one that runs is left alone, whatever the host's memory says.
    assert_eq!(agent.workload("shop").state, WorkloadState::Running);
    agent.write_manifest(&host(100));
    assert!(agent.cli(&["apply"]).status.success());
    let view = agent.wait_for_state("batch", WorkloadState::Running);
    assert_eq!(view.throttle, Throttling::None);
    let answers = agent.events::<HostPressure>("batch").into_iter();
    let answers: Vec<PressureAnswer> = answers.map(|event| event.details.done).collect();
    let expected = [
        PressureAnswer::Demoted,
        PressureAnswer::Stopped,
        PressureAnswer::StartedAgain,
    ];
    assert_eq!(answers, expected);
    let stop = agent.wait_for_event::<Stop>("batch");
    assert_eq!(stop.reason, Some(Cause::HostPressure));
    assert!(agent.cli(&["kill", "batch"]).status.success());
}
