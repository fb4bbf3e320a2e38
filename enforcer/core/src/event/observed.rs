//! The findings of the edges: the processes that an earlier agent has left, and the use of
//! resources.

use super::CgroupId;
use crate::checkpoint::Checkpoint;
use crate::name::ReplicaId;
use crate::oom::Counters;
use crate::probe::Answer;
use crate::spec::ProbeName;
use crate::units::{Bytes, Percent};
use std::time::Duration;

/// A workload that an earlier agent has left.
#[derive(Clone, Debug)]
pub struct TakenOver {
    pub workload: ReplicaId,
    pub checkpoint: Checkpoint,
    pub found: Found,
}

/// The rest of an instance that an earlier agent has started.
#[derive(Clone, Debug)]
pub enum Found {
    /// Neither a process nor a cgroup.
    Nothing,
    /// The cgroup, and no main process that has run a program.
    Cgroup(CgroupId, Counters),
    /// The main process has run, and is gone.
    Ended(CgroupId, Counters, u32),
    /// The main process runs.
    Running(CgroupId, Counters, u32),
}

impl Found {
    /// Returns the cgroup that was found, with its counters.
    pub(crate) fn cgroup(&self) -> Option<(CgroupId, &Counters)> {
        match self {
            Self::Nothing => None,
            Self::Cgroup(id, counters)
            | Self::Ended(id, counters, _)
            | Self::Running(id, counters, _) => Some((*id, counters)),
        }
    }
}

/// The use of one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The working set as a share of `memory.max`; `None` without such a limit.
    pub memory: Option<Percent>,
    /// The memory that is charged, for the order in which workloads step back.
    pub memory_bytes: Bytes,
    /// The CPU time since the instance began; `None` if it is not watched.
    pub cpu: Option<Duration>,
    /// The share of the last ten seconds in which every process waited for memory; `None` if it was
    /// not read.
    pub memory_stalled: Option<Percent>,
}

/// An answer of a check that came in time for its instance.
#[derive(Clone, Debug)]
pub struct Answered {
    pub workload: ReplicaId,
    pub probe: ProbeName,
    pub answer: Answer,
    pub took: Duration,
}
