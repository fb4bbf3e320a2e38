//! The end of an instance, of a workload's cgroup, and of the agent's own.

use super::marks;
use super::{Executor, KILL_PATIENCE};
use crate::failpoint::failpoint;
use crate::report::error_chain;
use enforcer_core::WorkloadName;
use enforcer_core::event::{Event, ExitStatus, InstanceEvent, InstanceId, ProcessId};
use enforcer_core::oom::Counters;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::signal::parse_signal;
use enforcer_kernel::{clock, process};
use std::sync::Arc;
use std::time::Duration;

/// The most processes that one report names.
const STUCK_SHOWN: usize = 3;

impl Executor {
    pub(super) fn signal(&self, workload: &WorkloadName, signal: &str) {
        let instance = self.instances.get(workload);
        let pidfd = instance.and_then(|instance| instance.pidfd);
        failpoint!("stop-unsignalled");
        if let Some(pidfd) = pidfd
            && let Err(error) = pidfd.signal(parse_signal(signal))
        {
            tracing::error!(
                "{workload}: failed to send {signal}: {error}; it will be killed after its grace"
            );
        }
        failpoint!("stop-signalled");
    }

    pub(super) fn kill_tree(&self, workload: &WorkloadName) {
        failpoint!("stop-killed");
        if let Some(Err(error)) = self.with_cgroup(workload, Cgroup::kill) {
            tracing::error!("{workload}: failed to {}", error_chain(&error));
        }
        // This reaches the main process even if another process has moved it.
        let instance = self.instances.get(workload);
        if let Some(main) = instance.and_then(|instance| instance.pidfd)
            && let Err(error) = main.signal(nix::sys::signal::Signal::SIGKILL)
        {
            tracing::error!("{workload}: failed to kill its main process: {error}");
        }
    }

    /// Says which processes of a workload are still there although they were killed. A process
    /// ends only when it returns from the kernel, which one in state D does not.
    pub(super) fn report_stuck(&self, workload: &WorkloadName, instance: InstanceId) {
        let listed = self.with_cgroup(workload, Cgroup::processes);
        let Some(Ok(pids)) = listed else {
            return;
        };
        let described: Vec<String> = pids
            .iter()
            .take(STUCK_SHOWN)
            .filter_map(|pid| process::describe_standstill(*pid))
            .collect();
        if !described.is_empty() {
            self.events.send(Event::Instance(
                workload.clone(),
                instance,
                InstanceEvent::Stays {
                    processes: described.join("; "),
                },
            ));
        }
    }

    /// Waits for the main process, kills what it left behind, and reads the counters before the
    /// exit is reported.
    pub(super) fn reap(self: &Arc<Self>, workload: WorkloadName, instance: InstanceId) {
        failpoint!("reap-begun");
        let Some(ended) = self.instances.get(&workload) else {
            // The take-over found no process of it.
            self.events.send(Event::Instance(
                workload,
                instance,
                InstanceEvent::Reaped {
                    status: ExitStatus::Unknown,
                    counters: Counters::default(),
                },
            ));
            return;
        };
        // This comes first. If a mark has only a pid, its owner is still in /proc.
        if let Some(ring) = &self.ring {
            marks::drain(ring, self);
        }
        failpoint!("reap-unread");
        let status = match &ended.pidfd {
            Some(pidfd) if !ended.is_adopted => pidfd.wait().unwrap_or_else(|error| {
                tracing::error!(
                    "{workload}: failed to wait for the main process: {error}; how it ended is unknown"
                );
                ExitStatus::Unknown
            }),
            Some(pidfd) => {
                pidfd.wait_for_exit();
                self.past_status(ended.main)
            }
            None => self.past_status(ended.main),
        };
        failpoint!("reap-read");
        self.end_probes_of(&workload);
        let mut tries = 0u32;
        while let Err(error) = ended.cgroup().kill_and_wait(KILL_PATIENCE) {
            tracing::error!("{workload}: failed to {}; trying on", error_chain(&error));
            // The first report comes after ten seconds, and then one every minute.
            if tries.is_multiple_of(6) {
                self.report_stuck(&workload, instance);
            }
            tries += 1;
            clock::pause(KILL_PATIENCE / 100);
        }
        failpoint!("reap-gone");
        if let Some(ring) = &self.ring {
            marks::drain(ring, self);
        }
        let counters = ended.open.counters.lock().read().unwrap_or_else(|error| {
            tracing::error!(
                "{workload}: failed to {}; an OOM kill may stay unreported",
                error_chain(&error)
            );
            Counters::default()
        });
        failpoint!("reap-emptied");
        self.events.send(Event::Instance(
            workload,
            instance,
            InstanceEvent::Reaped { status, counters },
        ));
    }

    /// Forgets the exit status of a process that was reported.
    pub(super) fn forget_exit(&self, process: ProcessId) {
        if let Some(ring) = &self.ring {
            ring.forget(process);
        }
    }

    pub(super) fn remove(&self, workload: &WorkloadName) {
        self.instances.stop_watching(workload);
        failpoint!("remove-begun");
        self.handover.forget(workload);
        self.forget_commands(workload);
        if let Some(watch) = &self.tree_watch {
            watch.remove(workload);
        }
        if let Err(error) = self.tree.workloads().remove_child(workload.as_str()) {
            tracing::error!(
                "{workload}: failed to {}; it stays behind",
                error_chain(&error)
            );
        }
        failpoint!("remove-done");
        // This comes last. A workload without an entry has no cgroup.
        if let Some(removed) = self.instances.remove(workload) {
            self.unwatch_loops(removed.open.id);
            self.forget_exit(removed.main);
        }
    }

    /// Carries out what is still queued, then leaves the host as it was found.
    pub(crate) fn close(&self) {
        self.close_places();
        let begun = clock::now();
        let is_done = || self.is_idle() && self.instances.is_empty();
        while !is_done() && clock::now().since(begun) < KILL_PATIENCE {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        // Under a service manager its cgroup is another unit's.
        let holder_has_ended = self.end_holder() && !crate::service::is_managed();
        self.tree.dissolve(holder_has_ended);
    }
}
