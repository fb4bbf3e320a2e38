//! Measures enforcer beside systemd and beside the floor, in one boot of a Debian with systemd.
//!
//! The floor is `floor.c`, a static program without a runtime. Every figure that has a peer is taken
//! from the same program under both supervisors, with the same limits, in turn.

mod bulk;
mod commands;
mod floor;
mod gate;
mod restart;

use super::{Samples, monotonic};
use enforcer_model::views::Workloads;
use enforcer_tests::wait_within;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The samples of what takes less than a second, and of what takes longer.
const MANY: usize = 20;
const FEW: usize = 5;
/// The longest wait for a thousand of anything.
const LONG: Duration = Duration::from_secs(900);
/// The place of the files that the measured programs write.
const FOLDER: &str = "/run/side";
const MANIFEST: &str = "/etc/enforcer/workloads.d/side.yaml";

const EMPTY: &str = "version: 1\nworkloads: {}\n";

type Part = (&'static str, fn(&Samples));

/// Measures the named part, or all of them.
pub(super) fn run(wanted: &str) {
    let parts: [Part; 6] = [
        ("restart", restart::restart),
        ("start", commands::start),
        ("sandboxes", commands::sandboxes),
        ("commands", commands::answers),
        ("bulk", bulk::bulk),
        ("attached", bulk::attached),
    ];
    prepare();
    let floor = floor::starts();
    println!("floor: fork, exec and first instruction of a static C program: {floor}");
    if wanted == "gate" {
        // It takes an hour.
        gate::gate();
        return;
    }
    for (name, measure) in parts {
        if wanted.is_empty() || wanted == name {
            println!("{name}");
            measure(&floor);
        }
    }
}

fn prepare() {
    // A guest that says nothing for long counts as one that hangs.
    println!("installing enforcer");
    fs::create_dir_all(FOLDER).unwrap();
    shell(&format!("chown web:web {FOLDER}"));
    shell("dpkg --install /root/enforcer_1.deb");
    println!("starting enforcer");
    fs::write(MANIFEST, EMPTY).unwrap();
    shell("systemctl enable -q --now enforcer");
    println!("waiting for enforcer");
    wait_within(LONG, "the agent to answer", || workloads().map(drop));
}

/// Runs a script, which must succeed, and returns what it prints.
fn shell(script: &str) -> String {
    let output = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{script}`: {text}{error}");
    text
}

/// Runs a command, which must succeed, and returns the time until it has ended.
fn timed(command: &[&str]) -> Duration {
    let begun = monotonic();
    let ended: Output = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let took = monotonic() - begun;
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{command:?}: {error}");
    took
}

fn workloads() -> Option<Workloads> {
    let mut command = Command::new("enforcer");
    command.args(["ps", "--json"]).stdin(Stdio::null());
    let output = command.output().unwrap();
    if !output.status.success() {
        return None;
    }
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Replaces the manifest's workloads by these, and removes all others.
fn apply(workloads: &str) {
    match workloads {
        "" => fs::write(MANIFEST, EMPTY).unwrap(),
        workloads => fs::write(MANIFEST, format!("version: 1\nworkloads:\n{workloads}")).unwrap(),
    }
    shell("enforcer apply --prune");
}

/// Writes a unit and has systemd read it.
fn unit(name: &str, service: &str) {
    let file = format!("/etc/systemd/system/{name}");
    fs::write(
        &file,
        format!("[Unit]\nStartLimitIntervalSec=0\n[Service]\n{service}"),
    )
    .unwrap();
    shell("systemctl daemon-reload");
}

/// Returns the time stamps of a file whose lines begin with this word.
fn stamps(file: &str, word: &str) -> Vec<Duration> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let of_word = |line: &str| {
        let (found, nanos) = line.split_once(' ')?;
        let nanos = nanos.parse().ok()?;
        (found == word).then(|| Duration::from_nanos(nanos))
    };
    text.lines().filter_map(of_word).collect()
}

/// Returns the time stamps of a file in order, each with its word.
fn all_stamps(file: &str) -> Vec<(String, Duration)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let of_line = |line: &str| {
        let (word, nanos) = line.split_once(' ')?;
        Some((word.to_owned(), Duration::from_nanos(nanos.parse().ok()?)))
    };
    text.lines().filter_map(of_line).collect()
}

/// Returns a new file that the user of the workloads can write.
fn fresh_file(name: &str) -> String {
    let file = format!("{FOLDER}/{name}");
    fs::write(&file, "").unwrap();
    shell(&format!("chown web:web {file}"));
    file
}

/// Prints a figure beside its peer and the floor, and its ratios in the form that `bench guard` reads.
/// `name` has no blanks.
fn print((name, what): (&str, &str), ours: &Samples, peer: (&str, &Samples), floor: &Samples) {
    println!("  {what}");
    println!("    enforcer: {ours}");
    println!("    {}: {}", peer.0, peer.1);
    println!(
        "    enforcer / {}: {:.2}; in floors: {:.1} and {:.1}",
        peer.0,
        ours.ratio_to(peer.1),
        ours.ratio_to(floor),
        peer.1.ratio_to(floor)
    );
    println!("ratio {name}/systemd {:.3}", ours.ratio_to(peer.1));
    println!("ratio {name}/floor {:.3}", ours.ratio_to(floor));
}
