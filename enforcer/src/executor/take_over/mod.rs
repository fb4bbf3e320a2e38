//! Finds the workloads again that the agent before this one has left. A process is the recorded one
//! if it has the same pid and start time in the same boot. It has run if it has executed a program.

mod fate;

use crate::executor::drift::{relative, take_in_all};
use crate::executor::instances::{Begun, OpenCgroup};
use crate::executor::output::KeptPipe;
use crate::executor::{Executor, KILL_PATIENCE, sandbox};
use crate::failpoint::failpoint;
use crate::report::error_chain;
use crate::store::handover::{Left, RunningInstance};
use enforcer_core::ReplicaId;
use enforcer_core::event::{Event, Found, InstanceId, ProcessId, TakenOver, WorkloadEvent};
use enforcer_kernel::cgroupfs::CgroupError;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{clock, pipe, process, usage};
use fate::Fate;
use std::sync::Arc;

/// The fate of a recorded process is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("open process {pid}, which an agent before this one has started")]
    Process { pid: u32, source: std::io::Error },
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
        let adopted: Result<Vec<TakenOver>, AdoptError> = adopted.collect();
        self.sweep_services();
        if let Ok(adopted) = &adopted {
            self.give_left_limits_back(adopted);
        }
        adopted
    }

    fn find(self: &Arc<Self>, left: &Left) -> Result<Found, AdoptError> {
        let Left {
            workload,
            checkpoint,
            instance,
        } = left;
        if checkpoint.is_attached() {
            return Ok(self.find_again(left));
        }
        let expected = checkpoint.has_instance();
        let there = self.tree.has(workload);
        if !expected && !there {
            return Ok(Found::Nothing);
        }
        let (open, _) = self.open_workload(workload)?;
        let (cgroup, id) = (&open.cgroup, open.id);
        let recorded = instance
            .as_ref()
            .filter(|recorded| expected && recorded.instance == checkpoint.instance());
        let starting = checkpoint.is_starting();
        let mut fate = match recorded {
            Some(recorded) => self.fate_of(recorded, starting)?,
            None => Fate::NeverRan,
        };
        let mut main = recorded.map_or_else(ProcessId::default, RunningInstance::process);
        // A daemon may have forked while no agent ran.
        if let (Fate::Ended, Some(recorded)) = (&fate, recorded)
            && !checkpoint.is_ending()
            && let Some((named, pidfd)) = Self::named_main(checkpoint.spec(), cgroup)
        {
            let forked = RunningInstance {
                pid: named.pid,
                start_ticks: named.start_ticks,
                has_run: true,
                ..recorded.clone()
            };
            let kept = self.handover.record(&forked);
            kept.map_err(|source| AdoptError::Process {
                pid: named.pid,
                source,
            })?;
            (fate, main) = (Fate::Runs(pidfd), named);
        }
        if !matches!(fate, Fate::Runs(_)) {
            // Whatever the last instance has left goes before anything else begins; what
            // takes longer is waited for where its end is collected.
            match cgroup.kill_and_wait(KILL_PATIENCE) {
                Err(CgroupError::StillPopulated { .. }) if !starting => {}
                done => done?,
            }
        }
        if let Fate::Runs(_) = &fate
            && let Some(place) = process::cgroup_of(main.pid)
            && !process::is_home(&place, &relative(cgroup.path()))
        {
            // The cgroup was removed, or the process was moved out of it.
            let filtered = sandbox::filter_network(checkpoint.spec(), cgroup, &open.network);
            match filtered {
                Ok(()) => take_in_all(cgroup, main.pid, &place)?,
                Err(error) => tracing::error!(
                    "{workload}: failed to {}; it runs outside its cgroup",
                    error_chain(&error)
                ),
            }
        }
        let counters = open.counters.lock().read()?;
        if !expected || matches!(fate, Fate::NeverRan) && starting {
            return Ok(Found::Cgroup(id, counters));
        }
        self.enlist(left, main, open);
        Ok(match fate {
            Fate::Runs(pidfd) => {
                self.watch_main(left, main, pidfd);
                Found::Running(id, counters, main.pid)
            }
            Fate::Ended | Fate::NeverRan => Found::Ended(id, counters, main.pid),
        })
    }

    /// Enters the instance into the table, as a start does.
    fn enlist(self: &Arc<Self>, left: &Left, main: ProcessId, open: OpenCgroup) {
        let spec = left.checkpoint.spec();
        let inode = left.instance.as_ref().and_then(|recorded| recorded.output);
        let output = inode.map(|inode| KeptPipe {
            inode,
            reader: pipe::find(inode, main.pid, &open.cgroup.all_processes()).map(Arc::new),
        });
        self.register(
            &left.workload,
            Begun {
                id: left.checkpoint.instance(),
                begun: (clock::now(), usage::read_cpu(&open.cgroup)),
                open,
                main,
                output,
                spec: Arc::clone(spec),
                launch: None,
            },
        );
    }

    fn watch_main(self: &Arc<Self>, left: &Left, main: ProcessId, pidfd: PidFd) {
        if let Some(ring) = &self.ring {
            ring.watch_on(main);
        }
        self.instances
            .set_main(&left.workload, (main, &Arc::new(pidfd)), true);
        self.report_unbounded_log(&left.workload);
    }

    /// Waits for the exits of what was adopted, and reads once more what may have been
    /// counted meanwhile.
    pub(crate) fn watch_adopted(self: &Arc<Self>, adopted: Vec<(ReplicaId, InstanceId)>) {
        for (workload, instance) in adopted {
            let Some(found) = self.instances.get(&workload) else {
                continue;
            };
            if let Ok(counters) = found.open.counters.lock().read() {
                let workload = workload.clone();
                self.events.send(Event::Workload(
                    workload,
                    WorkloadEvent::CountersRead { counters },
                ));
            }
            match found.pidfd {
                Some(pidfd) if found.open.cgroup.is_foreign() => {
                    self.follow_service(&workload, instance, pidfd);
                }
                Some(pidfd) => self.watch_exit(workload, instance, pidfd, &found.spec),
                None => {}
            }
        }
    }
}
