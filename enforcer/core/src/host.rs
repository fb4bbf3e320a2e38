//! The host as a whole: its use, and the levels that it has reached. `supervisor/relief.rs` decides
//! which workload steps back.

use crate::spec::{DiskWatch, HostWatch, Resource, Threshold};
use crate::threshold::{Gauge, Level};
use crate::units::{Bytes, MonoTime, Percent};
use enforcer_model::detail::{HostPressure, PressureAnswer};
use std::time::Duration;

/// The use of the whole host; `None` if a resource is not watched or cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostMeasured {
    pub memory: Option<Percent>,
    pub cpu: Option<Percent>,
    pub disk: Option<Percent>,
    /// The memory that all workloads together may still take; `None` if it was not read or has no limit.
    pub free: Option<Bytes>,
}

/// The time between two workloads that step back, and between two that come back: the effect of the
/// first must show before the next one follows.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);
/// The time without a wait for memory after which the host is well again.
pub(crate) const CALM: Duration = Duration::from_secs(60);
/// A command that made no room is not run again before.
const RUN_AGAIN: Duration = Duration::from_secs(300);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The host's levels as this boot's history reported them last. Without them, the next agent would
/// report them a second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStood {
    pub memory: Level,
    pub cpu: Level,
    pub disk: Level,
    /// The time of the disk command's last run.
    pub ran: Option<MonoTime>,
}

#[derive(Debug, Default)]
pub(crate) struct HostState {
    memory: Gauge,
    cpu: Gauge,
    disk: Gauge,
    used: HostMeasured,
    /// The last time that every process on the host waited for memory.
    stalled: Option<MonoTime>,
    /// The last time that a workload stepped back or came back.
    last_step: Option<MonoTime>,
    /// The last run of the disk's command, and whether it still runs.
    ran: Option<(MonoTime, bool)>,
}

/// The need of the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    /// A workload has to step back.
    Needed,
    /// A workload may come back.
    Over,
}

/// The host's memory at the moment of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    pub(crate) level: Level,
    pub(crate) used: Option<Percent>,
}

impl Shortage {
    /// Returns the report of one workload's step.
    pub(crate) fn answered(self, done: PressureAnswer, carried_out: bool) -> HostPressure {
        HostPressure {
            resource: Resource::Memory,
            level: self.level,
            used_percent: self.used.map(|used| used.0),
            done,
            error: None,
            carried_out,
        }
    }
}

impl HostState {
    /// Begins after another agent. A shortage that it saw is not known here, so no workload comes
    /// back before a shortage would have shown again.
    pub(crate) fn taken_over(&mut self, now: MonoTime) {
        self.last_step = Some(now);
        self.stalled = Some(MonoTime(now.0.saturating_sub(nanos(PAUSE))));
    }

    /// Takes the levels that an earlier agent reported, of the resources that are still watched.
    pub(crate) fn stood(&mut self, stood: HostStood, watch: &HostWatch) {
        let at = |watched: bool, level| Gauge::at(if watched { level } else { Level::Normal });
        self.memory = at(watch.memory.is_some(), stood.memory);
        self.cpu = at(watch.cpu.is_some(), stood.cpu);
        self.disk = at(watch.disk.is_some(), stood.disk);
        self.ran = stood.ran.map(|at| (at, false));
    }

    /// Forgets the levels, because the thresholds have changed.
    pub(crate) fn rewatched(&mut self) {
        self.memory = Gauge::default();
        self.cpu = Gauge::default();
        self.disk = Gauge::default();
    }

