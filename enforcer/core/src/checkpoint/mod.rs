//! The state of a workload that the next agent needs: the decisions that are not in the kernel. It
//! has nothing that can be read again, such as readings, checks under way and open proofs.
//!
//! Its parts are plain data. `workload/` makes them and resumes them.

mod lifecycle;

pub(crate) use lifecycle::{After, KeptLifecycle, Then};

use crate::claims::Claims;
use crate::cpu_loop::{Suspect, Verdict};
use crate::health::Health;
use crate::notice::Phase;
use crate::oom::Balance;
use crate::probe::Tally;
use crate::recovery::{RecoveryState, Remedy};
use crate::spec::{ProbeName, WorkloadSpec};
use crate::threshold::Level;
use crate::units::{MonoTime, Percent};
use enforcer_model::ids::{Cause, InstanceId, LastExit, Reason, Seq};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The state of a workload between two agents. Moments are of the boot clock, so it is valid until
/// the next boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub(crate) spec: Arc<WorkloadSpec>,
    pub(crate) managed: bool,
    pub(crate) state: KeptLifecycle,
    pub(crate) since: MonoTime,
    pub(crate) reason: String,
    pub(crate) instance: InstanceId,
    pub(crate) recovery: RecoveryState,
    pub(crate) oom: Balance,
    pub(crate) fatal_oom: Option<FatalOom>,
    pub(crate) loops: KeptLoops,
    pub(crate) probing: KeptProbing,
    pub(crate) ready: KeptReady,
    /// An older checkpoint has none.
    #[serde(default)]
    pub(crate) levels: KeptLevels,
    pub(crate) health: Health,
    pub(crate) health_why: String,
    pub(crate) health_seq: Seq,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) attached: bool,
    #[serde(default, skip_serializing_if = "KeptAsking::is_none")]
    pub(crate) asking: KeptAsking,
    pub(crate) remedy: Remedy,
    pub(crate) sacrificed: bool,
    pub(crate) stopped_for: Cause,
    /// The deadline of a leased workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<MonoTime>,
    pub(crate) start_seq: Seq,
    pub(crate) restarts: u64,
    pub(crate) oom_kills: u64,
    pub(crate) last_exit: Option<LastExit>,
}

impl Checkpoint {
    #[must_use]
    pub fn spec(&self) -> &Arc<WorkloadSpec> {
        &self.spec
    }

    /// Returns the deadline of a leased workload, and the time at which nothing of it may run any more.
    #[must_use]
    pub fn lease(&self) -> Option<(MonoTime, MonoTime)> {
        let until = self.deadline.filter(|_| self.spec.leased)?;
        Some((until, until.after(self.spec.stop.grace)))
    }

    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Returns whether the instance is an attached service.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Returns whether a process of this instance may be there, or its exit may be unreported.
    #[must_use]
    pub fn has_instance(&self) -> bool {
        match self.state {
            KeptLifecycle::Starting { remedying, .. } => remedying.is_none(),
            KeptLifecycle::Running { .. }
            | KeptLifecycle::Stopping { .. }
            | KeptLifecycle::Ending { .. } => true,
            KeptLifecycle::Pending
            | KeptLifecycle::Queued { .. }
            | KeptLifecycle::BackingOff { .. }
            | KeptLifecycle::BreakerOpen { .. }
            | KeptLifecycle::Stopped
            | KeptLifecycle::Failed
            | KeptLifecycle::Gone => false,
        }
    }

    /// Returns whether the instance has ended, and was being collected.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(self.state, KeptLifecycle::Ending { .. })
    }

    /// Returns whether a start was under way, so that the process may never have run.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self.state, KeptLifecycle::Starting { .. })
    }
}

/// A request to the owner of an attached service, which the next agent has to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptAsking {
    /// The time at which it is asked, and why.
    pub(crate) due: Option<(MonoTime, Reason)>,
    /// The breaker is open until then.
    pub(crate) is_open: bool,
}

impl KeptAsking {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// An incident that may explain the exit that follows it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct FatalOom {
    pub(crate) seq: Seq,
    /// The main process was certainly among the victims.
    pub(crate) certain: bool,
    #[serde(rename = "told")]
    pub(crate) at: MonoTime,
}

/// The part of the state of CPU loops that the next agent needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptLoops {
    #[serde(rename = "found")]
    pub(crate) threads: Vec<KeptLoop>,
    pub(crate) manual: Option<Percent>,
    pub(crate) host_demoted: bool,
}

/// A thread that spins, and what that has led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptLoop {
    pub(crate) suspect: Suspect,
    /// The start time of the thread, which events do not have.
    pub(crate) start_ticks: u64,
    pub(crate) suspected: MonoTime,
    pub(crate) verdict: Option<(Verdict, Seq)>,
    pub(crate) claims: Claims,
    pub(crate) muted: bool,
}

/// The part of the state of probes that the next agent needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptProbing {
    pub(crate) answers: BTreeMap<ProbeName, Tally>,
    pub(crate) startup_passed: bool,
    /// The phase in the program's last notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) phase: Option<Phase>,
    /// The instance was started without a notification socket.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_mute: bool,
}

/// The part of the readiness that the next agent needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptReady {
    pub(crate) now: bool,
    pub(crate) seq: Seq,
    /// The state that the hooks announced last.
    #[serde(rename = "told")]
    pub(crate) announced: bool,
}

/// The levels that were reported. Without them, the next agent would report them a second time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptLevels {
    pub(crate) memory: Level,
    pub(crate) cpu: Level,
    pub(crate) stalled: bool,
}
