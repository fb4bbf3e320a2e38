//! What an agent before this one has left of its workloads, found in the kernel again. A
//! process is the one that was recorded if it has its number and its start time, within
//! one boot; and it has run if it has executed something.

use super::start::OpenCgroup;
use super::{Executor, KILL_PATIENCE, error_chain, lock};
use crate::kernel::bpf::PastExit;
use crate::kernel::cgroupfs::CgroupError;
use crate::kernel::log_file::LogFile;
use crate::kernel::pidfd::PidFd;
use crate::kernel::{clock, process};
use crate::store::handover::{Left, RunningInstance};
use crate::{failpoint, watch};
use enforcer_core::event::{ExitStatus, Found, TakenOver};
use std::sync::Arc;
use std::time::Duration;

/// A child whose agent has died at its gate goes at once; this is for a busy host.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// What became of a recorded process.
enum Fate {
    Runs(PidFd),
    /// It has run, and is gone.
    Ended,
    NeverRan,
}

impl Executor {
    /// Finds everything that was left, and watches what runs. Actions may follow.
    pub(crate) fn adopt(self: &Arc<Self>, left: Vec<Left>) -> Vec<TakenOver> {
        failpoint::pass("adopt-begun");
        let adopted = left.into_iter().map(|left| {
            let found = self.find(&left).unwrap_or_else(|error| {
                tracing::error!(
                    "{}: failed to {}; it is started anew",
                    left.workload,
                    error_chain(&error)
                );
                Found::Nothing
            });
            failpoint::pass("adopt-found");
            TakenOver {
                workload: left.workload,
                checkpoint: left.checkpoint,
                found,
            }
        });
        adopted.collect()
    }

    fn find(self: &Arc<Self>, left: &Left) -> Result<Found, CgroupError> {
        let Left {
            workload,
            checkpoint,
            instance,
        } = left;
        let expected = checkpoint.has_instance();
        let there = self.tree.workloads().has_file(workload.as_str());
        if !expected && !there {
            return Ok(Found::Nothing);
        }
        let (cgroup, id, reader) = self.open_workload(workload)?;
        let recorded = instance
            .as_ref()
            .filter(|recorded| expected && recorded.instance == checkpoint.instance());
        let starting = checkpoint.is_starting();
        let fate = recorded.map_or(Fate::NeverRan, |recorded| self.fate_of(recorded, starting));
        if !matches!(fate, Fate::Runs(_)) {
            // Whatever the last instance has left goes before anything else begins.
            cgroup.kill_and_wait(KILL_PATIENCE)?;
        }
        if let Fate::Runs(_) = &fate
            && let Some(recorded) = recorded
            && recorded.cgroup != id
        {
            // Its cgroup was taken away from under it, or it was moved out of it.
            cgroup.take_in(recorded.pid)?;
        }
        let counters = lock(&reader).read()?;
        if !expected || matches!(fate, Fate::NeverRan) && starting {
            return Ok(Found::Cgroup(id, counters));
        }
        let (pid, ticks) = recorded.map_or((0, 0), |found| (found.pid, found.start_ticks));
        self.enlist(left, (pid, ticks), (cgroup, id, reader));
        Ok(match fate {
            Fate::Runs(pidfd) => {
                self.watch_main(left, (pid, ticks), pidfd);
                Found::Running(id, counters, pid)
            }
            Fate::Ended | Fate::NeverRan => Found::Ended(id, counters, pid),
        })
    }

    /// Of a process whose start may not have been told yet.
    fn fate_of(&self, recorded: &RunningInstance, starting: bool) -> Fate {
        let begun = clock::now();
        loop {
            let Some(pidfd) = PidFd::of(recorded.pid, recorded.start_ticks) else {
                let exit = self.past_exit(recorded.pid, recorded.start_ticks);
                // Where nobody saw it, it has run if that was told.
                return match exit.map_or(!starting, |exit| exit.ran) {
                    true => Fate::Ended,
                    false => Fate::NeverRan,
                };
            };
            if process::has_executed(recorded.pid) {
                return Fate::Runs(pidfd);
            }
            if clock::now().since(begun) > GATE_PATIENCE {
                return Fate::NeverRan;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub(super) fn past_exit(&self, pid: u32, start_ticks: u64) -> Option<PastExit> {
        self.ring.as_ref()?.exit_of(pid, start_ticks)
    }

    /// How a process ended that was not this agent's child.
    pub(super) fn past_status(&self, pid: u32, start_ticks: u64) -> ExitStatus {
        let exit = self.past_exit(pid, start_ticks);
        exit.map_or(ExitStatus::Unknown, |exit| exit.status)
    }

    /// As a start would have left it.
    fn enlist(self: &Arc<Self>, left: &Left, main: (u32, u64), open: OpenCgroup) {
        let spec = left.checkpoint.spec();
        let log = LogFile::open(&self.log_path(&left.workload));
        let log = log.inspect_err(|error| {
            tracing::warn!("{}: its log can't be bounded: {error}", left.workload);
        });
        self.register(&left.workload, open, main, log.ok(), (spec, None));
    }

    fn watch_main(self: &Arc<Self>, left: &Left, (pid, ticks): (u32, u64), pidfd: PidFd) {
        if let Some(ring) = &self.ring {
            ring.watch_on(pid, ticks);
        }
        let pidfd = Arc::new(pidfd);
        if let Some(entry) = self.registry().get_mut(&left.workload) {
            entry.pidfd = Some(Arc::clone(&pidfd));
            entry.adopted = true;
        }
        let (events, instance) = (self.events.clone(), left.checkpoint.instance());
        let exit = watch::exit(pidfd, events, left.workload.clone(), instance);
        self.runtime.spawn(exit);
    }
}
