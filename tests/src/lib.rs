//! What the VM's tests and benchmarks share: an agent under test, and patience.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

pub mod agent;
pub mod burn;
pub mod corpus;
pub mod kernel;
pub mod modules;
pub mod report;
pub mod serve;
pub mod swap;
pub mod traces;

use std::time::{Duration, Instant};

/// How long anything may take in an emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until there is an answer. This is the only place that
/// lets time pass.
///
/// # Panics
/// With `what`, when the patience is over.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// The same for what takes its time.
///
/// # Panics
/// With `what`, when the patience is over.
pub fn wait_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < patience, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
