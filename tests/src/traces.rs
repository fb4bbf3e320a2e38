//! The files that a fixture leaves behind for a test.

use std::fs::File;
use std::io::Write as _;

/// Returns the number of this start, from 1.
///
/// # Panics
/// If the file can't be written.
#[must_use]
pub fn count_start(file: &str) -> usize {
    let mut log = File::options()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    log.write_all(b".").unwrap();
    usize::try_from(log.metadata().unwrap().len()).unwrap()
}

/// Appends a line to a file, if there is a name.
///
/// # Panics
/// If it can't be written.
pub fn append(file: &str, line: &str) {
    if file.is_empty() {
        return;
    }
    let opened = File::options().append(true).create(true).open(file);
    // In one piece: a process that is killed here leaves no part of a line.
    let line = format!("{line}\n");
    opened.unwrap().write_all(line.as_bytes()).unwrap();
}

/// CLOCK_MONOTONIC in nanoseconds.
///
/// # Panics
/// Never, on Linux.
#[must_use]
pub fn monotonic() -> i64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}
