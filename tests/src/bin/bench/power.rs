//! Tests both sides of a power cut: an agent with its history on a disk until the power goes, and
//! what the next boot finds there.

use enforcer_model::detail::Degraded;
use enforcer_model::ids::Seq;
use enforcer_model::requests::AgentStatus;
use enforcer_tests::agent::Agent;
use enforcer_tests::{modules, wait_for};
use nix::mount::{MsFlags, mount};
use std::path::Path;
use std::process::Command;

const DISK: &str = "/dev/vda";
const PLACE: &str = "/mnt";
const MANIFEST: &str = "version: 1\nworkloads:\n  crasher:\n    command: [/bin/fixture, crash, \"3\"]\n    user: web\n    \
     recovery: { backoff: { initial: 20ms, max: 20ms }, budget: off }\n";

/// `write`, or `read:SEQ` where that is the last event that was said to be durable.
pub(super) fn run(side: &str) {
    modules::load_all();
    wait_for("the disk", || Path::new(DISK).exists().then_some(()));
    match side.strip_prefix("read:") {
        Some(durable) => read(durable.parse().unwrap()),
        None => write(),
    }
}

fn mount_disk() {
    std::fs::create_dir_all(PLACE).unwrap();
    mount(
        Some(DISK),
        PLACE,
        Some("ext4"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
}

fn start() -> Agent {
    Agent::start_with(MANIFEST, &["--state-dir", PLACE])
}

/// Says of each event that it is durable, and does not end by itself.
fn write() {
    let made = Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-t", "ext4", DISK])
        .status();
    assert!(made.unwrap().success());
    mount_disk();
    let agent = start();
    let mut last = 0;
    loop {
        last = wait_for("another durable event", || {
            let Seq(durable) = agent.get::<AgentStatus>("/v1/agent")?.durable_seq;
            (durable > last).then_some(durable)
        });
        println!("@@durable {last}");
    }
}

fn read(durable: u64) {
    mount_disk();
    let agent = start();
    let seqs: Vec<u64> = agent.history().iter().map(|event| event.seq.0).collect();
    println!(
        "{durable} events were durable, {} are there after the power cut",
        seqs.len()
    );
    assert!(durable > 10);
    for seq in 1..=durable {
        assert!(seqs.contains(&seq), "{seq} is lost: {seqs:?}");
    }
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    let degraded = agent.all_events::<Degraded>();
    assert!(degraded.is_empty(), "{degraded:?}");
    println!("test what_was_durable_survives_a_power_cut ... ok");
    println!("test result: ok. 1 passed; 0 failed");
}
