//! Events a second at full durability, beside what the same disk takes at least: run by
//! `cargo xtask bench history` on the host itself, with a folder as its argument.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that can't go on should say where, and asks the clock"
)]

use enforcer::measuring::Measured;
use rusqlite::{Connection, params};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The number of runs of each measurement. The median, the least and the most are printed.
const RUNS: usize = 5;
const ALONE: u32 = 300;
const BURST: u32 = 50_000;
/// The size of such an event as a line of JSON.
const LINE: usize = 260;

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .expect("a folder");
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder).unwrap();
    println!("events a second, median of {RUNS} runs (least to most):");
    let floor = report(
        "floor: one line written and synchronized, one after another",
        &folder,
        |folder| {
            let mut file = File::create(folder.join("floor")).unwrap();
            let line = [b'x'; LINE];
            rate(ALONE, || {
                for _ in 0..ALONE {
                    file.write_all(&line).unwrap();
                    file.sync_data().unwrap();
                }
            })
        },
    );
    let alone = report(
        "one event, and the next when it is durable",
        &folder,
        |folder| {
            let mut history = Measured::open(folder).unwrap();
            rate(ALONE, || {
                for _ in 0..ALONE {
                    history.append();
                    settle(&history);
                }
            })
        },
    );
    println!("    {:.2} of the floor", alone / floor);
    let floor = report(
        "floor: the same rows by bare SQLite, all in one transaction",
        &folder,
        bare,
    );
    let burst = report("as many at once as come", &folder, |folder| {
        let mut history = Measured::open(folder).unwrap();
        rate(BURST, || {
            (0..BURST).for_each(|_| history.append());
            settle(&history);
        })
    });
    println!("    {:.2} of the floor", burst / floor);
}

fn settle(history: &Measured) {
    while !history.is_durable() {
        std::thread::yield_now();
    }
}

fn rate(events: u32, act: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    act();
    f64::from(events) / begun.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}

fn report(what: &str, folder: &Path, measure: impl Fn(&Path) -> f64) -> f64 {
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|run| {
            let own = folder.join(run.to_string());
            fs::create_dir_all(&own).unwrap();
            let rate = measure(&own);
            fs::remove_dir_all(&own).unwrap();
            rate
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[RUNS / 2];
    println!(
        "{what}: {median:.0} ({:.0} to {:.0})",
        rates[0],
        rates[RUNS - 1]
    );
    median
}

fn bare(folder: &Path) -> f64 {
    let connection = Connection::open(folder.join("bare.db")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE events (seq INTEGER PRIMARY KEY, time TEXT, boot_id TEXT, workload TEXT,
             instance INTEGER, kind TEXT, reason TEXT, caused_by INTEGER, details TEXT)",
        )
        .unwrap();
    rate(BURST, || {
        let transaction = connection.unchecked_transaction().unwrap();
        let mut statement = transaction
            .prepare("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .unwrap();
        for seq in 1..=BURST {
            let row = params![
                seq,
                "2026-01-01T00:00:00.000000000Z",
                "00000000-0000-0000-0000-000000000000",
                "web",
                seq,
                "exit",
                "exit",
                seq - 1,
                "{\"code\":3,\"signal\":null,\"oom_killed\":false}"
            ];
            statement.execute(row).unwrap();
        }
        drop(statement);
        transaction.commit().unwrap();
    })
}
