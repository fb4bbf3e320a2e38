//! Checks whether a workload still has its limits and its cgroup. The check runs when
//! another process has touched the cgroup, after the agent's own actions on it.

use super::instances::OpenCgroup;
use super::{Executor, Work, sandbox};
use crate::report::error_chain;
use enforcer_core::ReplicaId;
use enforcer_core::drift::{Drifted, PLACE};
use enforcer_core::event::{Event, InstanceEvent, InstanceId, LimitChange, WorkloadEvent};
use enforcer_kernel::cgroupfs::{Cgroup, CgroupError};
use enforcer_kernel::inotify::{Touched, TreeWatch};
use enforcer_kernel::{limits, process, ready};
use std::path::Path;
use std::sync::Arc;
use tokio::io::Interest;

/// The number of ticks in which every workload is checked once: one minute.
const ROUNDS: u64 = 12;

/// Waits for changes of the cgroups, for as long as the agent lives.
pub(crate) async fn follow(executor: Arc<Executor>) {
    let Some(watch) = &executor.tree_watch else {
        return;
    };
    let polled = match ready::watch(&**watch, Interest::READABLE) {
        Ok(polled) => polled,
        Err(error) => {
            tracing::warn!("changes of cgroups can't be waited for: {error}");
            return;
        }
    };
    while let Ok(mut readable) = polled.readable().await {
        readable.clear_ready();
        for touched in watch.read() {
            executor.touched(touched);
        }
    }
}

/// Makes the watch of the tree. Without one, drift is found within a minute.
pub(super) fn watch_tree(workloads: &Cgroup) -> Option<Arc<TreeWatch>> {
    let watch = TreeWatch::new(workloads).inspect_err(|error| {
        tracing::warn!("drift is found within a minute, and no sooner: no inotify: {error}");
    });
    watch.ok().map(Arc::new)
}

impl Executor {
    pub(super) fn touched(self: &Arc<Self>, touched: Touched) {
        let names = match touched {
            Touched::Workload(name) => vec![name],
            Touched::Everything => {
                let all = self.instances.all().into_iter();
                all.map(|(name, _)| name).collect()
            }
        };
        for name in names {
            // One check covers all changes before it.
            if self.unchecked.lock().insert(name.clone()) {
                self.queue(Work::Check(name));
            }
        }
    }

    /// Has the place of a main process checked, which was moved.
    pub(super) fn moved(self: &Arc<Self>, pid: u32) {
        if let Some(ring) = &self.ring {
            ring.take_move(pid);
        }
        if let Some(workload) = self.instances.workload_of(pid) {
            self.touched(Touched::Workload(workload));
        }
    }

    /// Checks each workload once in [`ROUNDS`] rounds, unless the kernel reports every change: eBPF
    /// that of a main process's cgroup, and inotify that of a limit.
    pub(super) fn look_around(self: &Arc<Self>, round: u64) {
        if self.ring.is_some() && self.tree_watch.is_some() {
            return;
        }
        let turns = (0..ROUNDS).cycle().zip(self.instances.all());
        let due = turns.filter(|(turn, _)| *turn == round % ROUNDS);
        for (_, (name, instance)) in due {
            let cgroup = instance.cgroup();
            let place = process::cgroup_of(instance.main.pid);
            let away =
                place.is_some_and(|place| !process::is_home(&place, &relative(cgroup.path())));
            let limits = instance.limits.as_deref();
            let limits = limits.filter(|_| self.tree_watch.is_none());
            let changed = limits.is_some_and(|limits| !limits::drifted(cgroup, limits).is_empty());
            if away || changed {
                // The action that is under way may be the reason, so the check comes after it.
                self.queue(Work::Check(name));
            }
        }
    }

