//! The table of the workloads' instances: their cgroups, processes and descriptors. A reader gets a
//! copy of an entry, so the table is never locked while something else is done. Every change has a
//! method here.

use super::output::KeptPipe;
use enforcer_core::ReplicaId;
use enforcer_core::event::{CgroupId, InstanceId, ProcessId};
use enforcer_core::limits::Limits;
use enforcer_core::spec::WorkloadSpec;
use enforcer_core::threshold::Readings;
use enforcer_core::units::MonoTime;
use enforcer_kernel::bpf::network::NetworkFilters;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::counters::CounterReader;
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::spawn::Launch;
use enforcer_kernel::usage::{Usage, UsageFiles};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// A workload's cgroup with its id and the reader of its counters. If the cgroup is made again, all
/// of them are others.
#[derive(Clone, Debug)]
pub(crate) struct OpenCgroup {
    pub(crate) cgroup: Arc<Cgroup>,
    pub(crate) id: CgroupId,
    pub(crate) counters: Arc<Mutex<CounterReader>>,
    pub(crate) network: Arc<NetworkFilters>,
}

/// An instance of a workload, and what is known about its cgroup.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(super) id: InstanceId,
    pub(crate) open: OpenCgroup,
    /// The main process.
    pub(crate) main: ProcessId,
    pub(super) pidfd: Option<Arc<PidFd>>,
    /// Another agent has started the process, so only eBPF can report its exit status.
    pub(super) is_adopted: bool,
    /// The spec that was last applied.
    pub(crate) spec: Arc<WorkloadSpec>,
    /// The limits that were last written, with all claims; `None` if they are not known.
    pub(super) limits: Option<Arc<Limits>>,
    /// Made when its use is first read.
    files: Option<Arc<UsageFiles>>,
    /// Another process has changed a limit, and it was not written again.
    drifted: bool,
    /// The start of this instance, and the use of its cgroup at that time.
    pub(crate) begun: (MonoTime, Usage),
    /// The pipe that its output is; `None` if it writes elsewhere.
    pub(super) output: Option<KeptPipe>,
    /// The launch that the last start prepared, and its spec.
    pub(super) launch: Option<(Arc<WorkloadSpec>, Arc<Launch>)>,
    /// The time of the next reading of its use.
    readings: Readings,
    /// The task that watches `memory.events`.
    watch: Option<AbortHandle>,
}

impl Instance {
    pub(crate) fn cgroup(&self) -> &Arc<Cgroup> {
        &self.open.cgroup
    }

    /// Returns the files that its use is read from.
    fn files(&mut self) -> Arc<UsageFiles> {
        let new = || Arc::new(UsageFiles::new(Arc::clone(&self.open.cgroup)));
        Arc::clone(self.files.get_or_insert_with(new))
    }
}

/// A new instance, as a start or a take-over makes it.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: InstanceId,
    pub(super) open: OpenCgroup,
    pub(super) main: ProcessId,
    pub(super) output: Option<KeptPipe>,
    pub(super) spec: Arc<WorkloadSpec>,
    pub(super) launch: Option<Arc<Launch>>,
    pub(super) begun: (MonoTime, Usage),
}

/// A workload whose use is read.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) name: ReplicaId,
    pub(super) cgroup: Arc<Cgroup>,
    pub(super) spec: Arc<WorkloadSpec>,
    pub(super) files: Arc<UsageFiles>,
}

#[derive(Debug, Default)]
pub(crate) struct Instances(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    of: BTreeMap<ReplicaId, Instance>,
    by_cgroup: HashMap<CgroupId, ReplicaId>,
}

impl Instances {
    pub(crate) fn get(&self, workload: &ReplicaId) -> Option<Instance> {
        self.0.lock().of.get(workload).cloned()
    }

    pub(crate) fn cgroup(&self, workload: &ReplicaId) -> Option<Arc<Cgroup>> {
        let table = self.0.lock();
        table
            .of
            .get(workload)
            .map(|found| Arc::clone(found.cgroup()))
    }

    pub(super) fn has(&self, workload: &ReplicaId) -> bool {
        self.0.lock().of.contains_key(workload)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().of.is_empty()
    }

    /// Returns the cgroups above those that others have made.
    pub(super) fn foreign_places(&self) -> BTreeSet<PathBuf> {
        let table = self.0.lock();
        let all = table.of.values().map(Instance::cgroup);
        let foreign = all.filter(|cgroup| cgroup.is_foreign());
        let above = foreign.filter_map(|cgroup| cgroup.path().parent());
        above.map(Path::to_owned).collect()
    }

