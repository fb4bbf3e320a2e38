//! A daemon and those around it: a manifest that changes, a service manager that waits.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::ConfigChange;
use enforcer_tests::agent::Agent;
use enforcer_tests::{kernel, patience, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

fn limited(pids: u32) -> String {
    let limits = format!("cgroup: {{ pids.max: {pids} }}");
    manifest(&workload("web", "rest", &limits))
}

fn wait_for_pids_max(expected: &str) {
    wait_for(&format!("pids.max {expected}"), || {
        (kernel::read("web", "pids.max")? == expected).then_some(())
    });
}

#[test]
fn a_changed_manifest_is_in_force_and_a_broken_one_is_not() {
    let agent = Agent::start_daemon(&limited(30));
    let pid = agent.wait_for_state("web", WorkloadState::Running).pid;
    agent.write_manifest(&limited(40));
    wait_for_pids_max("40");
    // Told with its fault, and nothing is lost.
    agent.write_manifest("version: 1\nworkloads:\n  web:\n    comand: [/bin/fixture]\n");
    let refused = wait_for("it to be refused", || {
        let reported = agent.cli(&["events", "--kind", "config"]);
        let text = String::from_utf8_lossy(&reported.stdout).into_owned();
        let line = text
            .lines()
            .find(|line| line.contains("was refused"))?
            .to_owned();
        Some(line)
    });
    assert!(refused.contains("comand"), "{refused}");
    assert_eq!(kernel::read("web", "pids.max").as_deref(), Some("40"));
    let more = limited(50) + &workload("more", "rest", "");
    agent.write_manifest(&more);
    wait_for_pids_max("50");
    agent.wait_for_state("more", WorkloadState::Running);
    assert_eq!(agent.wait_for_state("web", WorkloadState::Running).pid, pid);
    // What is no longer named runs on.
    agent.write_manifest(&limited(50));
    let unmanaged = || {
        let events = agent.events::<ConfigChange>("more");
        events
            .iter()
            .any(|event| event.details == ConfigChange::Unmanaged)
            .then_some(())
    };
    wait_for("it to be unmanaged", unmanaged);
    assert_eq!(agent.workload("more").state, WorkloadState::Running);
}

#[test]
fn the_service_manager_gets_the_state() {
    let folder = enforcer_tests::agent::folder();
    let socket = folder.join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(patience())).unwrap();
    let begun = Instant::now();
    let wait_for_word = |word: &str| {
        let mut reported = String::new();
        while begun.elapsed() < patience() * 2 {
            let mut bytes = [0; 4096];
            let length = manager.recv(&mut bytes).unwrap();
            reported.push_str(&String::from_utf8_lossy(&bytes[..length]));
            reported.push('\n');
            if reported.lines().any(|line| line.starts_with(word)) {
                return reported;
            }
        }
        panic!("{word} was never reported, but {reported}");
    };
    let environment = [
        ("NOTIFY_SOCKET", socket.to_str().unwrap()),
        ("WATCHDOG_USEC", "4000000"),
    ];
    let mut agent = Agent::start_daemon_with(&limited(30), &environment);
    let first = wait_for_word("READY=1");
    assert!(!first.contains("STATUS=1 running"), "{first}");
    wait_for_word("STATUS=1 running");
    // As long as its own loop turns, and at least twice within its patience.
    let begun = Instant::now();
    for _ in 0..3 {
        wait_for_word("WATCHDOG=1");
    }
    println!(
        "three signs of life in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    let reloaded = wait_for_word("RELOADING=1");
    assert!(reloaded.contains("MONOTONIC_USEC="), "{reloaded}");
    wait_for_word("READY=1");
    assert!(agent.terminate());
    wait_for_word("STOPPING=1");
    agent.start_again();
}
