//! The events of the history, by kind. Each kind has one type, which is written and read back by
//! the same definition. [`crate::record`] has the envelope around it.

use crate::claims::Throttling;
use crate::cpu_loop::{Evidence, Thread, Verdict};
use crate::drift::Drifted;
use crate::health::Health;
use crate::ids::Seq;
use crate::level::{Level, Resource, Severity};
use crate::oom::Incident;
use crate::plan::SettingChange;
use crate::seconds;
use crate::strategy::StrategyName;
use crate::words::words;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::time::Duration;

/// Defines [`Kind`] and [`Detail`] from one list: a kind's name, its variant and its type.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:literal: $Kind:ident($Type:ty),)+) => {
        words! {
            /// The kind of an event.
            pub enum Kind { $($(#[$doc])* $Kind = $name,)+ }
        }

        /// One event's details, by its kind.
        #[derive(Clone, Debug)]
        pub enum Detail {
            $($(#[$doc])* $Kind($Type),)+
            /// An event that this version does not know, as another version wrote it.
            Unknown(Unknown),
        }

        impl Detail {
            /// Returns the kind; `None` for an event that this version does not know.
            #[must_use]
            pub const fn known_kind(&self) -> Option<Kind> {
                match self {
                    $(Self::$Kind(_) => Some(Kind::$Kind),)+
                    Self::Unknown(_) => None,
                }
            }

            /// Returns the kind's name.
            #[must_use]
            pub fn kind(&self) -> &str {
                match self {
                    $(Self::$Kind(_) => $name,)+
                    Self::Unknown(unknown) => &unknown.kind,
                }
            }

            /// Reads the details of this kind, if they are exactly those of this version.
            fn parse(kind: Kind, text: &str) -> Option<Self> {
                match kind {
                    $(Kind::$Kind => exact::<$Type>(text).map(Self::$Kind),)+
                }
            }
        }

        $(impl Details for $Type {
            const KIND: Kind = Kind::$Kind;

            fn of(detail: Detail) -> Option<Self> {
                match detail {
                    Detail::$Kind(details) => Some(details),
                    _ => None,
                }
            }
        })+

        impl Serialize for Detail {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    $(Self::$Kind(detail) => detail.serialize(serializer),)+
                    Self::Unknown(unknown) => unknown.details.serialize(serializer),
                }
            }
        }
    };
}

kinds! {
    "start": Start(Start),
    /// An earlier agent started the instance, and this one supervises it.
    "adopt": Adopt(Adopted),
    /// Another process of the workload is its main one now.
    "main": Main(MainChange),
    "stop": Stop(Stop),
    "exit": Exit(Exit),
    "oom_kill": OomKill(Incident),
    "cpu_loop": CpuLoop(Box<CpuLoopFound>),
    /// Where a replica hung, before it was restarted, while its peers did not.
    "hang": Hang(Hang),
    "throttle": Throttle(ThrottleChange),
    "release": Release(Release),
    "pressure": Pressure(Pressure),
    "health": Health(HealthChange),
    "ready": Ready(ReadyChange),
    /// The connections at the ports have ended before a stop, or the time for that is over.
    "drain": Drain(Drained),
    /// Another version of a workload takes the place of the one before, replica by replica.
    "rollout": Rollout(RolloutChange),
    /// Another number of replicas is wanted.
    "scale": Scale(Scaled),
    "restart": Restart(RestartPlan),
    "reload": Reload(Reloaded),
    /// A file of `reload_on` has changed.
    "file": FileChange(FileChange),
    "host_pressure": HostPressure(HostPressure),
    "breaker": Breaker(BreakerChange),
    "alert": Alert(AlertChange),
    "drift": Drift(DriftFound),
    /// The drift comes back after every repair, so the agent leaves it for a while.
    "conflict": Conflict(Conflict),
    "config": Config(ConfigChange),
    "lost": Lost(Lost),
    "degraded": Degraded(Degraded),
    "agent": Agent(AgentChange),
}

/// The type of one kind's details.
pub trait Details: Sized {
    const KIND: Kind;

    /// Returns the details, if they are of this kind.
    fn of(detail: Detail) -> Option<Self>;
}

/// The details of an event that this version does not know, byte for byte.
#[derive(Clone, Debug)]
pub struct Unknown {
    pub kind: String,
    pub details: Box<RawValue>,
}

impl Detail {
    /// Reads details. What this version would not write back byte for byte is
    /// [`Detail::Unknown`].
    #[must_use]
    pub fn read(kind: &str, details: Box<RawValue>) -> Self {
        let known = Kind::parse(kind).and_then(|kind| Self::parse(kind, details.get()));
        known.unwrap_or_else(|| {
            Self::Unknown(Unknown {
                kind: kind.to_owned(),
                details,
            })
        })
    }
}

/// Reads a value, if writing it gives the same text.
fn exact<T: Serialize + DeserializeOwned>(text: &str) -> Option<T> {
    let value: T = serde_json::from_str(text).ok()?;
    (serde_json::to_string(&value).ok()? == text).then_some(value)
}

/// The outcome of a start. The two shapes have no key in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Start {
    /// The program runs.
    Started {
        pid: u32,
    },
    Failed(StartError),
}

