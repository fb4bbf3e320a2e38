//! The words between the core and the edges: what happened, what to do, and
//! what to remember. No behaviour lives here.

mod action;
mod command;
mod happened;
mod observed;
mod transition;
mod trouble;

pub use transition::Transition;

pub use enforcer_model::detail::{
    Adopted, AgentChange, AgentState, AlertChange, AlertState, BreakerChange, BreakerState,
    ConfigChange, Conflict, CpuLoopFound, Degraded, Detail, DriftFound, Exit, HealthChange,
    HostPressure, Kind, LimitChange, Lost, LostFrom, Pressure, PressureAnswer, ReadyChange,
    Release, ReleaseReason, RestartPlan, Start, StartError, Stop, ThrottleChange,
};
pub use enforcer_model::ids::{Cause, CgroupId, ExitStatus, InstanceId, Seq};

pub use action::{Action, Aside, HostAction, HostChange, Step, WorkloadAction, WorkloadChange};
pub use command::{COMMAND_LIMIT, HOOK_LIMIT, Hook, Remedy};
pub use happened::{AgentEvent, Event, HostEvent, InstanceEvent, WorkloadEvent};
pub use observed::{Answered, Found, HostMeasured, Measured, TakenOver};

use crate::name::WorkloadName;
use crate::spec::{ProbeName, WorkloadSpec};
use crate::units::{MonoTime, Percent};
use crate::workload::Checkpoint;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// When something is decided, and a random number for its jitter.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: MonoTime,
    pub noise: u64,
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
    /// Ask every probe now.
    Probe,
}

/// A probe to be asked. It changes nothing, so it needs no reason.
#[derive(Clone, Debug)]
pub struct ProbeRun {
    pub workload: WorkloadName,
    pub instance: InstanceId,
    pub spec: Arc<WorkloadSpec>,
    pub probe: ProbeName,
    /// Which asking this is; the answer names it.
    pub run: u64,
    /// When it should have begun.
    pub due: MonoTime,
}

/// Why the host is changed: one word, and the record that says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub cause: Cause,
    pub seq: Seq,
}

/// What follows an event.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Decision {
    pub actions: Vec<Action>,
    pub transitions: Vec<Transition>,
    pub probes: Vec<ProbeRun>,
    /// What an agent after this one would have to know, where that has changed; `None`
    /// for a workload that is no more. To be kept before the actions are carried out.
    pub checkpoints: Vec<(WorkloadName, Option<Checkpoint>)>,
    /// The answer of a probe that counted.
    pub answered: Option<Answered>,
    /// When to come back with [`Event::Wake`], whatever else happens.
    pub wake: Option<MonoTime>,
    /// After a shutdown: nothing runs any more.
    pub finished: bool,
}