    /// Returns every instance, in the order of the names.
    pub(crate) fn all(&self) -> Vec<(ReplicaId, Instance)> {
        let table = self.0.lock();
        let all = table.of.iter();
        all.map(|(name, found)| (name.clone(), found.clone()))
            .collect()
    }

    /// Returns the shortest CPU time after which a thread of a workload is a suspect; `None` if no
    /// workload is watched for loops.
    pub(crate) fn least_loop_budget(&self) -> Option<Duration> {
        let table = self.0.lock();
        let budgets = table.of.values();
        budgets
            .filter_map(|found| found.spec.watch.loop_budget())
            .min()
    }

    /// Returns the workload whose main process this is.
    pub(super) fn workload_of(&self, pid: u32) -> Option<ReplicaId> {
        let table = self.0.lock();
        let mut all = table.of.iter();
        let found = all.find(|(_, instance)| instance.main.pid == pid);
        found.map(|(name, _)| name.clone())
    }

    /// Returns the workload whose cgroup this is.
    pub(crate) fn owner_of(&self, id: CgroupId) -> Option<(ReplicaId, OpenCgroup)> {
        let table = self.0.lock();
        let name = table.by_cgroup.get(&id)?;
        let found = table.of.get(name)?;
        Some((name.clone(), found.open.clone()))
    }

    /// Enters a new instance. Returns the main process of the one before it. If the workload had
    /// none, `watch` begins to watch the cgroup.
    pub(super) fn begin(
        &self,
        workload: &ReplicaId,
        begun: Begun,
        watch: impl FnOnce(&OpenCgroup) -> AbortHandle,
    ) -> Option<ProcessId> {
        let Begun {
            id,
            open,
            main,
            output,
            spec,
            launch,
            begun,
        } = begun;
        let launch = launch.map(|launch| (Arc::clone(&spec), launch));
        let mut table = self.0.lock();
        let before = table.of.remove(workload);
        let main_before = before.as_ref().map(|before| before.main);
        // What belongs to the cgroup stays, and what belongs to the instance is new.
        let (limits, files, watching) = match before {
            Some(before) => (before.limits, before.files, before.watch),
            None => (None, None, Some(watch(&open))),
        };
        let instance = Instance {
            id,
            open,
            main,
            pidfd: None,
            is_adopted: false,
            spec,
            limits,
            files,
            drifted: false,
            begun,
            output,
            launch,
            readings: Readings::default(),
            watch: watching,
        };
        table.by_cgroup.insert(instance.open.id, workload.clone());
        table.of.insert(workload.clone(), instance);
        main_before
    }

    /// Notes the descriptor of the main process.
    pub(super) fn set_main(
        &self,
        workload: &ReplicaId,
        (main, pidfd): (ProcessId, &Arc<PidFd>),
        is_adopted: bool,
    ) {
        let mut table = self.0.lock();
        let found = table.of.get_mut(workload);
        // The program may have named another one by now.
        if let Some(found) = found.filter(|found| found.main == main) {
            found.pidfd = Some(Arc::clone(pidfd));
            found.is_adopted = is_adopted;
        }
    }

    /// Notes another main process, which is no child of this agent.
    pub(super) fn change_main(&self, workload: &ReplicaId, main: ProcessId, pidfd: &Arc<PidFd>) {
        if let Some(found) = self.0.lock().of.get_mut(workload) {
            found.main = main;
            found.pidfd = Some(Arc::clone(pidfd));
            found.is_adopted = true;
        }
    }

    /// Notes the limits that the kernel was given, or that a write failed. Some files were written
    /// then, and some were not. If it was a repair, what is not right is still a drift.
    pub(super) fn set_limits(&self, workload: &ReplicaId, wanted: &Limits, are_written: bool) {
        if let Some(found) = self.0.lock().of.get_mut(workload) {
            if are_written {
                found.limits = Some(Arc::new(wanted.clone()));
                found.drifted = false;
            } else {
                found.limits.take_if(|given| **given != *wanted);
            }
        }
    }

    /// Returns whether these are the limits that the kernel was given for this cgroup, and that no
    /// other process has changed.
    pub(super) fn have_limits(
        &self,
        workload: &ReplicaId,
        cgroup: CgroupId,
        limits: &Limits,
    ) -> bool {
        let table = self.0.lock();
        table.of.get(workload).is_some_and(|found| {
            let given = found.limits.as_deref();
            found.open.id == cgroup && !found.drifted && given == Some(limits)
        })
    }