impl Start {
    /// Returns the main process of a start that succeeded.
    #[must_use]
    pub const fn pid(&self) -> Option<u32> {
        match self {
            Self::Started { pid } => Some(*pid),
            Self::Failed(_) => None,
        }
    }

    /// Returns the error of a start that failed.
    #[must_use]
    pub const fn error(&self) -> Option<&StartError> {
        match self {
            Self::Started { .. } => None,
            Self::Failed(error) => Some(error),
        }
    }
}

/// The error of a start that ended before the program's first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError {
    /// The step that failed: a fragment for "failed to …".
    pub stage: String,
    pub errno: Option<i32>,
    /// The error in words.
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    pub pid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainChange {
    pub pid: u32,
}

/// A stop that begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    pub signal: String,
    #[serde(rename = "grace_seconds", with = "seconds")]
    pub grace: Duration,
    /// The whole cgroup is killed without a signal first.
    pub kill: bool,
}

/// The end of a main process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub oom_killed: bool,
}

/// A thread that does not sleep, and the judgement of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuLoopFound {
    pub verdict: Verdict,
    #[serde(flatten)]
    pub thread: Thread,
    pub command: String,
    /// The CPU time since the thread's last sleep.
    #[serde(rename = "cpu_seconds", with = "seconds")]
    pub cpu: Duration,
    pub evidence: Evidence,
}

/// A claim on a workload's CPU time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleChange {
    pub throttle: Throttling,
    /// The share of one CPU; `None` while the workload is only demoted.
    pub cpu_percent: Option<u32>,
    /// False if the mode is `observe`: the event is only a report.
    pub carried_out: bool,
}

/// The end of a claim on a workload's CPU time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The claim that remains.
    pub throttle: Throttling,
    pub why: ReleaseReason,
}

words! {
    /// The reason for the end of a claim.
    pub enum ReleaseReason {
        Operator = "an operator released it",
        LoopEnded = "the loop has ended",
        ProcessGone = "its process is gone",
        HostRecovered = "the host has memory again",
        NotWatched = "watch.cpu_loop is off",
        Observe = "mode is observe",
    }
}

