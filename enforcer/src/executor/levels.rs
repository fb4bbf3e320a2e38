//! The use of workloads and of the host, read at each tick and when a probe needs it.

use super::Executor;
use super::instances::{Instance, Watched};
use enforcer_core::ReplicaId;
use enforcer_core::event::{Event, HostEvent, HostMeasured, Measured};
use enforcer_core::limits::Limits;
use enforcer_core::probe::{Load, Work};
use enforcer_core::spec::{Alerts, HostWatch, Resource, WorkloadSpec};
use enforcer_core::threshold::Readings;
use enforcer_core::units::{Bytes, Limit, Percent};
use enforcer_kernel::clock;
use enforcer_kernel::host_usage::{HostUsage, Used};
use enforcer_kernel::memory_info;
use enforcer_kernel::statistics::{self, Statistics};
use enforcer_kernel::usage::{self, Usage};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// The time between two readings of values for which the kernel sends no event.
const TICK: Duration = Duration::from_secs(5);
/// The host's use of memory counts as near its threshold within this many percentage points below it.
const NEAR: u32 = 10;
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
    let mut round = 0;
    loop {
        let is_tick = tokio::select! {
            _ = tick.tick() => true,
            () = executor.read_levels.notified() => false,
        };
        executor.end_without_tree();
        if is_tick && round % TRIMMED == 0 {
            memory_info::give_back();
        }
        let this = Arc::clone(&executor);
        let read = tokio::task::spawn_blocking(move || {
            if is_tick {
                this.look_around(round);
            }
            this.measure(false)
        });
        round += u64::from(is_tick);
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
    /// Reads the host and all workloads, if the host's memory is watched: who steps back for it depends
    /// on who uses most.
    pub(crate) fn measure_all(&self) -> Option<Event> {
        let watched = self.host_levels.lock().watch.memory.is_some();
        watched.then(|| self.measure(true))
    }

    /// Reads the host, and the workloads whose turn it is, or all.
    fn measure(&self, all: bool) -> Event {
        let host = self.measure_host();
        let (is_near, alerts) = {
            let levels = self.host_levels.lock();
            let alerts = Arc::clone(&levels.alerts);
            let threshold = levels
                .watch
                .memory
                .and_then(|watch| watch.warn.or(watch.critical));
            let is_near = host
                .memory
                .zip(threshold)
                .is_some_and(|(used, from)| used.0 + NEAR >= from.0);
            (is_near, alerts)
        };
        let all = all || is_near;
        let now = clock::now();
        let cpu = self.use_of_all.cpu();
        let is_due = |name: &ReplicaId, spec: &WorkloadSpec, readings: Readings| {
            let watched =
                spec.watch.memory.is_some() || alerts.least_memory(name.workload()).is_some();
            let bounded = spec.limits.memory_max.is_some() && watched;
            all || spec.is_scaled
                || spec.watch.cpu.is_some()
                || (bounded && readings.is_due(now) && readings.may_have_grown(now, cpu))
        };
        let due = self.instances.due_for_reading(is_due).into_iter();
        let measured = due.filter_map(|watched| {
            let watch = watched.spec.watch.memory;
            let warn = watch.and_then(|watch| watch.warn.or(watch.critical));
            let alert_from = alerts.least_memory(watched.name.workload());
            let from = [warn, alert_from].into_iter().flatten().min();
            let measured = measure(&watched, warn, from)?;
            let hold = watch.map_or(Duration::ZERO, |watch| watch.hold);
            let max = watched.spec.limits.memory_max.and_then(Limit::at);
            let room = max.zip(from).map(|(max, from)| {
                let threshold = u128::from(max.0) * u128::from(from.0) / 100;
                let threshold = u64::try_from(threshold).unwrap_or(u64::MAX);
                Bytes(threshold.saturating_sub(measured.memory_bytes.0))
            });
            self.instances.set_readings(&watched.name, |readings| {
                let used = (measured.memory, cpu.zip(room));
                readings.note(now, used, from, hold);
            });
            Some((watched.name, measured))
        });
        Event::Host(HostEvent::Measured {
            workloads: measured.collect(),
            host,
        })
    }

    /// Has the use of this workload read soon: it was at its limit just now.
    pub(crate) fn read_level_of(&self, workload: &ReplicaId) {
        let is_far = |readings: &mut Readings| {
            let is_far = !readings.is_due(clock::now());
            readings.hasten();
            is_far
        };
        // One whose turn comes with the next tick is not read more often than that.
        if self.instances.set_readings(workload, is_far) == Some(true) {
            self.read_levels.notify_one();
        }
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
            free: self.free_for_all(),
        }
    }

    /// Returns the memory that all workloads together may still take, if the number of replicas depends on
    /// it.
    fn free_for_all(&self) -> Option<Bytes> {
        if !self.instances.any(|spec| spec.is_scaled) {
            return None;
        }
        usage::memory_free(self.tree.workloads())
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

    /// Returns a workload's instance and its use now.
    pub(crate) fn usage_of(&self, workload: &ReplicaId) -> Option<(Instance, Usage)> {
        let (instance, files, limits) = self.instances.usage_of(workload)?;
        let usage = files.read(self.trusted(&limits));
        Some((instance, usage))
    }

    /// Returns the statistics of a workload's cgroup now.
    pub(crate) fn statistics_of(&self, workload: &ReplicaId) -> Option<Statistics> {
        let (_, files, limits) = self.instances.usage_of(workload)?;
        statistics::read(&files, self.trusted(&limits))
    }

    /// Returns the limits that the kernel is known to have. Without a watch of the tree, another process
    /// may have changed one a minute ago.
    fn trusted<'l>(&self, limits: &'l Option<Arc<Limits>>) -> Option<&'l Limits> {
        limits.as_deref().filter(|_| self.tree_watch.is_some())
    }

    /// Returns the pressure on a workload.
    pub(crate) fn load_of(&self, workload: &ReplicaId) -> Load {
        self.with_cgroup(workload, usage::read_load)
            .unwrap_or_default()
    }

    /// Returns the work of a workload in the life of its cgroup.
    pub(crate) fn work_of(&self, workload: &ReplicaId) -> Option<Work> {
        self.with_cgroup(workload, usage::read_work).flatten()
    }
}

/// Reads two small files at most; `memory.stat` and the pressure only if the rest of the memory may be
/// full, since both are work for the kernel. `from` is the lowest share that matters, and `warn` the
/// one of the workload's own watch.
fn measure(watched: &Watched, warn: Option<Percent>, from: Option<Percent>) -> Option<Measured> {
    let current = watched.files.memory()?;
    let max = watched.spec.limits.memory_max.and_then(Limit::at);
    let percent = |used: u64, max: Bytes| {
        let percent = u128::from(used) * 100 / u128::from(max.0.max(1));
        Percent(u32::try_from(percent).unwrap_or(u32::MAX))
    };
    let charged = max.map(|max| percent(current, max));
    let reaches = |share: Option<Percent>| {
        let both = charged.zip(share);
        both.is_some_and(|(charged, share)| charged >= share)
    };
    let mut measured = Measured {
        memory: charged,
        memory_bytes: Bytes(current),
        ..Measured::default()
    };
    if reaches(from) {
        let used = watched.files.working_set();
        measured.memory = max.zip(used).map(|(max, used)| percent(used, max));
        // Thrashing at its own limit is what its own watch is about.
        if reaches(warn) {
            measured.memory_stalled = usage::read_load(&watched.cgroup).memory;
        }
    }
    if watched.spec.watch.cpu.is_some() || watched.spec.is_scaled {
        measured.cpu = watched.files.cpu();
    }
    Some(measured)
}