    /// Notes the spec that was applied. Returns the cgroup that it was applied to.
    pub(super) fn set_spec(
        &self,
        workload: &ReplicaId,
        spec: &Arc<WorkloadSpec>,
    ) -> Option<CgroupId> {
        let mut table = self.0.lock();
        let found = table.of.get_mut(workload)?;
        found.spec = Arc::clone(spec);
        Some(found.open.id)
    }

    /// Notes the launch of an instance that was taken over, unless there is one. Returns the one
    /// that there is.
    pub(super) fn set_launch(
        &self,
        workload: &ReplicaId,
        launch: (Arc<WorkloadSpec>, Arc<Launch>),
    ) -> Option<(Arc<WorkloadSpec>, Arc<Launch>)> {
        let mut table = self.0.lock();
        let found = table.of.get_mut(workload)?;
        Some(found.launch.get_or_insert(launch).clone())
    }

    /// Returns whether an instance fulfils a condition.
    pub(super) fn any(&self, condition: impl Fn(&WorkloadSpec) -> bool) -> bool {
        let table = self.0.lock();
        table.of.values().any(|found| condition(&found.spec))
    }

    /// Returns the workloads whose use is to be read now, with the files to read it from. `is_due`
    /// knows what is watched.
    pub(super) fn due_for_reading(
        &self,
        is_due: impl Fn(&ReplicaId, &WorkloadSpec, Readings) -> bool,
    ) -> Vec<Watched> {
        let mut table = self.0.lock();
        let due = table.of.iter_mut().filter_map(|(name, found)| {
            if !is_due(name, &found.spec, found.readings) {
                return None;
            }
            Some(Watched {
                name: name.clone(),
                cgroup: Arc::clone(&found.open.cgroup),
                spec: Arc::clone(&found.spec),
                files: found.files(),
            })
        });
        due.collect()
    }

    /// Returns an instance with the files that its use is read from, and the limits that the kernel is
    /// known to have.
    pub(crate) fn usage_of(
        &self,
        workload: &ReplicaId,
    ) -> Option<(Instance, Arc<UsageFiles>, Option<Arc<Limits>>)> {
        let mut table = self.0.lock();
        let found = table.of.get_mut(workload)?;
        let files = found.files();
        let limits = found.limits.clone().filter(|_| !found.drifted);
        Some((found.clone(), files, limits))
    }

    /// Notes whether another process has changed a limit.
    pub(super) fn set_drifted(&self, workload: &ReplicaId, is_drifted: bool) {
        if let Some(found) = self.0.lock().of.get_mut(workload) {
            found.drifted = is_drifted;
        }
    }

    /// Changes the time of a workload's next reading.
    pub(super) fn set_readings<T>(
        &self,
        workload: &ReplicaId,
        change: impl FnOnce(&mut Readings) -> T,
    ) -> Option<T> {
        let mut table = self.0.lock();
        Some(change(&mut table.of.get_mut(workload)?.readings))
    }

    /// Exchanges the cgroup of a workload, and the task that watches it. Returns the instance as it
    /// was before.
    pub(super) fn replace_cgroup(
        &self,
        workload: &ReplicaId,
        open: OpenCgroup,
        watch: AbortHandle,
    ) -> Option<Instance> {
        let mut table = self.0.lock();
        let found = table.of.get_mut(workload)?;
        let before = found.clone();
        let id = open.id;
        found.open = open;
        found.files = None;
        found.limits = None;
        if let Some(old) = found.watch.replace(watch) {
            old.abort();
        }
        table.by_cgroup.remove(&before.open.id);
        table.by_cgroup.insert(id, workload.clone());
        Some(before)
    }

    /// Ends the task that watches the cgroup.
    pub(super) fn stop_watching(&self, workload: &ReplicaId) {
        let mut table = self.0.lock();
        let watch = table
            .of
            .get_mut(workload)
            .and_then(|found| found.watch.take());
        if let Some(watch) = watch {
            watch.abort();
        }
    }

    pub(super) fn remove(&self, workload: &ReplicaId) -> Option<Instance> {
        let mut table = self.0.lock();
        let removed = table.of.remove(workload)?;
        table.by_cgroup.remove(&removed.open.id);
        Some(removed)
    }
}