    /// Looks whether everything is as it was left.
    pub(super) fn check(&self, workload: &ReplicaId) {
        self.unchecked.lock().remove(workload);
        // Another process may have this pid by now.
        let found = self.instances.get(workload);
        let found = found.filter(|found| !found.cgroup().is_foreign());
        let Some(instance) = found.filter(|found| process::is_there(found.main)) else {
            return;
        };
        let (cgroup, pid) = (instance.cgroup(), instance.main.pid);
        let Some(place) = process::cgroup_of(pid) else {
            // The process is gone, which is reported elsewhere.
            return;
        };
        // After a refusal the kernel's values are not known. The place of the process still is.
        let wanted = instance.limits.as_deref();
        let mut found = wanted.map_or_else(Vec::new, |wanted| limits::drifted(cgroup, wanted));
        self.instances.set_drifted(workload, !found.is_empty());
        let expected = relative(cgroup.path());
        if !process::is_home(&place, &expected) {
            found = vec![Drifted {
                what: PLACE.to_owned(),
                expected,
                found: place,
            }];
        }
        if !found.is_empty() {
            self.events.send(Event::Workload(
                workload.clone(),
                WorkloadEvent::Drifted { found },
            ));
        }
    }

    /// Puts the main process, and all that it has started, back into their cgroup. Makes the cgroup
    /// again if another process has removed it.
    pub(super) fn bring_home(
        self: &Arc<Self>,
        workload: &ReplicaId,
        instance: InstanceId,
    ) -> Option<LimitChange> {
        let known = self.instances.get(workload);
        let known = known.filter(|known| process::is_there(known.main))?;
        let (cgroup, pid) = (known.cgroup(), known.main.pid);
        let place = process::cgroup_of(pid)?;
        let home = relative(cgroup.path());
        if process::is_home(&place, &home) {
            return None;
        }
        let opened = self.open_workload(workload);
        if let Ok((open, _)) = &opened
            && let Err(error) = sandbox::filter_network(&known.spec, &open.cgroup, &open.network)
        {
            // What it opens in a cgroup without filters would reach everything.
            tracing::error!(
                "{workload}: failed to {}; it runs outside its cgroup",
                error_chain(&error)
            );
            return None;
        }
        let moved = opened.and_then(|(open, _)| {
            if open.id != known.open.id {
                let counters = open.counters.lock().read()?;
                self.replace_cgroup(workload, open.clone());
                let behind = self.put_behind_gate(workload, &known.spec, open.id, None);
                if let Err(error) = behind {
                    let (stage, error) = (error.stage, error.error);
                    tracing::error!("{workload}: failed to {stage}: {error}");
                }
                self.events.send(Event::Instance(
                    workload.clone(),
                    instance,
                    InstanceEvent::Prepared {
                        cgroup: open.id,
                        counters,
                    },
                ));
            }
            take_in_all(&open.cgroup, pid, &place)
        });
        if let Err(error) = moved {
            tracing::error!(
                "{workload}: failed to {}; it runs outside its cgroup",
                error_chain(&error)
            );
            return None;
        }
        Some(LimitChange {
            file: PLACE.to_owned(),
            from: place,
            to: home,
        })
    }

    /// Goes on with another cgroup, because another process has removed the one before.
    pub(super) fn replace_cgroup(self: &Arc<Self>, workload: &ReplicaId, open: OpenCgroup) {
        let id = open.id;
        let watching = self.watch_memory_events(workload, &open);
        self.watch_cgroup(workload);
        match self
            .instances
            .replace_cgroup(workload, open, watching.clone())
        {
            Some(before) => {
                self.unwatch_loops(before.open.id);
                self.watch_loops(id, &before.spec);
            }
            None => watching.abort(),
        }
    }

    /// Watches the cgroup of a workload for changes.
    pub(super) fn watch_cgroup(&self, workload: &ReplicaId) {
        if let Some(watch) = &self.tree_watch
            && let Err(error) = watch.add(workload)
        {
            tracing::debug!("{workload}: its cgroup is not watched: {error}");
        }
    }
}

/// A process with all that it has started and is beside it; what is started meanwhile as
/// well, and what ends meanwhile is no loss.
pub(super) fn take_in_all(cgroup: &Cgroup, main: u32, place: &str) -> Result<(), CgroupError> {
    const ROUNDS: usize = 10;
    for _ in 0..ROUNDS {
        let strangers = process::tree_in(main, place);
        if strangers.is_empty() {
            break;
        }
        for stranger in strangers {
            match cgroup.take_in(stranger) {
                Err(error) if error.errno() != Some(libc::ESRCH) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the path as `/proc/PID/cgroup` has it.
pub(super) fn relative(path: &Path) -> String {
    let below = path
        .strip_prefix(enforcer_kernel::cgroupfs::MOUNT_POINT)
        .unwrap_or(path);
    format!("/{}", below.display())
}
