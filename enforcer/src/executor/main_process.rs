//! The main process of an instance, where it changes: a daemon forks, and its first process ends
//! (`main_pid_file`), or it names another one (`MAINPID=` of sd_notify(3)). Only a process of the
//! workload's own cgroup is believed.

use super::Executor;
use super::drift::relative;
use super::instances::Instance;
use super::view::find_in;
use crate::store::handover::RunningInstance;
use crate::watch;
use enforcer_core::ReplicaId;
use enforcer_core::event::{CgroupId, Event, ExitStatus, InstanceEvent, InstanceId, ProcessId};
use enforcer_core::spec::WorkloadSpec;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::{clock, process, regular_file};
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

/// The pause between two looks at a file that does not name the main process yet.
const AGAIN: Duration = Duration::from_millis(20);
/// A number, and white space around it.
const LONGEST_FILE: u64 = 64;

/// Returns whether the main process of this workload may become another one.
pub(super) fn may_change(spec: &WorkloadSpec) -> bool {
    spec.main_pid_file.is_some() || super::notices::is_asked_for(spec)
}

/// Returns the process that a file of the workload's names, if it is one of this cgroup.
fn named_in(spec: &WorkloadSpec, cgroup: &Cgroup) -> Option<(ProcessId, PidFd)> {
    let place = find_in(spec, cgroup, spec.main_pid_file.as_deref()?).ok()?;
    let file = regular_file::open(place.path()).ok()?;
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text).ok()?;
    held(text.trim().parse().ok()?, cgroup)
}

/// Returns a process that lives in this cgroup.
fn held(pid: u32, cgroup: &Cgroup) -> Option<(ProcessId, PidFd)> {
    let found = process::identify(pid)?;
    let pidfd = PidFd::of(found).ok()??;
    if pidfd.has_exited() {
        return None;
    }
    // After it is held, so that the place is that of this process.
    let place = process::cgroup_of(pid)?;
    process::is_home(&place, &relative(cgroup.path())).then_some((found, pidfd))
}

/// What the exit of a main process means.
enum After {
    /// Another process is the main one, and is followed from here.
    Next(Arc<PidFd>),
    /// Another process is the main one, and is followed elsewhere.
    Superseded,
    /// The instance has ended.
    Ended,
}

impl Executor {
    /// Reports the exit of the main process, whichever that is by then.
    pub(super) async fn follow_main(
        self: Arc<Self>,
        workload: ReplicaId,
        instance: InstanceId,
        mut pidfd: Arc<PidFd>,
    ) {
        loop {
            watch::ended(&pidfd, &workload).await;
            let (this, name, ended) = (Arc::clone(&self), workload.clone(), Arc::clone(&pidfd));
            let next = move || this.after_exit(&name, instance, &ended);
            match tokio::task::spawn_blocking(next).await {
                Ok(After::Next(next)) => pidfd = next,
                Ok(After::Superseded) => return,
                Ok(After::Ended) | Err(_) => break,
            }
        }
        let exited = InstanceEvent::MainExited;
        self.events
            .send(Event::Instance(workload, instance, exited));
    }

    fn after_exit(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
        ended: &Arc<PidFd>,
    ) -> After {
        if self
            .instances
            .get(workload)
            .is_some_and(|known| super::notices::is_asked_for(&known.spec))
        {
            // What it said last may still be on its way.
            self.recall_notices();
        }
        let Some(known) = self
            .instances
            .get(workload)
            .filter(|known| known.id == instance)
        else {
            return After::Ended;
        };
        let is_main = known
            .pidfd
            .as_ref()
            .is_some_and(|main| Arc::ptr_eq(main, ended));
        if !is_main {
            let _ = ended.wait();
            return After::Superseded;
        }
        if known.spec.main_pid_file.is_none() {
            return After::Ended;
        }
        // A daemon that fails says so by its exit code, and leaves nothing behind. One that was named
        // is no child of this agent, and has named its successor by then.
        let forks = !known.is_adopted;
        if forks && !matches!(ended.peek(), Ok(ExitStatus::Code(0))) {
            return After::Ended;
        }
        let until = clock::now().after(known.spec.start_timeout);
        loop {
            if let Some((main, pidfd)) = named_in(&known.spec, known.cgroup()) {
                let _ = ended.wait();
                return After::Next(self.take_main(workload, &known, main, pidfd));
            }
            let may_come = forks && known.cgroup().is_populated().unwrap_or(false);
            if !may_come || clock::now() >= until {
                return After::Ended;
            }
            clock::pause(AGAIN);
        }
    }

    /// Makes a process of the workload its main one.
    pub(super) fn change_main(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
        pid: u32,
    ) {
        let Some(known) = self
            .instances
            .get(workload)
            .filter(|known| known.id == instance)
        else {
            return;
        };
        if known.main.pid == pid {
            // The core may have been told before it knew the workload.
            self.report_main(workload, instance, pid);
            return;
        }
        let Some((main, pidfd)) = held(pid, known.cgroup()) else {
            tracing::debug!("{workload}: its MAINPID {pid} is no process of its cgroup");
            return;
        };
        let pidfd = self.take_main(workload, &known, main, pidfd);
        let this = Arc::clone(self);
        self.runtime
            .spawn(this.follow_main(workload.clone(), instance, pidfd));
    }

    fn report_main(&self, workload: &ReplicaId, instance: InstanceId, pid: u32) {
        let changed = InstanceEvent::MainChanged { pid };
        self.events
            .send(Event::Instance(workload.clone(), instance, changed));
    }

    pub(super) fn take_main(
        &self,
        workload: &ReplicaId,
        known: &Instance,
        main: ProcessId,
        pidfd: PidFd,
    ) -> Arc<PidFd> {
        if let Some(ring) = &self.ring {
            ring.watch_on(main);
        }
        let output = known.output.as_ref().map(|pipe| pipe.inode);
        self.record_main((workload, known.id), main, (known.open.id, output));
        let pidfd = Arc::new(pidfd);
        self.instances.change_main(workload, main, &pidfd);
        self.forget_exit(known.main);
        self.report_main(workload, known.id, main.pid);
        pidfd
    }

    /// Keeps the main process of an instance that runs for the next agent.
    pub(super) fn record_main(
        &self,
        (workload, instance): (&ReplicaId, InstanceId),
        main: ProcessId,
        (cgroup, output): (CgroupId, Option<u64>),
    ) {
        let recorded = self.handover.record(&RunningInstance {
            workload: workload.clone(),
            instance,
            pid: main.pid,
            start_ticks: main.start_ticks,
            cgroup,
            output,
            has_run: true,
        });
        if let Err(error) = recorded {
            tracing::error!("{workload}: the next agent will not know its main process: {error}");
        }
    }

    /// Returns the main process that an instance has named while no agent ran.
    pub(super) fn named_main(spec: &WorkloadSpec, cgroup: &Cgroup) -> Option<(ProcessId, PidFd)> {
        named_in(spec, cgroup)
    }
}
