//! The numbers that name a record, an instance and a cgroup, how a process ended, and the causes
//! of what is done.

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

/// How a main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
    /// Nobody saw it: it ended while no agent was there to be told.
    Unknown,
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
    /// The host as a whole ran short.
    HostPressure,
    /// Somebody else changed what is ours to set.
    Drift,
    Manual,
    Config,
    /// The agent itself comes or goes.
    Agent,
}

impl Cause {
    /// Whether something went wrong, and nobody asked for what follows.
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
