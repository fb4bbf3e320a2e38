//! The numbers that name a record, an instance and a cgroup, the ways in which a process ends, and
//! the causes of actions.

use serde::{Deserialize, Serialize};
use std::fmt;

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

/// The reasons of `restart` records, and of stops and starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Exit,
    OomKill,
    Liveness,
    Startup,
    Progress,
    CpuLoop,
    /// The host as a whole ran short of a resource.
    HostPressure,
    /// Another process changed a value that enforcer sets.
    Drift,
    Manual,
    Config,
    /// The agent itself starts or ends.
    Agent,
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
            Self::HostPressure | Self::Drift | Self::Manual | Self::Config | Self::Agent => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exit => "exit",
            Self::OomKill => "oom_kill",
            Self::Liveness => "liveness",
            Self::Startup => "startup",
            Self::Progress => "progress",
            Self::CpuLoop => "cpu_loop",
            Self::HostPressure => "host_pressure",
            Self::Drift => "drift",
            Self::Manual => "manual",
            Self::Config => "config",
            Self::Agent => "agent",
        })
    }
}
