//! The use of workloads and of the host, read at each tick and when a probe needs it.

use super::Executor;
use enforcer_core::WorkloadName;
use enforcer_core::event::{Event, HostEvent, HostMeasured, Measured};
use enforcer_core::probe::{Load, Work};
use enforcer_core::spec::{Alerts, HostWatch, Resource, WorkloadSpec};
use enforcer_core::units::{Bytes, Limit, Percent};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::host_usage::{HostUsage, Used};
use enforcer_kernel::memory_info;
use enforcer_kernel::usage::{self, LevelFiles};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// The time between two readings of values for which the kernel sends no event.
const TICK: Duration = Duration::from_secs(5);
/// Ticks between two times that free memory goes back to the kernel.
const TRIMMED: u64 = 12;

/// The values of the host's thresholds, and the reading before.
#[derive(Debug, Default)]
pub(crate) struct HostLevels {
    pub(super) watch: HostWatch,
    pub(super) alerts: Arc<Alerts>,
    usage: HostUsage,
    /// The last answer of the disk, and whether it is being asked: a file system may
    /// hang, and nothing else must.
    disk: Option<Used>,
    asking: bool,
}

/// Reads the levels for as long as the agent lives.
pub(crate) async fn tick(executor: Arc<Executor>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for round in 0.. {
        tick.tick().await;
        executor.end_without_tree();
        if round % TRIMMED == 0 {
            memory_info::give_back();
        }
        let this = Arc::clone(&executor);
        let read = tokio::task::spawn_blocking(move || {
            this.look_around(round);
            this.measure()
        });
        match read.await {
            Ok(read) => executor.send(read),
            Err(error) => tracing::error!("the levels were not read: {error}"),
        }
        ask_disk(&executor).await;
    }
}

/// Waits a little for its answer; one that comes late is the next tick's.
async fn ask_disk(executor: &Arc<Executor>) {
    let path = {
        let mut levels = executor.host_levels.lock();
        let path = match &levels.watch.disk {
            Some(disk) => disk.path.clone(),
            None if levels.alerts.watches(Resource::Disk) => "/".to_owned(),
            None => {
                levels.disk = None;
                return;
            }
        };
        if std::mem::replace(&mut levels.asking, true) {
            return;
        }
        path
    };
    let this = Arc::clone(executor);
    let asked = tokio::task::spawn_blocking(move || {
        let used = HostUsage::disk(path.as_ref());
        let mut levels = this.host_levels.lock();
        levels.disk = used;
        levels.asking = false;
    });
    let _ = tokio::time::timeout(TICK / 2, asked).await;
}

impl Executor {
    fn measure(&self) -> Event {
        let host = self.measure_host();
        let (all, alerts) = {
            let levels = self.host_levels.lock();
            (levels.watch.memory.is_some(), Arc::clone(&levels.alerts))
        };
        let entries: Vec<Entry> = self.entries_to_measure(all, &alerts);
        let measured = entries.into_iter().filter_map(|entry| {
            let measured = measure(&entry)?;
            Some((entry.name, measured))
        });
        Event::Host(HostEvent::Measured {
            workloads: measured.collect(),
            host,
        })
    }

    fn entries_to_measure(&self, all: bool, alerts: &Alerts) -> Vec<Entry> {
        let instances = self.instances.all().into_iter();
        let wanted = instances.filter_map(|(name, instance)| {
            let watch = &instance.spec.watch;
            let alert_from = alerts.least_memory(&name);
            let watched = watch.memory.is_some() || alert_from.is_some();
            let bounded = instance.spec.limits.memory_max.is_some() && watched;
            if !(all || bounded || watch.cpu.is_some()) {
                return None;
            }
            let files = self.instances.level_files(&name)?;
            Some(Entry {
                name,
                cgroup: Arc::clone(instance.cgroup()),
                spec: instance.spec,
                alert_from,
                files,
            })
        });
        wanted.collect()
    }

    fn measure_host(&self) -> HostMeasured {
        let mut levels = self.host_levels.lock();
        let HostLevels {
            watch,
            alerts,
            usage,
            disk,
            ..
        } = &mut *levels;
        let wanted = |watched: bool, resource| watched || alerts.watches(resource);
        let memory = wanted(watch.memory.is_some(), Resource::Memory);
        let cpu = wanted(watch.cpu.is_some(), Resource::Cpu);
        HostMeasured {
            memory: memory.then(|| usage.memory()).flatten().map(Used::percent),
            cpu: cpu.then(|| usage.cpu()).flatten().map(Used::percent),
            disk: disk.map(Used::percent_up),
        }
    }

    /// Returns the use of the watched file system, or of the root file system without one.
    pub(crate) fn disk_used(&self) -> Option<Used> {
        let levels = self.host_levels.lock();
        match levels.disk {
            Some(known) => Some(known),
            None if levels.watch.disk.is_some() => None,
            None => {
                drop(levels);
                HostUsage::disk("/".as_ref())
            }
        }
    }

    /// Returns the pressure on a workload.
    pub(crate) fn load_of(&self, workload: &WorkloadName) -> Load {
        self.with_cgroup(workload, usage::read_load)
            .unwrap_or_default()
    }

    /// Returns the work of a workload in the life of its cgroup.
    pub(crate) fn work_of(&self, workload: &WorkloadName) -> Option<Work> {
        self.with_cgroup(workload, usage::read_work).flatten()
    }
}

/// The data of one workload for a round.
struct Entry {
    name: WorkloadName,
    cgroup: Arc<Cgroup>,
    spec: Arc<WorkloadSpec>,
    /// The least share of its `memory.max` that an alert's rule is about.
    alert_from: Option<Percent>,
    files: Arc<LevelFiles>,
}

/// Two small files at most; `memory.stat` and the pressure only where the rest of
/// the memory may be full, since both are work for the kernel.
fn measure(entry: &Entry) -> Option<Measured> {
    let current = entry.files.memory()?;
    let max = entry.spec.limits.memory_max.and_then(Limit::at);
    let watch = entry.spec.watch.memory;
    let percent = |used: u64, max: Bytes| {
        let percent = u128::from(used) * 100 / u128::from(max.0.max(1));
        Percent(u32::try_from(percent).unwrap_or(u32::MAX))
    };
    let charged = max.map(|max| percent(current, max));
    let warn = watch.and_then(|watch| watch.warn.or(watch.critical));
    let suspicious = charged.zip([warn, entry.alert_from].into_iter().flatten().min());
    let mut measured = Measured {
        memory: charged,
        memory_bytes: Bytes(current),
        ..Measured::default()
    };
    if suspicious.is_some_and(|(charged, warn)| charged >= warn) {
        let used = usage::working_set(&entry.cgroup, current);
        measured.memory = max.map(|max| percent(used, max));
        // Thrashing at its own limit is what its own watch is about.
        if charged
            .zip(warn)
            .is_some_and(|(charged, warn)| charged >= warn)
        {
            measured.memory_stalled = usage::read_load(&entry.cgroup).memory;
        }
    }
    if entry.spec.watch.cpu.is_some() {
        measured.cpu = entry.files.cpu();
    }
    Some(measured)
}
