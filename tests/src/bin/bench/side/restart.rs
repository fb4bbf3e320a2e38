//! An OOM kill and the replacement of the process, under each supervisor.

use super::floor::{self, Steps};
use super::{LONG, Samples, all_stamps, apply, fresh_file, print, shell, unit};
use enforcer_tests::wait_within;
use std::fs;

const RESTARTS: usize = 30;

pub(super) fn restart(floor: &Samples) {
    let Steps {
        total,
        exit,
        replacement,
    } = floor::restarts(RESTARTS);
    println!("  a C parent in waitid(2): {total}");
    println!("    last life → exit known: {exit}");
    println!("    exit known → first instruction: {replacement}");
    let file = fresh_file("enforcer-restarts");
    apply(&format!(
        "  hog:\n    command: [/usr/bin/floor, stamp, {file}, hog]\n    user: web\n    \
         cgroup: {{ memory.max: 16M }}\n    recovery: {{ backoff: off, budget: off }}\n"
    ));
    let ours = gaps(&file);
    apply("");
    let file = fresh_file("systemd-restarts");
    unit(
        "hog.service",
        &format!(
            "ExecStart=/usr/bin/floor stamp {file} hog\nUser=web\nMemoryMax=16M\nOOMPolicy=kill\n\
             Restart=always\nRestartSec=0\n"
        ),
    );
    shell("systemctl start hog");
    let theirs = gaps(&file);
    shell("systemctl stop hog");
    fs::remove_file("/etc/systemd/system/hog.service").unwrap();
    print(
        (
            "restart",
            "last sign of life → the replacement's first instruction",
        ),
        &ours,
        ("systemd", &theirs),
        floor,
    );
    println!(
        "    enforcer / a C parent: {:.2}, and {:.1} ms more",
        ours.ratio_to(&total),
        (ours.median().as_secs_f64() - total.median().as_secs_f64()) * 1e3
    );
}

/// Waits for the restarts, and returns the time of each.
fn gaps(file: &str) -> Samples {
    let gaps = wait_within(LONG, "the restarts", || {
        let found = all_stamps(file);
        let gaps: Vec<_> = found
            .windows(2)
            .filter(|pair| pair[0].0 == "last" && pair[1].0 == "first")
            .map(|pair| pair[1].1 - pair[0].1)
            .collect();
        (gaps.len() >= RESTARTS).then_some(gaps)
    });
    Samples::of(gaps)
}
