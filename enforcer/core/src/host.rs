//! The host as a whole: what of it is in use, and whether it has held above its
//! thresholds. Who steps back for it is decided in `supervisor/relief.rs`.

use crate::event::{HostMeasured, HostPressure, PressureAnswer};
use crate::spec::{DiskWatch, HostWatch, Resource, Threshold};
use crate::threshold::{Gauge, Level};
use crate::units::{MonoTime, Percent};
use std::time::Duration;

/// Between two workloads that step back, and between two that come back: what the
/// first one brought must show before the next has to follow.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);
/// So long after the host last waited for memory in full, it is taken for well.
pub(crate) const CALM: Duration = Duration::from_secs(60);
/// A command that made no room is not run again before.
const RUN_AGAIN: Duration = Duration::from_secs(300);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What was last told of the host in this boot: the next agent's readings would tell it a
/// second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStood {
    pub memory: Level,
    pub cpu: Level,
    pub disk: Level,
    /// When the disk's command was last run.
    pub ran: Option<MonoTime>,
}

#[derive(Debug, Default)]
pub(crate) struct HostState {
    memory: Gauge,
    cpu: Gauge,
    disk: Gauge,
    used: HostMeasured,
    /// When everything on it last waited for memory.
    stalled: Option<MonoTime>,
    /// When somebody last had to step back, or came back.
    last_step: Option<MonoTime>,
    /// When the disk's command was last run, and whether it still runs.
    ran: Option<(MonoTime, bool)>,
}

/// What the host's memory asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relief {
    /// Somebody has to step back.
    Needed,
    /// Somebody may come back.
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
    /// Another agent has watched it until now: what it knew of a shortage is not known, so
    /// nobody comes back before it would show again.
    pub(crate) fn taken_over(&mut self, now: MonoTime) {
        self.last_step = Some(now);
        self.stalled = Some(MonoTime(now.0.saturating_sub(nanos(PAUSE))));
    }

    /// As an agent before this one has told it, of what is still watched.
    pub(crate) fn stood(&mut self, stood: HostStood, watch: &HostWatch) {
        let at = |watched: bool, level| Gauge::at(if watched { level } else { Level::Normal });
        self.memory = at(watch.memory.is_some(), stood.memory);
        self.cpu = at(watch.cpu.is_some(), stood.cpu);
        self.disk = at(watch.disk.is_some(), stood.disk);
        self.ran = stood.ran.map(|at| (at, false));
    }

    /// The thresholds are others now.
    pub(crate) fn rewatched(&mut self) {
        self.memory = Gauge::default();
        self.cpu = Gauge::default();
        self.disk = Gauge::default();
    }

    /// Takes a reading; the levels that count from now on.
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

    /// Everything on the host waited for memory just now.
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

    /// What the memory asks for now, at most one step a pause.
    pub(crate) fn relief(&self, now: MonoTime, watch: &HostWatch) -> Option<Relief> {
        // Who sets no threshold wants nobody to step back.
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

    /// The command that should make room on the disk now.
    pub(crate) fn disk_command(&mut self, now: MonoTime, watch: &HostWatch) -> Option<Vec<String>> {
        let command = watch
            .disk
            .as_ref()
            .and_then(|disk: &DiskWatch| disk.run.clone())?;
        let rests = self
            .ran
            .is_some_and(|(at, running)| running || now.since(at) < RUN_AGAIN);
        // A level outlasts what it was about, and may be one that another agent has told.
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
