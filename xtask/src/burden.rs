//! A load on this host that shows which tests depend on its speed.

use crate::progress::say;
use anyhow::{Context as _, Result};
use std::process::{Child, Command};

/// Busy processes, one for each CPU, that end when this is dropped.
pub(crate) struct Burden(Vec<Child>);

impl Burden {
    /// Starts them.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub(crate) fn begin() -> Result<Self> {
        let count = std::thread::available_parallelism().map_or(2, usize::from);
        say(
            "test",
            &format!("burdening this host with {count} busy processes"),
        );
        let mut burden = Self(Vec::new());
        for _ in 0..count {
            // The limit of CPU time ends it at the latest.
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "ulimit -t 7200; while :; do :; done"]);
            burden
                .0
                .push(shell.spawn().context("failed to start a busy process")?);
        }
        Ok(burden)
    }
}

impl Drop for Burden {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