    /// Takes a reading, and returns the levels that begin with it.
    pub(crate) fn observe(
        &mut self,
        now: MonoTime,
        used: HostMeasured,
        watch: &HostWatch,
    ) -> Vec<HostPressure> {
        self.used = used;
        let disk = watch.disk.as_ref().map(|disk| disk.threshold);
        let observe =
            |gauge: &mut Gauge, resource, used: Option<Percent>, at: Option<Threshold>| {
                let used = used?;
                let level = gauge.observe(now, used, &at?)?;
                Some(HostPressure {
                    resource,
                    level,
                    used_percent: Some(used.0),
                    done: PressureAnswer::Warned,
                    error: None,
                    carried_out: true,
                })
            };
        let changes = [
            observe(
                &mut self.memory,
                Resource::Memory,
                used.memory,
                watch.memory,
            ),
            observe(&mut self.cpu, Resource::Cpu, used.cpu, watch.cpu),
            observe(&mut self.disk, Resource::Disk, used.disk, disk),
        ];
        changes.into_iter().flatten().collect()
    }

    /// Notes that every process on the host waited for memory just now.
    pub(crate) fn stalled(&mut self, now: MonoTime) {
        self.stalled = Some(now);
    }

    pub(crate) fn used_of(&self, resource: Resource) -> Option<Percent> {
        match resource {
            Resource::Memory => self.used.memory,
            Resource::Cpu => self.used.cpu,
            Resource::Disk => self.used.disk,
        }
    }

    pub(crate) fn memory_used(&self) -> Option<Percent> {
        self.used.memory
    }

    pub(crate) fn memory_level(&self) -> Level {
        self.memory.level()
    }

    /// Returns the need of the memory now; one step in each pause at most.
    pub(crate) fn relief(&self, now: MonoTime, watch: &HostWatch) -> Option<Relief> {
        // Without a threshold no workload steps back.
        let Some(threshold) = watch.memory else {
            return Some(Relief::Over);
        };
        if self.last_step.is_some_and(|last| now.since(last) < PAUSE) {
            return None;
        }
        // A level outlasts what it was about: what counts is how full it is now. And
        // one workload that waits at its own limit is no shortage of the host's.
        let now_above = |level: Option<Percent>| {
            level.is_some_and(|level| self.used.memory.is_some_and(|used| used >= level))
        };
        let full = self.memory.level() == Level::Critical && now_above(threshold.critical);
        let stalls = self
            .stalled
            .is_some_and(|stalled| now.since(stalled) < PAUSE)
            && now_above(threshold.warn.or(threshold.critical));
        let calm = self
            .stalled
            .is_none_or(|stalled| now.since(stalled) >= CALM);
        if full || stalls {
            return Some(Relief::Needed);
        }
        (self.memory.level() == Level::Normal && calm).then_some(Relief::Over)
    }

    pub(crate) fn stepped(&mut self, now: MonoTime) {
        self.last_step = Some(now);
    }

    /// Returns the command that should make room on the disk now.
    pub(crate) fn disk_command(&mut self, now: MonoTime, watch: &HostWatch) -> Option<Vec<String>> {
        let command = watch
            .disk
            .as_ref()
            .and_then(|disk: &DiskWatch| disk.run.clone())?;
        let rests = self
            .ran
            .is_some_and(|(at, running)| running || now.since(at) < RUN_AGAIN);
        // A level outlasts its cause, and may come from an earlier agent.
        let critical = watch.disk.as_ref().and_then(|disk| disk.threshold.critical);
        let is_full = critical.is_some_and(|critical| self.used.disk >= Some(critical));
        if self.disk.level() < Level::Critical || !is_full || rests {
            return None;
        }
        self.ran = Some((now, true));
        Some(command)
    }

    pub(crate) fn disk_pressure(
        &self,
        done: PressureAnswer,
        error: Option<String>,
        carried_out: bool,
    ) -> HostPressure {
        HostPressure {
            resource: Resource::Disk,
            level: self.disk.level(),
            used_percent: self.used.disk.map(|used| used.0),
            done,
            error,
            carried_out,
        }
    }

    pub(crate) fn command_done(&mut self) {
        if let Some((_, running)) = &mut self.ran {
            *running = false;
        }
    }
}
