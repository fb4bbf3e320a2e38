//! What is remembered: the records of the history, and what each kind tells.

use super::{Cause, InstanceId, LimitChange, Seq, StartError};
use crate::cpu_loop::{Evidence, Thread, Verdict};
use crate::drift::Drifted;
use crate::health::Health;
use crate::name::WorkloadName;
use crate::oom::Incident;
use crate::plan::SettingChange;
use crate::spec::Severity;
use crate::threshold::Level;
use serde::Serialize;
use std::time::Duration;

/// What to remember, in the order in which it happened.
#[derive(Clone, Debug)]
pub struct Transition {
    pub seq: Seq,
    pub workload: Option<WorkloadName>,
    pub instance: Option<InstanceId>,
    pub reason: Option<Cause>,
    pub caused_by: Option<Seq>,
    pub detail: Detail,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Detail {
    Start {
        pid: u32,
    },
    StartFailed(StartError),
    /// Started by an agent before this one, and running on.
    Adopt {
        pid: u32,
    },
    Stop {
        signal: String,
        grace_seconds: f64,
        kill: bool,
    },
    Exit {
        code: Option<i32>,
        signal: Option<i32>,
        oom_killed: bool,
    },
    OomKill(Incident),
    CpuLoop(Box<CpuLoopFound>),
    Throttle(ThrottleChange),
    Release {
        /// What it comes to: `none`, or what another claim still holds.
        throttle: &'static str,
        why: &'static str,
    },
    Pressure(Pressure),
    Health(HealthChange),
    Ready(ReadyChange),
    Restart(RestartPlan),
    HostPressure(HostPressure),
    Breaker(BreakerChange),
    Alert(AlertChange),
    Drift(DriftFound),
    /// It comes again and again: it is left as it is, for a while.
    Conflict {
        drifts: Vec<Drifted>,
        #[serde(rename = "pause_seconds", serialize_with = "seconds")]
        pause: Duration,
    },
    Config(ConfigChange),
    Lost {
        records: u64,
        /// Whose: `ebpf` for the kernel's ring, `history` for the database.
        of: &'static str,
    },
    Degraded {
        what: String,
        why: String,
    },
    Agent {
        state: &'static str,
    },
}

/// Somebody is to be told.
#[derive(Clone, Debug, Serialize)]
pub struct AlertChange {
    /// The record that told it first: the same until it is over.
    pub id: Seq,
    pub rule: String,
    /// `firing` or `resolved`.
    pub state: &'static str,
    /// It was told before, and still stands.
    pub repeated: bool,
    pub severity: Severity,
    pub text: String,
    /// Since the condition came true.
    #[serde(rename = "stood_seconds", serialize_with = "seconds")]
    pub stood: Duration,
    /// Names of targets.
    pub to: Vec<String>,
    /// Those that were told until now, this time included: who hears that it is over.
    pub audience: Vec<String>,
}

/// What is not as it was left.
#[derive(Clone, Debug, Serialize)]
pub struct DriftFound {
    /// Empty where a truce is over, and it is put right whatever it is.
    pub drifts: Vec<Drifted>,
    pub repaired: bool,
}

/// A thread that spins, and what that is.
#[derive(Clone, Debug, Serialize)]
pub struct CpuLoopFound {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub thread: Thread,
    pub command: String,
    /// CPU time without a sleep.
    #[serde(rename = "cpu_seconds", serialize_with = "seconds")]
    pub cpu: Duration,
    pub evidence: Evidence,
}

/// What is taken from a workload beside its manifest.
#[derive(Clone, Debug, Serialize)]
pub struct ThrottleChange {
    /// `demoted` or `throttled`.
    pub throttle: &'static str,
    /// Of one CPU; `None` while it is only demoted.
    pub cpu_percent: Option<u32>,
    /// False where the mode is `observe`: told, not done.
    pub carried_out: bool,
}

/// A use that has held above one of its thresholds, or no longer does.
#[derive(Clone, Debug, Serialize)]
pub struct Pressure {
    /// `memory` or `cpu`.
    pub resource: &'static str,
    pub level: Level,
    /// Of its limit.
    pub used_percent: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct HealthChange {
    pub from: Health,
    pub to: Health,
    pub why: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct ReadyChange {
    pub ready: bool,
    pub why: String,
}

/// The host as a whole, and who had to step back for it.
#[derive(Clone, Debug, Serialize)]
pub struct HostPressure {
    /// `memory`, `cpu` or `disk`.
    pub resource: &'static str,
    pub level: Level,
    /// Of the whole; `None` where it was seen by waiting alone.
    pub used_percent: Option<u32>,
    /// `warned`, `demoted`, `stopped`, `started again`, `released`, `ran`, `failed`.
    pub done: &'static str,
    /// Of a command that failed.
    pub error: Option<String>,
    /// False where the mode is `observe`: told, not done.
    pub carried_out: bool,
}

/// What follows an exit.
#[derive(Clone, Debug, Serialize)]
pub struct RestartPlan {
    /// The how-manieth since the last long run; 0 for one that costs nothing.
    pub attempt: u32,
    #[serde(rename = "delay_seconds", serialize_with = "seconds")]
    pub delay: Duration,
    /// False where the mode is `observe`: told, not done.
    pub carried_out: bool,
    /// What is done in between: `restart` for nothing more.
    pub strategy: &'static str,
    /// The budget is spent: it waits for a place in it.
    pub rate_limited: bool,
    pub budget_used: u32,
    /// `None` without a budget.
    pub budget: Option<u32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct BreakerChange {
    pub state: BreakerState,
    #[serde(rename = "cooldown_seconds", serialize_with = "seconds")]
    pub cooldown: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Open,
    HalfOpen,
    Closed,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigChange {
    Added,
    /// Named by no manifest any more; it runs on.
    Unmanaged,
    Removed,
    Changed(Vec<SettingChange>),
    /// The kernel took these.
    Limits(Vec<LimitChange>),
    /// The kernel refused; the old ones hold.
    LimitsRefused(String),
    /// The manifest has a fault; what was in force stays so.
    ManifestRefused(String),
}

pub(crate) fn seconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Detail {
    /// The record's kind, as it is called everywhere.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } | Self::StartFailed(_) => "start",
            Self::Adopt { .. } => "adopt",
            Self::Stop { .. } => "stop",
            Self::Exit { .. } => "exit",
            Self::OomKill(_) => "oom_kill",
            Self::CpuLoop(_) => "cpu_loop",
            Self::Throttle(_) => "throttle",
            Self::Release { .. } => "release",
            Self::Pressure(_) => "pressure",
            Self::Health(_) => "health",
            Self::Ready(_) => "ready",
            Self::Restart(_) => "restart",
            Self::HostPressure(_) => "host_pressure",
            Self::Breaker(_) => "breaker",
            Self::Alert(_) => "alert",
            Self::Drift(_) => "drift",
            Self::Conflict { .. } => "conflict",
            Self::Config(_) => "config",
            Self::Lost { .. } => "lost",
            Self::Degraded { .. } => "degraded",
            Self::Agent { .. } => "agent",
        }
    }
}
