//! The numbers that name a record, an instance and a cgroup, the ways in which a process ends, and
//! the causes of actions.

use crate::words::words;
use serde::{Deserialize, Serialize};

/// The place of a record in the agent's history; it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

/// One start of a workload. Together with the name it names a process tree;
/// a pid never does.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct InstanceId(pub u64);

/// Reads the number of a user or a group: decimal, without leading zeros. The highest number is none: the
/// kernel reads it as "leave it as it is".
#[must_use]
pub fn account_id(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    let number = plain.then(|| text.parse().ok()).flatten();
    number.filter(|number| *number != u32::MAX)
}

/// A process of this boot: its pid, and the time of its start in clock ticks since boot. The pid
/// alone may belong to another process by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessId {
    pub pid: u32,
    pub start_ticks: u64,
}

/// A cgroup's id: its directory's inode. Paths are recycled, ids are not.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// The end of a main process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    /// It ended while no agent ran, and eBPF has no record of it.
    Unknown,
}

/// The end of the last main process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub oom_killed: bool,
}

words! {
    /// The reason of a `restart` event, and of a stop or a start.
    pub enum Cause {
        Exit = "exit",
        OomKill = "oom_kill",
        Liveness = "liveness",
        Startup = "startup",
        Progress = "progress",
        CpuLoop = "cpu_loop",
        /// The host as a whole ran short of a resource.
        HostPressure = "host_pressure",
        /// The time of a leased workload is over, or it has time again.
        Deadline = "deadline",
        /// Another process changed a value that enforcer sets.
        Drift = "drift",
        Manual = "manual",
        Config = "config",
        /// The agent itself starts or ends.
        Agent = "agent",
    }
}

impl Cause {
    /// Returns whether the cause is a failure, and not a request or the host's state.
    #[must_use]
    pub fn is_failure(self) -> bool {
        match self {
            Self::Exit
            | Self::OomKill
            | Self::Liveness
            | Self::Startup
            | Self::Progress
            | Self::CpuLoop => true,
            Self::HostPressure
            | Self::Deadline
            | Self::Drift
            | Self::Manual
            | Self::Config
            | Self::Agent => false,
        }
    }
}

/// The reason for a change to the host: a cause, and the event that says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub cause: Cause,
    pub seq: Seq,
}
