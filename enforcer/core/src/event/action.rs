//! The changes to the host that the core decides on. Each has the reason for it.

use super::{Hook, InstanceId, Reason, Remedy};
use crate::cpu_loop::Suspect;
use crate::limits::Limits;
use crate::name::ReplicaId;
use crate::spec::{Host, StopScope, WorkloadSpec};
use std::sync::Arc;
use std::time::Duration;

/// A change to the host.
#[derive(Clone, Debug)]
pub enum Action {
    Workload(WorkloadAction),
    Host(HostAction),
}

/// A change for one workload.
#[derive(Clone, Debug)]
pub struct WorkloadAction {
    pub workload: ReplicaId,
    pub instance: InstanceId,
    pub reason: Reason,
    pub change: WorkloadChange,
}

/// The order in which a change for a workload is carried out.
#[derive(Clone, Debug)]
pub enum WorkloadChange {
    /// It follows the workload's earlier steps, one at a time.
    Step(Step),
    /// It begins at once, beside the steps.
    Aside(Aside),
}

/// A change that follows the workload's earlier ones.
#[derive(Clone, Debug)]
pub enum Step {
    /// Makes the cgroup, writes its limits and starts the program in it.
    /// Answered by `Prepared` and `Started`, or by `StartFailed`.
    Start {
        spec: Arc<WorkloadSpec>,
        limits: Box<Limits>,
    },
    /// Sends a signal to the main process, or to all processes. Not answered.
    Signal { signal: String, scope: StopScope },
    /// Kills the whole cgroup. Not answered: the main process's exit will be.
    KillTree,
    /// Waits for the main process, after killing what is left beside it.
    /// Answered by `Reaped`.
    Reap,
    /// Removes the empty cgroup. Not answered.
    RemoveCgroup,
    /// Writes these limits to the cgroup, and watches and keeps what the spec says.
    /// Answered by `LimitsWritten`.
    WriteLimits {
        spec: Arc<WorkloadSpec>,
        limits: Box<Limits>,
    },
    /// Examines a suspect, which takes seconds and delays no other step.
    /// Answered by `CpuEvidence`.
    Investigate { suspect: Suspect },
}

/// A change that no step waits for.
#[derive(Clone, Debug)]
pub enum Aside {
    /// Gives up the start that is under way and kills what it has made.
    /// The start itself is answered, by `StartFailed` as a rule.
    AbortStart,
    /// Carries out what comes before a start: the remedy, and then the commands of `before_start`.
    /// Answered by `Remedied`.
    Remedy {
        spec: Arc<WorkloadSpec>,
        remedy: Box<Remedy>,
    },
    /// Asks the owner of an attached service to restart it. Answered by `RemedyFailed`, or by the end of the
    /// service.
    AskOwner { spec: Arc<WorkloadSpec> },
    /// Runs a hook. Answered by `HookDone`.
    RunHook { spec: Arc<WorkloadSpec>, hook: Hook },
    /// Reports the processes that are still there after they were killed.
    /// Answered by `Stays`, if there are any.
    ReportStuck,
    /// Opens or closes the gate in front of the workload's ports. It is done before any later change.
    SetDoor { door: Door },
    /// Finds where the instance hangs. Answered by `Collected`.
    Collect,
    /// Waits until the instance has no connection at its ports, for this long at most. Answered by
    /// `Drained`.
    Drain { limit: Duration },
}

/// The treatment of a new connection to a port of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// It reaches the program.
    Open,
    /// It waits until the workload is ready.
    Wait,
    /// It is refused.
    Refuse,
}

/// A change for all workloads together, or for the host.
#[derive(Clone, Debug)]
pub struct HostAction {
    pub reason: Reason,
    pub change: HostChange,
}

#[derive(Clone, Debug)]
pub enum HostChange {
    /// Writes the host's limits to the parent of all workloads. Answered by `LimitsWritten`.
    WriteLimits { host: Box<Host> },
    /// Runs a command of the host's as the agent itself. Answered by `HostCommandDone`.
    RunCommand { command: Vec<String> },
}

impl Action {
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Workload(action) => action.reason,
            Self::Host(action) => action.reason,
        }
    }

    /// Returns the name of the change, as the metrics have it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Workload(action) => match &action.change {
                WorkloadChange::Step(step) => step.name(),
                WorkloadChange::Aside(aside) => aside.name(),
            },
            Self::Host(action) => action.change.name(),
        }
    }
}

impl Step {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Signal { .. } => "signal",
            Self::KillTree => "kill",
            Self::Reap => "reap",
            Self::RemoveCgroup => "remove_cgroup",
            Self::WriteLimits { .. } => "write_limits",
            Self::Investigate { .. } => "investigate",
        }
    }
}

impl Aside {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AbortStart => "abort_start",
            Self::Remedy { .. } => "remedy",
            Self::AskOwner { .. } => "ask_owner",
            Self::RunHook { .. } => "run_hook",
            Self::ReportStuck => "report_stuck",
            Self::SetDoor { .. } => "set_door",
            Self::Collect => "collect",
            Self::Drain { .. } => "drain",
        }
    }
}

impl HostChange {
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::WriteLimits { .. } => "write_host_limits",
            Self::RunCommand { .. } => "run_on_host",
        }
    }
}
