//! A workload's health, from its probes, its use of its limits and its throttling. Every change is
//! reported with its cause.

use super::lifecycle::Running;
use super::{Context, Lifecycle, Workload};
use crate::checkpoint::KeptLevels;
use crate::claims::Throttling;
use crate::cpu_loop::Verdict;
use crate::event::{Detail, HealthChange, Measured, Pressure};
use crate::group::Reading;
use crate::health::Health;
use crate::spec::{ProbeName, Resource};
use crate::threshold::{Gauge, Level};
use crate::units::{Limit, MonoTime, Percent};
use std::time::Duration;

/// Waiting this much for its own memory is more than a full limit: it thrashes.
const STALLED: Percent = Percent(10);

/// Uses that are watched, of the running instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Levels {
    memory: Gauge,
    cpu: Gauge,
    /// The last reading, for CPU time per time.
    cpu_before: Option<(MonoTime, Duration)>,
    stalled: bool,
    /// The use at the last tick, as a share of the limit.
    used: Option<Percent>,
}

impl Levels {
    pub(super) fn kept(&self) -> KeptLevels {
        KeptLevels {
            memory: self.memory.level(),
            cpu: self.cpu.level(),
            stalled: self.stalled,
        }
    }

    pub(super) fn resume(kept: KeptLevels) -> Self {
        Self {
            memory: Gauge::at(kept.memory),
            cpu: Gauge::at(kept.cpu),
            stalled: kept.stalled,
            ..Self::default()
        }
    }
}

impl Workload {
    fn judge_health(&self) -> (Health, String) {
        match self.state {
            Lifecycle::Running(ref running) => self.judge_running(running),
            // A health that is about to change stays as it is.
            Lifecycle::Stopping(_) | Lifecycle::Ending(_) => (self.health, String::new()),
            Lifecycle::BackingOff { .. } | Lifecycle::BreakerOpen { .. } | Lifecycle::Failed => {
                (Health::Unhealthy, self.reason.clone())
            }
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Starting { .. }
            | Lifecycle::Stopped
            | Lifecycle::Gone => (Health::Unknown, self.reason.clone()),
        }
    }

    fn judge_running(&self, running: &Running) -> (Health, String) {
        let Running {
            instance,
            probing,
            levels,
            ..
        } = running;
        if let Some(why) = probing.failing() {
            return (Health::Unhealthy, why);
        }
        let claims = self.claims();
        let readiness = probing.watched.get(&ProbeName::Readiness);
        let unready = readiness.filter(|watched| watched.standing() == Some(false));
        let level = |what: &str, gauge: Gauge| {
            (gauge.level() > Level::Normal).then(|| format!("{what} use is {}", gauge.level()))
        };
        let looping = instance.loops.worst_verdict() == Some(Verdict::DeadLoop);
        let off = [
            probing.wavering(),
            unready.map(|watched| super::probes::describe(ProbeName::Readiness, watched)),
            looping.then(|| "a thread is in a dead loop".to_owned()),
            level("memory", levels.memory),
            level("cpu", levels.cpu),
            levels
                .stalled
                .then(|| "it waits for its own memory".to_owned()),
            (claims.throttling() != Throttling::None)
                .then(|| format!("it is {}", claims.throttling().as_str())),
        ];
        if let Some(why) = off.into_iter().flatten().next() {
            return (Health::Degraded, why);
        }
        if probing.has_answered() {
            return (Health::Healthy, "its probes pass".to_owned());
        }
        (Health::Unknown, "no probe has answered yet".to_owned())
    }

    pub(super) fn refresh_health(&mut self, context: &mut Context<'_>) {
        let (health, why) = self.judge_health();
        if health != self.health {
            self.report_health(context, health, why);
        } else if self.runs() {
            // Another reason for the same health is shown, and no event.
            self.health_why = why;
        }
    }

    pub(super) fn report_health(&mut self, context: &mut Context<'_>, to: Health, why: String) {
        let from = std::mem::replace(&mut self.health, to);
        self.health_why.clone_from(&why);
        let detail = Detail::Health(HealthChange { from, to, why });
        self.health_seq = self.report(context, None, None, detail);
    }

    /// Takes a reading of the tick.
    pub(crate) fn measured(&mut self, context: &mut Context<'_>, measured: Measured, cpus: u32) {
        let cpus = self.cpus_allowed(cpus);
        let Some(running) = self.state.running_mut() else {
            return;
        };
        let now = context.moment.now;
        running.memory = measured.memory_bytes;
        let levels = &mut running.levels;
        levels.used = measured.memory;
        levels.stalled = measured
            .memory_stalled
            .is_some_and(|share| share >= STALLED);
        let mut crossed = Vec::new();
        if let (Some(threshold), Some(used)) = (self.spec.watch.memory, measured.memory)
            && let Some(level) = levels.memory.observe(now, used, &threshold)
        {
            crossed.push((Resource::Memory, level, used));
        }
        let before = measured
            .cpu
            .and_then(|cpu| levels.cpu_before.replace((now, cpu)));
        if let (Some(threshold), Some(cpu), Some((then, used))) =
            (self.spec.watch.cpu, measured.cpu, before)
        {
            let allowed = cpus * now.since(then).as_secs_f64();
            let used = share(cpu.saturating_sub(used).as_secs_f64(), allowed);
            if let Some(level) = levels.cpu.observe(now, used, &threshold) {
                crossed.push((Resource::Cpu, level, used));
            }
        }
        for (resource, level, used) in crossed {
            let detail = Detail::Pressure(Pressure {
                resource,
                level,
                used_percent: used.0,
            });
            self.report(context, None, None, detail);
        }
    }

    /// Returns what the number of replicas follows.
    pub(crate) fn reading(&self, measured: &Measured) -> Reading {
        Reading {
            cpu: measured.cpu,
            cpus: self.quota_in_cpus().unwrap_or(1.0),
            memory: measured.memory,
        }
    }

    /// Returns the use of `memory.max` at the last tick, while the workload runs.
    pub(crate) fn memory_share(&self) -> Option<Percent> {
        self.state.running()?.levels.used
    }

    /// Returns whether there is a `memory.max`.
    pub(crate) fn has_memory_max(&self) -> bool {
        let max = self.spec.limits.memory_max;
        max.and_then(Limit::at).is_some()
    }

    pub(crate) fn health_in_words(&self) -> (Health, &str) {
        (self.health, &self.health_why)
    }

    /// Returns the number of CPUs that `cpu.max` allows in effect, or that the host has.
    fn cpus_allowed(&self, cpus: u32) -> f64 {
        let allowed = self.quota_in_cpus().unwrap_or(f64::INFINITY);
        allowed.min(f64::from(cpus))
    }

    fn quota_in_cpus(&self) -> Option<f64> {
        let quota = self.effective_limits().cpu_max?;
        let micros = quota.quota.at()?;
        Some(micros as f64 / quota.period as f64)
    }
}

fn share(part: f64, whole: f64) -> Percent {
    if whole <= 0.0 {
        return Percent(0);
    }
    // Saturates, and what is shown is at most a few hundred.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let percent = (part / whole * 100.0).clamp(0.0, 1e6) as u32;
    Percent(percent)
}
