//! The end of an instance, of a workload's cgroup, and of the agent's own.

use super::drift::relative;
use super::instances::Instance;
use super::marks;
use super::proof::symbolize;
use super::{Executor, KILL_PATIENCE};
use crate::failpoint::failpoint;
use crate::report::error_chain;
use enforcer_core::ReplicaId;
use enforcer_core::event::{Event, ExitStatus, HungThread, InstanceEvent, InstanceId, ProcessId};
use enforcer_core::oom::Counters;
use enforcer_core::spec::StopScope;
use enforcer_kernel::cgroupfs::{Cgroup, CgroupError};
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{clock, process, threads};
use enforcer_model::signals::signal_number;
use std::sync::Arc;
use std::time::Duration;

/// Sends a signal to all processes of a workload but the main one. One that begins meanwhile gets
/// none, and is killed after the grace.
fn signal_others(instance: &Instance, number: i32) {
    let home = relative(instance.cgroup().path());
    let others = instance.cgroup().all_processes().into_iter();
    for pid in others.filter(|pid| *pid != instance.main.pid) {
        let opened = process::identify(pid).map(PidFd::of);
        let Some(Ok(Some(other))) = opened else {
            continue;
        };
        // Another process may have had the number when it was opened.
        if process::cgroup_of(pid).is_some_and(|place| process::is_home(&place, &home)) {
            // One that has ended needs no signal.
            let _ = other.signal_number(number);
        }
    }
}

/// The most threads of a program that hung that are reported, and those whose place in the program is.
const HUNG_THREADS: usize = 32;
const HUNG_NAMED: usize = 4;
/// The most processes that one report names.
const STUCK_SHOWN: usize = 3;

impl Executor {
    pub(super) fn signal(&self, workload: &ReplicaId, signal: &str, scope: StopScope) {
        let Some(instance) = self.instances.get(workload) else {
            return;
        };
        // The manifest has checked the name.
        let number = signal_number(signal).unwrap_or(libc::SIGTERM);
        failpoint!("stop-unsignalled");
        if scope == StopScope::Group {
            signal_others(&instance, number);
        }
        if let Some(pidfd) = &instance.pidfd
            && let Err(error) = pidfd.signal_number(number)
        {
            tracing::error!("{workload}: failed to send {signal}: {error}");
        }
        failpoint!("stop-signalled");
    }

    pub(super) fn kill_tree(&self, workload: &ReplicaId) {
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
    pub(super) fn report_stuck(&self, workload: &ReplicaId, instance: InstanceId) {
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

    /// Reports where the threads of an instance stand: it hangs, and its peers do not.
    pub(super) fn collect_hang(&self, workload: &ReplicaId, instance: InstanceId) {
        let pids = self.with_cgroup(workload, Cgroup::all_processes);
        let mut all = Vec::new();
        for pid in pids.unwrap_or_default() {
            let left = HUNG_THREADS.saturating_sub(all.len());
            for thread in threads::standings(pid, left) {
                // A name takes a process of its own.
                let address = thread.address.filter(|_| all.len() < HUNG_NAMED);
                let at = address.and_then(|address| symbolize::stack(pid, &[address]).pop());
                all.push(HungThread {
                    pid,
                    tid: thread.tid,
                    name: thread.name,
                    state: thread.state.to_string(),
                    call: thread.call,
                    kernel_stack: thread.kernel_stack,
                    at,
                });
            }
        }
        let event = InstanceEvent::Collected { threads: all };
        let event = Event::Instance(workload.clone(), instance, event);
        self.events.send(event);
    }

    /// Waits for the main process, kills what it left behind, and reads the counters before the
    /// exit is reported.
    pub(super) fn reap(self: &Arc<Self>, workload: ReplicaId, instance: InstanceId) {
        failpoint!("reap-begun");
        let Some(ended) = self.instances.get(&workload) else {
            // The take-over found no process of it. What killed it may be recorded.
            if let Some(ring) = &self.ring {
                marks::drain(ring, self);
            }
            let end = self.end_of_gone(&workload);
            let (status, counters) = end.unwrap_or((ExitStatus::Unknown, Counters::default()));
            self.events.send(Event::Instance(
                workload,
                instance,
                InstanceEvent::Reaped { status, counters },
            ));
            return;
        };
        if ended.cgroup().is_foreign() {
            self.collect_service(workload, instance, &ended);
            return;
        }
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
                // Its instance has ended, so a process that was named since then ends as well.
                self.kill_tree(&workload);
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
        self.pass_on_held(&workload, &ended.spec);
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

    pub(super) fn remove(self: &Arc<Self>, workload: &ReplicaId) {
        self.let_service_go(workload);
        self.remove_directories(workload);
        self.remove_credentials_folder(workload);
        self.take_from_gate(workload);
        self.close_sockets(workload);
        self.remove_cgroup(workload);
    }

    /// Removes the cgroup of a workload, and what the kernel's programs know of it.
    pub(super) fn remove_from_tree(&self, workload: &ReplicaId) -> Result<(), CgroupError> {
        self.tree.remove(workload, |group| {
            if let Some(ring) = &self.ring {
                ring.has_no_replicas(group);
            }
        })
    }

    /// Removes the cgroup of a workload, which may begin anew in another one.
    pub(super) fn remove_cgroup(&self, workload: &ReplicaId) {
        self.instances.stop_watching(workload);
        failpoint!("remove-begun");
        self.handover.forget(workload);
        if let Some(watch) = &self.tree_watch {
            watch.remove(workload);
        }
        if let Err(error) = self.remove_from_tree(workload) {
            tracing::error!(
                "{workload}: failed to {}; it stays behind",
                error_chain(&error)
            );
        }
        failpoint!("remove-done");
        // A workload without an entry has no cgroup.
        self.name_files(workload, &[], false);
        if let Some(removed) = self.instances.remove(workload) {
            self.close_notices(workload, &removed.spec);
            self.unwatch_loops(removed.open.id);
            self.forget_exit(removed.main);
        }
        // Without the entry, no probe begins.
        self.forget_commands(workload);
    }

    /// Carries out what is still queued, then leaves the host as it was found.
    pub(crate) fn close(&self) {
        self.finish_giving_back();
        self.close_places();
        let begun = clock::now();
        let is_done = || self.is_idle() && self.instances.is_empty();
        while !is_done() && clock::now().since(begun) < KILL_PATIENCE {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.fork_server.end();
        self.close_gate();
        // Under a service manager its cgroup is another unit's.
        let holder_has_ended = self.end_holder() && !crate::service::is_managed();
        self.tree.dissolve(holder_has_ended);
    }
}
