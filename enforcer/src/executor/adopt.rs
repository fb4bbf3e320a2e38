//! Finds the workloads again that the agent before this one has left. A process is the recorded one
//! if it has the same pid and start time in the same boot. It has run if it has executed a program.

use super::drift::{is_home, relative, take_in_all};
use super::output::KeptPipe;
use super::start::OpenCgroup;
use super::{Executor, KILL_PATIENCE};
use crate::failpoint::failpoint;
use crate::store::handover::{Left, RunningInstance};
use crate::watch;
use enforcer_core::WorkloadName;
use enforcer_core::event::{Event, ExitStatus, Found, InstanceId, TakenOver, WorkloadEvent};
use enforcer_kernel::bpf::PastExit;
use enforcer_kernel::cgroupfs::CgroupError;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{clock, pipe, process};
use std::sync::Arc;
use std::time::Duration;

/// A child whose agent has died at its gate goes at once; this is for a busy host.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// The fate of a recorded process is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("open process {pid}, which an agent before this one has started")]
    Process { pid: u32, source: std::io::Error },
}

/// The fate of a recorded process.
enum Fate {
    Runs(PidFd),
    /// The process has run, and is gone.
    Ended,
    NeverRan,
}

impl Executor {
    /// Finds everything that was left. Events of it would be lost before the core knows of it, so
    /// [`Executor::watch_adopted`] comes after that.
    ///
    /// # Errors
    /// Where it can't be said what has become of something: then nothing was done to it.
    pub(crate) fn adopt(self: &Arc<Self>, left: Vec<Left>) -> Result<Vec<TakenOver>, AdoptError> {
        failpoint!("adopt-begun");
        let adopted = left.into_iter().map(|left| {
            let found = self.find(&left)?;
            failpoint!("adopt-found");
            Ok(TakenOver {
                workload: left.workload,
                checkpoint: left.checkpoint,
                found,
            })
        });
        adopted.collect()
    }

    fn find(self: &Arc<Self>, left: &Left) -> Result<Found, AdoptError> {
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
        let fate = match recorded {
            Some(recorded) => self.fate_of(recorded, starting)?,
            None => Fate::NeverRan,
        };
        if !matches!(fate, Fate::Runs(_)) {
            // Whatever the last instance has left goes before anything else begins; what
            // takes longer is waited for where its end is collected.
            match cgroup.kill_and_wait(KILL_PATIENCE) {
                Err(CgroupError::StillPopulated { .. }) if !starting => {}
                done => done?,
            }
        }
        if let Fate::Runs(_) = &fate
            && let Some(recorded) = recorded
            && let Some(place) = process::cgroup_of(recorded.pid)
            && !is_home(&place, &relative(cgroup.path()))
        {
            // The cgroup was removed, or the process was moved out of it.
            take_in_all(&cgroup, recorded.pid, &place)?;
        }
        let counters = reader.lock().read()?;
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

    /// Returns the fate of a process whose start may not have been reported yet.
    fn fate_of(&self, recorded: &RunningInstance, starting: bool) -> Result<Fate, AdoptError> {
        let begun = clock::now();
        loop {
            let held = PidFd::of(recorded.pid, recorded.start_ticks);
            let held = held.map_err(|source| AdoptError::Process {
                pid: recorded.pid,
                source,
            })?;
            let Some(pidfd) = held else {
                let exit = self.past_exit(recorded.pid, recorded.start_ticks);
                // Without a record of its exit, the process has run if its start was reported.
                return Ok(match exit.map_or(!starting, |exit| exit.ran) {
                    true => Fate::Ended,
                    false => Fate::NeverRan,
                });
            };
            if process::has_executed(recorded.pid) {
                return Ok(Fate::Runs(pidfd));
            }
            if clock::now().since(begun) > GATE_PATIENCE {
                return Ok(Fate::NeverRan);
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub(super) fn past_exit(&self, pid: u32, start_ticks: u64) -> Option<PastExit> {
        self.ring.as_ref()?.exit_of(pid, start_ticks)
    }

    /// Returns the exit status of a process that was not this agent's child.
    pub(super) fn past_status(&self, pid: u32, start_ticks: u64) -> ExitStatus {
        let exit = self.past_exit(pid, start_ticks);
        exit.map_or(ExitStatus::Unknown, |exit| exit.status)
    }

    /// Enters the instance into the table, as a start does.
    fn enlist(self: &Arc<Self>, left: &Left, main: (u32, u64), open: OpenCgroup) {
        let spec = left.checkpoint.spec();
        let inode = left.instance.as_ref().and_then(|recorded| recorded.output);
        let output = inode.map(|inode| KeptPipe {
            inode,
            reader: pipe::find(inode, main.0, &open.0.all_processes()).map(Arc::new),
        });
        self.register(&left.workload, open, main, output, (spec, None));
    }

    fn watch_main(self: &Arc<Self>, left: &Left, (pid, ticks): (u32, u64), pidfd: PidFd) {
        if let Some(ring) = &self.ring {
            ring.watch_on(pid, ticks);
        }
        let pidfd = Arc::new(pidfd);
        if let Some(entry) = self.registry().get_mut(&left.workload) {
            entry.tell_of_unbounded_log(self, &left.workload);
            entry.pidfd = Some(Arc::clone(&pidfd));
            entry.adopted = true;
        }
    }

    /// Waits for the exits of what was adopted, and reads once more what may have been
    /// counted meanwhile.
    pub(crate) fn watch_adopted(self: &Arc<Self>, adopted: Vec<(WorkloadName, InstanceId)>) {
        for (workload, instance) in adopted {
            let found = {
                let registry = self.registry();
                let entry = registry.get(&workload);
                entry.map(|entry| (entry.pidfd.clone(), Arc::clone(&entry.counters)))
            };
            let Some((pidfd, reader)) = found else {
                continue;
            };
            if let Ok(counters) = reader.lock().read() {
                let workload = workload.clone();
                self.events.send(Event::Workload(
                    workload,
                    WorkloadEvent::CountersRead { counters },
                ));
            }
            if let Some(pidfd) = pidfd {
                let exit = watch::exit(pidfd, self.events.clone(), workload, instance);
                self.runtime.spawn(exit);
            }
        }
    }
}
