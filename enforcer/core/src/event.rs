//! The words between the core and the edges: what happened, what to do, and
//! what to remember. No behaviour lives here.

mod action;
mod command;
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
pub use observed::{Answered, Found, HostMeasured, Measured, TakenOver};

use crate::alert::Standing;
use crate::cpu_loop::{Evidence, Suspect, Thread};
use crate::drift::Drifted;
use crate::host::HostStood;
use crate::name::WorkloadName;
use crate::oom::{Counters, Victim};
use crate::probe::Outcome;
use crate::spec::{Alerts, HostWatch, Manifest, ProbeName, WorkloadSpec};
use crate::units::{MonoTime, Percent};
use crate::workload::Checkpoint;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

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

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    Configure {
        manifest: Manifest,
        prune: bool,
    },
    /// What an agent before this one has left, once and before everything else.
    TakeOver {
        workloads: Vec<TakenOver>,
        /// The last that it gave to a record, and to an instance.
        last: (Seq, InstanceId),
    },
    /// What it has told, and not told to be over; and the rules that hold until a manifest
    /// is read. Before everything else.
    AlertsStand {
        standing: Vec<Standing>,
        alerts: Arc<Alerts>,
    },
    /// How the host stood by what it has told; and what of it is watched until a manifest is
    /// read.
    HostStood(HostStood, HostWatch),
    Request {
        workload: WorkloadName,
        request: Request,
    },
    /// The process exists and waits behind its gate; from here on its cgroup counts.
    Prepared {
        workload: WorkloadName,
        instance: InstanceId,
        cgroup: CgroupId,
        counters: Counters,
    },
    Started {
        workload: WorkloadName,
        instance: InstanceId,
        pid: u32,
    },
    StartFailed {
        workload: WorkloadName,
        instance: InstanceId,
        error: StartError,
    },
    /// The main process is a zombie; nothing was collected yet.
    MainExited {
        workload: WorkloadName,
        instance: InstanceId,
    },
    /// The main process was waited for, and its cgroup is empty.
    Reaped {
        workload: WorkloadName,
        instance: InstanceId,
        status: ExitStatus,
        counters: Counters,
    },
    LimitsWritten {
        workload: Option<WorkloadName>,
        changed: Vec<LimitChange>,
        error: Option<String>,
    },
    /// The kernel marked a process of this workload as an OOM victim.
    OomMark {
        workload: WorkloadName,
        victim: Victim,
        counters: Counters,
    },
    CountersRead {
        workload: WorkloadName,
        counters: Counters,
    },
    /// Somebody else has changed its limits, or moved it.
    Drifted {
        workload: WorkloadName,
        found: Vec<Drifted>,
    },
    /// A thread has used its budget of CPU time without a sleep.
    CpuSuspect {
        workload: WorkloadName,
        suspect: Suspect,
    },
    /// The answer to [`Step::Investigate`]; `None` if the thread has slept
    /// or is gone.
    CpuEvidence {
        workload: WorkloadName,
        thread: Thread,
        evidence: Option<Box<Evidence>>,
    },
    /// A thread that was looked at has slept, or is gone.
    CpuStreakEnded {
        workload: WorkloadName,
        thread: Thread,
    },
    /// What came of one [`ProbeRun`].
    Probed {
        workload: WorkloadName,
        instance: InstanceId,
        probe: ProbeName,
        run: u64,
        outcome: Outcome,
        took: Duration,
    },
    /// The answer to [`Aside::RunHook`].
    HookDone {
        workload: WorkloadName,
        hook: Hook,
        error: Option<String>,
    },
    /// The answer to [`Aside::Remedy`]; with an error, the start has failed.
    Remedied {
        workload: WorkloadName,
        instance: InstanceId,
        error: Option<StartError>,
    },
    /// The command between two instances failed; the next one is started all the same.
    RemedyFailed {
        workload: WorkloadName,
        error: String,
    },
    /// Levels that the kernel raises no edge for, read at every tick.
    Measured {
        workloads: Vec<(WorkloadName, Measured)>,
        host: HostMeasured,
    },
    /// Everything on the host waited for memory for a while just now.
    HostStalled,
    /// The answer to [`HostChange::RunCommand`].
    HostCommandDone {
        error: Option<String>,
    },
    /// Whether marks can be expected at all.
    EbpfAttached(bool),
    /// Records that found the ring full, since the last time.
    EventsLost(u64),
    /// Processes of an instance are still there long after SIGKILL.
    Stays {
        workload: WorkloadName,
        instance: InstanceId,
        processes: String,
    },
    Degraded {
        what: String,
        why: String,
    },
    /// The history is written again; so many records were given up meanwhile.
    HistoryResumed {
        lost: u64,
    },
    Shutdown,
    /// Some files of the manifest have faults, and no manifest was in force before. This is
    /// the manifest of the other files. Workloads that it does not name keep their specs.
    ConfigureReadable {
        manifest: Manifest,
        /// The `host` section cannot be read, so the limits that the last agent wrote for all
        /// workloads together stay.
        keeps_ceiling: bool,
        /// The `alerts` section can be read. If not, what stands is not over.
        has_alerts: bool,
    },
    /// The whole manifest was read again, and what it says is in force.
    ManifestUnchanged,
    /// The manifest was read again, and has a fault: what was in force stays so.
    ManifestRefused {
        why: String,
    },
    /// The agent goes, and what runs runs on.
    Leave,
    /// The moment that [`Decision::wake`] named has come.
    Wake,
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
