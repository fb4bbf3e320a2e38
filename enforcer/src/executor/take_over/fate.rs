//! What has become of a process that an earlier agent has started.

use super::AdoptError;
use crate::executor::Executor;
use crate::store::handover::RunningInstance;
use enforcer_core::event::{ExitStatus, ProcessId};
use enforcer_kernel::bpf::PastExit;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{clock, process};
use std::time::Duration;

/// A child whose agent has died at its gate goes at once; this is for a busy host.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// The fate of a recorded process.
pub(super) enum Fate {
    Runs(PidFd),
    /// The process has run, and is gone.
    Ended,
    NeverRan,
}

impl Executor {
    /// Returns the fate of a process whose start may not have been reported yet.
    pub(super) fn fate_of(
        &self,
        recorded: &RunningInstance,
        starting: bool,
    ) -> Result<Fate, AdoptError> {
        let begun = clock::now();
        loop {
            let held = PidFd::of(recorded.process());
            let held = held.map_err(|source| AdoptError::Process {
                pid: recorded.pid,
                source,
            })?;
            let Some(pidfd) = held else {
                let exit = self.past_exit(recorded.process());
                // Without a record of its exit, the process has run if its start was reported.
                return Ok(match exit.map_or(!starting, |exit| exit.ran) {
                    true => Fate::Ended,
                    false => Fate::NeverRan,
                });
            };
            if recorded.has_run || process::has_executed(recorded.pid) {
                return Ok(Fate::Runs(pidfd));
            }
            if clock::now().since(begun) > GATE_PATIENCE {
                return Ok(Fate::NeverRan);
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn past_exit(&self, process: ProcessId) -> Option<PastExit> {
        self.ring.as_ref()?.exit_of(process)
    }

    /// Returns the exit status of a process that was not this agent's child.
    pub(in crate::executor) fn past_status(&self, process: ProcessId) -> ExitStatus {
        let exit = self.past_exit(process);
        exit.map_or(ExitStatus::Unknown, |exit| exit.status)
    }
}