/// A use that has held above one of its thresholds, or no longer does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub resource: Resource,
    pub level: Level,
    /// The use, as a share of its limit.
    pub used_percent: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChange {
    pub from: Health,
    pub to: Health,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyChange {
    pub ready: bool,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    #[serde(rename = "took_seconds", with = "seconds")]
    pub took: Duration,
    /// The connections when the gate was closed, as the kernel listed them.
    pub connections: u32,
    /// The connections that are left, because the time is over.
    pub left: u32,
    /// The reason why the connections are not known. Then the wait was as long as it may be.
    pub unknown: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hang {
    pub threads: Vec<HungThread>,
}

/// A thread of a program that hung, as the kernel showed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HungThread {
    pub pid: u32,
    pub tid: u32,
    pub name: String,
    /// The letter of proc_pid_stat(5), such as `S` or `D`.
    pub state: String,
    /// The system call that it is in.
    pub call: Option<String>,
    /// The kernel's functions that it is in, the innermost first.
    pub kernel_stack: Vec<String>,
    /// The place in the program.
    pub at: Option<String>,
}

words! {
    /// A step of a rollout.
    pub enum RolloutState {
        Began = "began",
        Paused = "paused",
        Resumed = "resumed",
        /// The new version did not come up, and the one before takes its place.
        Failed = "failed",
        /// A person has asked for the version before.
        Undone = "undone",
        Completed = "completed",
        /// The version before runs again.
        RolledBack = "rolled_back",
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutChange {
    pub state: RolloutState,
    /// The replicas that are ready.
    pub ready: u16,
    pub wanted: u16,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    pub from: u16,
    pub to: u16,
    pub why: String,
}

words! {
    /// The agent's answer to host pressure.
    pub enum PressureAnswer {
        Warned = "warned",
        Demoted = "demoted",
        Stopped = "stopped",
        StartedAgain = "started again",
        Released = "released",
        /// The command of `watch.disk` was started.
        Ran = "ran",
        /// The command of `watch.disk` failed.
        Failed = "failed",
    }
}

/// A shortage on the whole host, and the agent's answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPressure {
    pub resource: Resource,
    pub level: Level,
    /// The use, as a share of the whole; `None` if only waiting processes show the shortage.
    pub used_percent: Option<u32>,
    pub done: PressureAnswer,
    /// The error of a command that failed.
    pub error: Option<String>,
    /// False if the mode is `observe`: the event is only a report.
    pub carried_out: bool,
}

/// The restart that follows an exit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPlan {
    /// The number of this restart since the last stable run; 0 for a restart that the budget
    /// does not count.
    pub attempt: u32,
    #[serde(rename = "delay_seconds", with = "seconds")]
    pub delay: Duration,
    /// False if the mode is `observe`: the event is only a report.
    pub carried_out: bool,
    /// The action between the two instances; `restart` for none.
    pub strategy: StrategyName,
    /// The budget is used up, and this restart waits until it has room.
    pub rate_limited: bool,
    pub budget_used: u32,
    /// `None` without a budget.
    pub budget: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    pub path: String,
}

/// A reload, or the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The signal; `None` for a command.
    pub signal: Option<String>,
    /// The error of the command.
    pub error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerChange {
    pub state: BreakerState,
    #[serde(rename = "cooldown_seconds", with = "seconds")]
    pub cooldown: Duration,
}

words! {
    /// The state of a restart breaker.
    pub enum BreakerState {
        Open = "open",
        HalfOpen = "half_open",
        Closed = "closed",
    }
}

/// An alert that begins, still holds or ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertChange {
    /// The number of the alert's first event. It stays the same until the alert ends.
    pub id: Seq,
    pub rule: String,
    pub state: AlertState,
    /// The alert was sent before, and still holds.
    pub repeated: bool,
    pub severity: Severity,
    pub text: String,
    /// The time since the condition came true.
    #[serde(rename = "stood_seconds", with = "seconds")]
    pub stood: Duration,
    /// The names of the targets.
    pub to: Vec<String>,
    /// All targets that have been sent this alert. Each is sent its end.
    pub audience: Vec<String>,
}

words! {
    pub enum AlertState {
        Firing = "firing",
        Resolved = "resolved",
    }
}

/// Values that another process has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftFound {
    /// Empty at the end of a conflict: everything is written again.
    pub drifts: Vec<Drifted>,
    pub repaired: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    pub drifts: Vec<Drifted>,
    #[serde(rename = "pause_seconds", with = "seconds")]
    pub pause: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigChange {
    Added,
    /// No manifest names the workload any more; it runs on.
    Unmanaged,
    Removed,
    Changed(Vec<SettingChange>),
    /// The kernel has these values now.
    Limits(Vec<LimitChange>),
    /// The kernel refused, and the old limits are in effect. The text is a fragment for
    /// "failed to …".
    LimitsRefused(String),
    /// The manifest has a fault, and the old one stays in force.
    ManifestRefused(String),
}

/// A change of one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    pub file: String,
    pub from: String,
    /// The value that the kernel reports after its rounding.
    pub to: String,
}

/// Records that are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub records: u64,
    pub of: LostFrom,
}

words! {
    /// The place that had no room for a record.
    pub enum LostFrom {
        /// The ring of the eBPF programs.
        Ebpf = "ebpf",
        /// The database.
        History = "history",
    }
}

/// Something that does not work, while the agent runs on without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    pub what: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentChange {
    pub state: AgentState,
}

words! {
    /// A step in the life of an agent.
    pub enum AgentState {
        Started = "started",
        TookOver = "took over",
        HistoryResumed = "history resumed",
        /// The agent ends, and the workloads run on.
        Leaving = "leaving",
        /// The agent ends with the workloads.
        Stopping = "stopping",
    }
}
