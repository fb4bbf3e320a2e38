//! The types between the core and the edges: events come in, and decisions go out. This module
//! decides nothing.

mod action;
mod command;
mod happened;
mod observed;
mod transition;
mod trouble;

pub use transition::Transition;

pub use enforcer_model::detail::{
    Adopted, AgentChange, AgentState, AlertChange, AlertState, BreakerChange, BreakerState,
    ConfigChange, Conflict, CpuLoopFound, Degraded, Detail, Drained, DriftFound, Exit, FileChange,
    Hang, HealthChange, HostPressure, HungThread, Kind, LimitChange, Lost, LostFrom, MainChange,
    Pressure, PressureAnswer, ReadyChange, Release, ReleaseReason, Reloaded, RestartPlan,
    RolloutChange, RolloutState, Scaled, Start, StartError, Stop, ThrottleChange,
};
pub use enforcer_model::ids::{Cause, CgroupId, ExitStatus, InstanceId, ProcessId, Reason, Seq};

pub use crate::host::HostMeasured;
pub use crate::moment::Moment;
pub use crate::recovery::Remedy;
pub use action::{
    Action, Aside, Door, HostAction, HostChange, Step, WorkloadAction, WorkloadChange,
};
pub use command::{COMMAND_LIMIT, HOOK_LIMIT, Hook};
pub use happened::{AgentEvent, Event, HostEvent, InstanceEvent, Prune, WorkloadEvent};
pub use observed::{Answered, Found, Measured, TakenOver};

use crate::checkpoint::Checkpoint;
use crate::group::Group;
use crate::name::{ReplicaId, WorkloadName};
use crate::plan::Plan;
use crate::spec::{ProbeName, WorkloadSpec};
use crate::units::{MonoTime, Percent};
use std::sync::Arc;

/// A request of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Start,
    Stop,
    Restart,
    /// Stop without asking the program first.
    Kill,
    /// Hold its CPU time to this much of one CPU until it is released.
    Throttle(Percent),
    /// Release every claim on the workload's CPU time.
    Release,
    /// Ask every probe now.
    Probe,
    /// Make the program take its new configuration, without a restart.
    Reload,
    /// Move the deadline of a leased workload.
    Deadline(MonoTime),
}

/// A check to carry out. It changes nothing, so it needs no reason.
#[derive(Clone, Debug)]
pub struct ProbeRun {
    pub workload: ReplicaId,
    pub instance: InstanceId,
    pub spec: Arc<WorkloadSpec>,
    pub probe: ProbeName,
    /// The number of this check, which the answer names.
    pub run: u64,
    /// The time at which the check was due.
    pub due: MonoTime,
}

/// The decision that follows an event.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Decision {
    pub actions: Vec<Action>,
    pub transitions: Vec<Transition>,
    pub probes: Vec<ProbeRun>,
    /// The checkpoints that have changed, for the next agent; `None` for a workload that is gone.
    /// The caller stores them before it carries out the actions.
    pub checkpoints: Vec<(ReplicaId, Option<Checkpoint>)>,
    /// The groups of replicas that have changed, for the next agent; `None` for one that is gone. They are
    /// stored after the checkpoints.
    pub groups: Vec<(WorkloadName, Option<Group>)>,
    /// The reason for which a request about a group is not carried out.
    pub refused: Option<String>,
    /// The changes that an [`AgentEvent::Configure`] has led to.
    pub plan: Option<Plan>,
    /// The answer of a check that counted.
    pub answered: Option<Answered>,
    /// The time of the next [`AgentEvent::Wake`], whatever else happens.
    pub wake: Option<MonoTime>,
    /// After a shutdown, no workload runs any more.
    pub finished: bool,
}
