//! A report of OOM kills.

use crate::ids::CgroupId;
use crate::units::Bytes;
use crate::words::words;
use serde::{Deserialize, Serialize};

/// A process that the kernel marked as an OOM victim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Victim {
    pub pid: u32,
    #[serde(skip)]
    pub start_ns: u64,
    pub command: String,
    pub rss_bytes: Bytes,
    pub anon_bytes: Bytes,
    pub file_bytes: Bytes,
    /// The page tables: the kernel's memory for the process itself.
    pub kernel_bytes: Bytes,
    pub swap_bytes: Bytes,
    /// The process whose allocation failed.
    #[serde(skip)]
    pub asker: Asker,
    /// The time of the mark, in nanoseconds of the boot clock.
    #[serde(skip)]
    pub marked_ns: u64,
}

/// The process whose allocation led to the kill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    pub pid: u32,
    pub command: String,
    #[serde(skip)]
    pub cgroup: CgroupId,
}

/// The owner of the limit that was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope", content = "cgroup")]
pub enum Scope {
    Own,
    /// A cgroup that the workload has made inside its own, by path; `None` if that cgroup is
    /// gone.
    Descendant(Option<String>),
    /// A cgroup above the workload's, by path.
    Ancestor(String),
    /// No cgroup that the agent can see: the host itself ran out of memory.
    Host,
}

words! {
    /// The first source that reported a kill.
    pub enum OomSource {
        Ebpf = "ebpf",
        Counters = "counters",
        /// The counters alone, after a time without an agent.
        Recovered = "recovered",
    }
}

/// The kills of one episode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub victims: Vec<Victim>,
    pub asked_by: Option<Asker>,
    #[serde(flatten)]
    pub scope: Scope,
    /// The limit that was met; `None` if the host ran out of memory.
    pub limit_bytes: Option<Bytes>,
    pub peak_bytes: Option<Bytes>,
    /// The whole workload was killed, by `memory.oom.group`.
    pub group: bool,
    pub source: OomSource,
    /// The time of the first mark, in nanoseconds of the boot clock; `None` without a mark.
    #[serde(skip)]
    pub marked_ns: Option<u64>,
    pub counter_before: u64,
    pub counter_after: u64,
}

/// The values of the kernel's files at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `oom_kill` of the workload's `memory.events`.
    pub oom_kill: u64,
    /// `oom_group_kill`, since Linux 5.17; 0 before.
    pub oom_group_kill: u64,
    /// `oom` of the workload's `memory.events.local`: its own limit was met.
    pub own_oom: u64,
    /// `oom` of the workload's `memory.events`: its own limit was met, or one below it.
    pub subtree_oom: u64,
    /// The cgroups that the workload has made in its own.
    pub descendants: Vec<CgroupCounters>,
    /// Every ancestor that the agent can see, nearest first.
    pub ancestors: Vec<CgroupCounters>,
    /// `memory.max`; `None` for `max`.
    pub limit: Option<Bytes>,
    /// `memory.peak`, since Linux 5.19.
    pub peak: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupCounters {
    pub path: String,
    /// The id of the cgroup. Another cgroup at the same path has counted from 0.
    pub id: CgroupId,
    /// `oom` of its `memory.events.local`: its own limit was met.
    pub oom: u64,
    pub limit: Option<Bytes>,
}
