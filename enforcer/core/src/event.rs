//! The words between the core and the edges: what happened, what to do, and
//! what to remember. No behaviour lives here.

use crate::cpu_loop::{Evidence, Suspect, Thread, Verdict};
use crate::limits::Limits;
use crate::name::WorkloadName;
use crate::oom::{Counters, Incident, Victim};
use crate::plan::SettingChange;
use crate::spec::{Host, Manifest, WorkloadSpec};
use crate::units::{MonoTime, Percent};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// When something is decided, and a random number for its jitter.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: MonoTime,
    pub noise: u64,
}

/// The place of a record in the agent's history; it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// One start of a workload. Together with the name it names a process tree;
/// a pid never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

/// A cgroup's id: its directory's inode. Paths are recycled, ids are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// How a main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

/// Why a start came to nothing, before the program's first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StartError {
    /// What was being done: a fragment for "failed to …".
    pub stage: String,
    pub errno: Option<i32>,
    /// The error in words.
    pub error: String,
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Start,
    Stop,
    Restart,
    /// Stop without asking the program first.
    Kill,
    /// Hold its CPU time to this much of one CPU until it is released.
    Throttle(Percent),
    /// Give back what anybody took beside the manifest.
    Release,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    Configure {
        manifest: Manifest,
        prune: bool,
    },
    Request {
        workload: WorkloadName,
        request: Request,
    },
    /// The process exists and waits behind its gate; from here on its cgroup counts.
    Prepared {
        workload: WorkloadName,
        instance: InstanceId,
        cgroup: CgroupId,
        counters: Counters,
    },
    Started {
        workload: WorkloadName,
        instance: InstanceId,
        pid: u32,
    },
    StartFailed {
        workload: WorkloadName,
        instance: InstanceId,
        error: StartError,
    },
    /// The main process is a zombie; nothing was collected yet.
    MainExited {
        workload: WorkloadName,
        instance: InstanceId,
    },
    /// The main process was waited for, and its cgroup is empty.
    Reaped {
        workload: WorkloadName,
        instance: InstanceId,
        status: ExitStatus,
        counters: Counters,
    },
    LimitsWritten {
        workload: Option<WorkloadName>,
        changed: Vec<LimitChange>,
        error: Option<String>,
    },
    /// The kernel marked a process of this workload as an OOM victim.
    OomMark {
        workload: WorkloadName,
        victim: Victim,
        counters: Counters,
    },
    CountersRead {
        workload: WorkloadName,
        counters: Counters,
    },
    /// A thread has used its budget of CPU time without a sleep.
    CpuSuspect {
        workload: WorkloadName,
        suspect: Suspect,
    },
    /// What came of [`ActionKind::Investigate`]; `None` if the thread has slept
    /// or is gone.
    CpuEvidence {
        workload: WorkloadName,
        thread: Thread,
        evidence: Option<Box<Evidence>>,
    },
    /// A thread that was looked at has slept, or is gone.
    CpuStreakEnded {
        workload: WorkloadName,
        thread: Thread,
    },
    /// Whether marks can be expected at all.
    EbpfAttached(bool),
    /// Records that found the ring full, since the last time.
    EventsLost(u64),
    Degraded {
        what: String,
        why: String,
    },
    Shutdown,
    /// The moment that [`Decision::wake`] named has come.
    Wake,
}

/// One kernel file that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitChange {
    pub file: String,
    pub from: String,
    /// What the kernel says now, after its rounding.
    pub to: String,
}

/// Why the host is changed: one word, and the record that says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    pub cause: Cause,
    pub seq: Seq,
}

/// The reasons of `restart` records, and of stops and starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Exit,
    OomKill,
    CpuLoop,
    Manual,
    Config,
    /// The agent itself comes or goes.
    Agent,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exit => "exit",
            Self::OomKill => "oom_kill",
            Self::CpuLoop => "cpu_loop",
            Self::Manual => "manual",
            Self::Config => "config",
            Self::Agent => "agent",
        })
    }
}

/// A change to the host. Actions of one workload are carried out in order, one
/// at a time.
#[derive(Clone, Debug)]
pub struct Action {
    /// `None` for the parent of all workloads.
    pub workload: Option<WorkloadName>,
    pub instance: InstanceId,
    pub reason: Reason,
    pub kind: ActionKind,
}

#[derive(Clone, Debug)]
pub enum ActionKind {
    /// Make the cgroup, write its limits, start the program in it.
    /// Answered by `Prepared` and `Started`, or by `StartFailed`.
    Start {
        spec: Arc<WorkloadSpec>,
        limits: Box<Limits>,
    },
    /// Send the stop signal to the main process. Not answered.
    Signal { signal: String },
    /// Kill the whole cgroup. Not answered: the main process's exit will be.
    KillTree,
    /// Wait for the main process, after killing what is left beside it.
    /// Answered by `Reaped`.
    Reap,
    /// Remove the empty cgroup. Not answered.
    RemoveCgroup,
    /// Bring the cgroup's limits to these, and what is watched and kept to the
    /// spec's. Answered by `LimitsWritten`.
    WriteLimits {
        spec: Arc<WorkloadSpec>,
        limits: Box<Limits>,
    },
    /// Look into a suspect, which takes seconds and holds nothing else up.
    /// Answered by `CpuEvidence`.
    Investigate { suspect: Suspect },
    /// Bring the parent's limits to the host's. Answered by `LimitsWritten`.
    WriteHostLimits { host: Host },
}

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
    Restart(RestartPlan),
    Breaker(BreakerChange),
    Config(ConfigChange),
    Lost {
        records: u64,
    },
    Degraded {
        what: String,
        why: String,
    },
    Agent {
        state: &'static str,
    },
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

/// What follows an exit.
#[derive(Clone, Debug, Serialize)]
pub struct RestartPlan {
    /// The how-manieth since the last long run; 0 for one that costs nothing.
    pub attempt: u32,
    #[serde(rename = "delay_seconds", serialize_with = "seconds")]
    pub delay: Duration,
    /// False where the mode is `observe`: told, not done.
    pub carried_out: bool,
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
            Self::Stop { .. } => "stop",
            Self::Exit { .. } => "exit",
            Self::OomKill(_) => "oom_kill",
            Self::CpuLoop(_) => "cpu_loop",
            Self::Throttle(_) => "throttle",
            Self::Release { .. } => "release",
            Self::Restart(_) => "restart",
            Self::Breaker(_) => "breaker",
            Self::Config(_) => "config",
            Self::Lost { .. } => "lost",
            Self::Degraded { .. } => "degraded",
            Self::Agent { .. } => "agent",
        }
    }
}

/// What follows an event.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Decision {
    pub actions: Vec<Action>,
    pub transitions: Vec<Transition>,
    /// When to come back with [`Event::Wake`], whatever else happens.
    pub wake: Option<MonoTime>,
    /// After a shutdown: nothing runs any more.
    pub finished: bool,
}
