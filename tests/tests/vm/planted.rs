//! Paths that somebody else may have a hand in: what is planted there is not followed.

use crate::{manifest, workload};
use enforcer_tests::agent::Agent;
use enforcer_tests::wait_for;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_link_at_the_logs_place_leads_nowhere() {
    let secret = "/tmp/secret";
    let text = "nobody writes here\n";
    fs::write(secret, text).unwrap();
    let more = "logs: { max_size: 64K, keep: 2 }\nrecovery: { backoff: { initial: 20ms, max: 20ms }, budget: off }";
    let agent = Agent::start(&manifest(&workload("web", "write-and-crash", more)));
    agent.wait_for_events("web", "exit", 2);
    let folder = agent.folder().join("state/logs");
    let done = Arc::new(AtomicBool::new(false));
    let planting = {
        let (folder, done) = (folder.clone(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut planted = 0u32;
            while !done.load(Ordering::Relaxed) {
                for name in ["web.log", "web.log.1", "web.log.2"] {
                    let place = folder.join(name);
                    let draft = folder.join("draft");
                    let _ = fs::remove_file(&draft);
                    symlink(secret, &draft).unwrap();
                    planted += u32::from(fs::rename(&draft, &place).is_ok());
                    std::thread::yield_now();
                    let _ = fs::remove_file(&place);
                }
            }
            planted
        })
    };
    let restarts = || agent.workload("web")["restarts"].as_u64().unwrap();
    let before = restarts();
    wait_for("twenty more restarts", || {
        (restarts() >= before + 20).then_some(())
    });
    done.store(true, Ordering::Relaxed);
    let planted = planting.join().unwrap();
    println!("planted {planted} times");
    assert_eq!(fs::read_to_string(secret).unwrap(), text);
    // Read by nobody either.
    symlink(secret, folder.join("draft")).unwrap();
    fs::rename(folder.join("draft"), folder.join("web.log")).unwrap();
    let read = agent.cli(&["logs", "web"]);
    assert!(
        !String::from_utf8_lossy(&read.stdout).contains(text),
        "{read:?}"
    );
}

#[test]
fn a_workload_without_a_place_for_its_log_runs() {
    let agent = Agent::start(&manifest(&workload("web", "rest", "")));
    agent.wait_for_state("web", "running");
    let _ = agent.cli(&["stop", "web"]);
    let place = agent.folder().join("state/logs/web.log");
    fs::remove_file(&place).unwrap();
    symlink("/tmp/elsewhere", &place).unwrap();
    let started = agent.cli(&["start", "web"]);
    assert!(started.status.success(), "{started:?}");
    let told = agent.events_of_kind("degraded");
    let why = told.last().unwrap()["details"]["why"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        why.contains("web.log") && why.contains("is lost until its next start"),
        "{why}"
    );
    assert!(!std::path::Path::new("/tmp/elsewhere").exists());
}
