//! The events that the core decides about.

use super::{
    CgroupId, Drained, ExitStatus, Hook, HostMeasured, HungThread, LimitChange, Measured, Request,
    StartError,
};
use super::{InstanceId, Seq, TakenOver};
use crate::alert::Standing;
use crate::cpu_loop::{Evidence, Suspect, Thread};
use crate::drift::Drifted;
use crate::group::{Group, GroupRequest};
use crate::host::HostStood;
use crate::name::{ReplicaId, WorkloadName};
use crate::notice::Notice;
use crate::oom::{Counters, Victim};
use crate::probe::Outcome;
use crate::spec::{Alerts, HostWatch, Manifest, ProbeName, WorkloadSpec};
use std::sync::Arc;
use std::time::Duration;

/// An event.
#[derive(Clone, Debug)]
pub enum Event {
    Agent(AgentEvent),
    Host(HostEvent),
    Workload(ReplicaId, WorkloadEvent),
    /// A person's command about the replicas of a workload.
    Group(WorkloadName, GroupRequest),
    /// An event of one instance. It is dropped if the workload has a later instance.
    Instance(ReplicaId, InstanceId, InstanceEvent),
}

/// The workloads that are removed because a manifest no longer names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prune {
    #[default]
    Nothing,
    All,
    /// Those of the file of this user.
    Of(String),
}

impl Prune {
    pub(crate) fn takes(&self, spec: &WorkloadSpec) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Of(user) => spec.delegate.as_ref() == Some(user),
        }
    }
}

/// An event of the agent: its manifest, its beginning and its end.
#[derive(Clone, Debug)]
pub enum AgentEvent {
    Configure {
        manifest: Manifest,
        prune: Prune,
    },
    /// Some files of the manifest have faults, and no manifest was in force before. This is
    /// the manifest of the other files. Workloads that it does not name keep their specs.
    ConfigureReadable {
        manifest: Manifest,
        /// The `host` section cannot be read, so the limits that the last agent wrote for all
        /// workloads together stay.
        keeps_ceiling: bool,
        /// The `alerts` section can be read. If not, no alert ends.
        has_alerts: bool,
    },
    /// The manifest was read again, and has a fault. The old one stays in force.
    ManifestRefused {
        why: String,
    },
    /// The workloads that an earlier agent has left. This comes once, before any
    /// event about a workload.
    TakeOver {
        workloads: Vec<TakenOver>,
        groups: Vec<(WorkloadName, Group)>,
        /// The last numbers that the earlier agent gave to an event and to an instance.
        last: (Seq, InstanceId),
    },
    /// The alerts that an earlier agent has left firing, and the rules that hold until a
    /// manifest is read. This comes before other events.
    AlertsStand {
        standing: Vec<Standing>,
        alerts: Arc<Alerts>,
    },
    /// The eBPF programs are attached, so that marks can be expected; or they are not.
    EbpfAttached(bool),
    /// The number of eBPF records that found the ring full since the last time.
    EventsLost(u64),
    Degraded {
        what: String,
        why: String,
    },
    /// The history is written again. Meanwhile this number of events was lost.
    HistoryResumed {
        lost: u64,
    },
    /// The agent ends with the workloads.
    Shutdown,
    /// The agent ends, and the workloads run on.
    Leave,
    /// The moment that [`super::Decision::wake`] named has come.
    Wake,
}

/// An event of the host as a whole.
#[derive(Clone, Debug)]
pub enum HostEvent {
    /// The levels that an earlier agent reported, and the watch that holds until a manifest is
    /// read.
    Stood(HostStood, HostWatch),
    /// Levels that the kernel raises no event for, read at every tick.
    Measured {
        workloads: Vec<(ReplicaId, Measured)>,
        host: HostMeasured,
    },
    /// Every process on the host waited for memory for a while just now.
    Stalled,
    /// The answer to [`super::HostChange::RunCommand`].
    CommandDone { error: Option<String> },
    /// The answer to [`super::HostChange::WriteLimits`].
    LimitsWritten {
        changed: Vec<LimitChange>,
        error: Option<String>,
    },
}

/// An event of a workload, whatever its instance is.
#[derive(Clone, Debug)]
pub enum WorkloadEvent {
    Request {
        request: Request,
    },
    /// The answer to [`super::Step::WriteLimits`].
    LimitsWritten {
        changed: Vec<LimitChange>,
        error: Option<String>,
    },
    /// The kernel marked a process of this workload as an OOM victim.
    OomMark {
        victim: Victim,
        counters: Counters,
    },
    CountersRead {
        counters: Counters,
    },
    /// Another process has changed the workload's limits, or moved its main process.
    Drifted {
        found: Vec<Drifted>,
    },
    /// A thread has used its budget of CPU time without a sleep.
    CpuSuspect {
        suspect: Suspect,
    },
    /// The answer to [`super::Step::Investigate`]; `None` if the thread has slept or is gone.
    CpuEvidence {
        thread: Thread,
        evidence: Option<Box<Evidence>>,
    },
    /// A thread that was examined has slept, or is gone.
    CpuStreakEnded {
        thread: Thread,
    },
    /// The answer to [`super::Aside::RunHook`].
    HookDone {
        hook: Hook,
        /// The instance that it was decided for.
        instance: InstanceId,
        error: Option<String>,
    },
    /// A file of `reload_on` has changed.
    FileChanged {
        path: String,
    },
    /// The command between two instances failed. The next instance is started all the same.
    RemedyFailed {
        error: String,
    },
}

/// An event of one instance of a workload.
#[derive(Clone, Debug)]
pub enum InstanceEvent {
    /// The process exists and waits behind its gate. From here on its cgroup counts.
    Prepared {
        cgroup: CgroupId,
        counters: Counters,
    },
    Started {
        pid: u32,
    },
    StartFailed {
        error: StartError,
    },
    /// Another process of the workload is its main one now.
    MainChanged {
        pid: u32,
    },
    /// The main process is a zombie, and nothing was collected yet.
    MainExited,
    /// The main process was waited for, and its cgroup is empty.
    Reaped {
        status: ExitStatus,
        counters: Counters,
    },
    /// The answer to one [`super::ProbeRun`].
    Probed {
        probe: ProbeName,
        run: u64,
        outcome: Outcome,
        took: Duration,
    },
    /// The answer to [`super::Aside::Remedy`]. With an error, the start has failed.
    Remedied {
        error: Option<StartError>,
    },
    /// The program has said something of itself, by sd_notify(3).
    Notified {
        notice: Notice,
    },
    /// Processes of the instance are still there long after SIGKILL.
    Stays {
        processes: String,
    },
    /// The answer to [`super::Aside::Collect`].
    Collected {
        threads: Vec<HungThread>,
    },
    /// The answer to [`super::Aside::Drain`].
    Drained {
        drained: Drained,
    },
}

impl Event {
    /// Returns the answer to a write of limits; of the host's without a workload.
    #[must_use]
    pub fn limits_written(
        workload: Option<ReplicaId>,
        changed: Vec<LimitChange>,
        error: Option<String>,
    ) -> Self {
        match workload {
            Some(name) => Self::Workload(name, WorkloadEvent::LimitsWritten { changed, error }),
            None => Self::Host(HostEvent::LimitsWritten { changed, error }),
        }
    }
}
