//! Paths that another user can change: a link there leads nowhere.

use crate::{manifest, workload};
use enforcer_model::WorkloadState;
use enforcer_model::detail::{Degraded, Exit};
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
    agent.wait_for_events::<Exit>("web", 2);
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
    let restarts = || agent.workload("web").restarts;
    let before = restarts();
    wait_for("twenty more restarts", || {
        (restarts() >= before + 20).then_some(())
    });
    done.store(true, Ordering::Relaxed);
    let planted = planting.join().unwrap();
    println!("planted {planted} times");
    assert_eq!(fs::read_to_string(secret).unwrap(), text);
    // No other user may read it either.
    symlink(secret, folder.join("draft")).unwrap();
    fs::rename(folder.join("draft"), folder.join("web.log")).unwrap();
    let read = agent.cli(&["logs", "web"]);
    assert!(
        !String::from_utf8_lossy(&read.stdout).contains(text),
        "{read:?}"
    );
}

#[test]
fn a_workload_without_a_place_for_its_log_runs_and_the_loss_is_reported() {
    let agent = Agent::start(&manifest(&workload("web", "count 1000000 20", "")));
    wait_for("its first line", || {
        (!agent.output("web").is_empty()).then_some(())
    });
    let place = agent.folder().join("state/logs/web.log");
    // In one step: the holder makes a file that is missing at once.
    let draft = place.with_extension("draft");
    symlink("/tmp/elsewhere", &draft).unwrap();
    fs::rename(draft, &place).unwrap();
    let why = wait_for("the loss to be reported", || {
        Some(agent.all_events::<Degraded>().pop()?.details.why)
    });
    assert!(
        why.starts_with("web: ") && why.contains("of its output were lost: Too many"),
        "{why}"
    );
    assert!(!std::path::Path::new("/tmp/elsewhere").exists());
    assert_eq!(agent.workload("web").state, WorkloadState::Running);
    fs::remove_file(&place).unwrap();
    wait_for("the log to go on", || {
        (!agent.output("web").is_empty()).then_some(())
    });
}
