//! What the edges have found out: of what another agent has left, and of how much is used.

use super::CgroupId;
use crate::name::WorkloadName;
use crate::oom::Counters;
use crate::probe::Answer;
use crate::spec::ProbeName;
use crate::units::{Bytes, Percent};
use crate::workload::Checkpoint;
use std::time::Duration;

/// A workload as the agent before this one has left it.
#[derive(Clone, Debug)]
pub struct TakenOver {
    pub workload: WorkloadName,
    pub checkpoint: Checkpoint,
    pub found: Found,
}

/// What is left of an instance.
#[derive(Clone, Debug)]
pub enum Found {
    /// Neither a process nor a cgroup.
    Nothing,
    /// Its cgroup, and no main process that has run a program.
    Cgroup(CgroupId, Counters),
    /// Its main process has run, and is gone.
    Ended(CgroupId, Counters, u32),
    /// Its main process.
    Running(CgroupId, Counters, u32),
}

/// What one workload uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The working set, of `memory.max`; `None` without such a limit.
    pub memory: Option<Percent>,
    /// Bytes that are charged, for the order of sacrifices.
    pub memory_bytes: Bytes,
    /// CPU time since it began; `None` where nobody watches it.
    pub cpu: Option<Duration>,
    /// Waiting for memory in full, of the last ten seconds; `None` where that was
    /// not worth reading.
    pub memory_stalled: Option<Percent>,
}

/// What the whole host uses; `None` where nobody watches it, or it can't be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostMeasured {
    pub memory: Option<Percent>,
    pub cpu: Option<Percent>,
    pub disk: Option<Percent>,
}

/// A probe's answer that came in time for its instance.
#[derive(Clone, Debug)]
pub struct Answered {
    pub workload: WorkloadName,
    pub probe: ProbeName,
    pub answer: Answer,
    pub took: Duration,
}
