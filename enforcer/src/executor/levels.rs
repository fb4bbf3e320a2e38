//! What workloads and the host use, read at the tick and when a probe wants it.

use super::{Executor, Registered};
use crate::kernel::host_usage::HostUsage;
use crate::kernel::usage::{self, LevelFiles};
use enforcer_core::WorkloadName;
use enforcer_core::event::{Event, HostMeasured, Measured};
use enforcer_core::probe::{Load, Work};
use enforcer_core::spec::HostWatch;
use enforcer_core::units::{Bytes, Limit, Percent};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How often levels are read that the kernel raises no edge for.
const TICK: Duration = Duration::from_secs(5);

/// What the host's thresholds are about, and the reading before.
#[derive(Debug, Default)]
pub(crate) struct HostLevels {
    pub(super) watch: HostWatch,
    usage: HostUsage,
}

/// Reads the levels for as long as the agent lives.
pub(crate) async fn tick(executor: Arc<Executor>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        let this = Arc::clone(&executor);
        let Ok(read) = tokio::task::spawn_blocking(move || this.measure()).await else {
            return;
        };
        executor.send(read);
    }
}

impl Executor {
    fn measure(&self) -> Event {
        let host = self.measure_host();
        let all = host.memory.is_some();
        let mut registry = self.registry();
        let measured = registry.iter_mut().filter_map(|(name, entry)| {
            let wanted = all || entry.spec.watch.memory.is_some() || entry.spec.watch.cpu.is_some();
            let measured = wanted.then(|| measure(entry)).flatten()?;
            Some((name.clone(), measured))
        });
        Event::Measured {
            workloads: measured.collect(),
            host,
        }
    }

    fn measure_host(&self) -> HostMeasured {
        let mut levels = super::lock(&self.host_levels);
        let HostLevels { watch, usage } = &mut *levels;
        HostMeasured {
            memory: watch.memory.and_then(|_| usage.memory()),
            cpu: watch.cpu.and_then(|_| usage.cpu()),
            disk: watch
                .disk
                .as_ref()
                .and_then(|disk| usage.disk(disk.path.as_ref())),
        }
    }

    /// What a workload has waited for lately.
    pub(crate) fn load_of(&self, workload: &WorkloadName) -> Load {
        self.with_cgroup(workload, usage::read_load)
            .unwrap_or_default()
    }

    /// What a workload has done in its cgroup's life.
    pub(crate) fn work_of(&self, workload: &WorkloadName) -> Option<Work> {
        self.with_cgroup(workload, usage::read_work).flatten()
    }
}

/// Two small files at most; `memory.stat` and the pressure only where the rest of
/// the memory may be full, since both are work for the kernel.
fn measure(entry: &mut Registered) -> Option<Measured> {
    let files = match &mut entry.levels {
        Some(files) => files,
        none => none.insert(LevelFiles::open(&entry.cgroup).ok()?),
    };
    let current = files.memory()?;
    let max = entry.spec.limits.memory_max.and_then(Limit::at);
    let watch = entry.spec.watch.memory;
    let percent = |used: u64, max: Bytes| {
        let percent = u128::from(used) * 100 / u128::from(max.0.max(1));
        Percent(u32::try_from(percent).unwrap_or(u32::MAX))
    };
    let charged = max.map(|max| percent(current, max));
    let suspicious = charged.zip(watch.and_then(|watch| watch.warn.or(watch.critical)));
    let mut measured = Measured {
        memory: charged,
        memory_bytes: Bytes(current),
        ..Measured::default()
    };
    if suspicious.is_some_and(|(charged, warn)| charged >= warn) {
        let used = usage::working_set(&entry.cgroup, current);
        measured.memory = max.map(|max| percent(used, max));
        measured.memory_stalled = usage::read_load(&entry.cgroup).memory;
    }
    if entry.spec.watch.cpu.is_some() {
        measured.cpu = files.cpu();
    }
    Some(measured)
}
