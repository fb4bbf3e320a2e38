//! The state of a workload that the next agent needs: the decisions that are not in the kernel. It
//! has nothing that can be read again, such as readings, checks under way and open proofs.

use super::health::{KeptLevels, Levels};
use super::loops::KeptLoops;
use super::probes::KeptProbing;
use super::readiness::{KeptReady, Ready};
use super::{FatalOom, LastExit, Lifecycle, Workload};
use crate::event::{Cause, InstanceId, Remedy, Seq};
use crate::health::Health;
use crate::name::WorkloadName;
use crate::oom::Balance;
use crate::recovery::RecoveryState;
use crate::spec::WorkloadSpec;
use crate::units::MonoTime;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The state of a workload between two agents. Moments are of the boot clock, so it is valid until
/// the next boot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    spec: Arc<WorkloadSpec>,
    managed: bool,
    state: Lifecycle,
    since: MonoTime,
    reason: String,
    instance: InstanceId,
    recovery: RecoveryState,
    pub(super) oom: Balance,
    fatal_oom: Option<FatalOom>,
    pub(super) loops: KeptLoops,
    pub(super) probing: KeptProbing,
    ready: KeptReady,
    /// An older checkpoint has none.
    #[serde(default)]
    levels: KeptLevels,
    health: Health,
    health_why: String,
    health_seq: Seq,
    remedy: Remedy,
    sacrificed: bool,
    stopped_for: Cause,
    start_seq: Seq,
    restarts: u64,
    oom_kills: u64,
    last_exit: Option<LastExit>,
}

impl Checkpoint {
    #[must_use]
    pub fn spec(&self) -> &Arc<WorkloadSpec> {
        &self.spec
    }

    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Returns whether a process of this instance may be there, or its exit may be unreported.
    #[must_use]
    pub fn has_instance(&self) -> bool {
        match self.state {
            Lifecycle::Starting { remedying, .. } => remedying.is_none(),
            Lifecycle::Running { .. } | Lifecycle::Stopping { .. } | Lifecycle::Ending { .. } => {
                true
            }
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => false,
        }
    }
}

impl Checkpoint {
    /// Returns whether a start was under way, so that the process may never have run.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self.state, Lifecycle::Starting { .. })
    }
}

impl Workload {
    /// Returns the checkpoint if it differs from the last one.
    pub(crate) fn changed_checkpoint(&mut self) -> Option<Option<Checkpoint>> {
        let checkpoint = self.checkpoint();
        if self.checkpoint == checkpoint {
            return None;
        }
        self.checkpoint.clone_from(&checkpoint);
        Some(checkpoint)
    }

    /// Returns the checkpoint; `None` if a later agent has to know nothing: the workload was
    /// stopped because its agent ended, or never ran.
    fn checkpoint(&self) -> Option<Checkpoint> {
        match self.state {
            Lifecycle::Pending | Lifecycle::Gone => return None,
            Lifecycle::Stopped if self.stopped_for == Cause::Agent => return None,
            Lifecycle::Stopped
            | Lifecycle::Queued { .. }
            | Lifecycle::Starting { .. }
            | Lifecycle::Running { .. }
            | Lifecycle::Stopping { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Failed => {}
        }
        Some(Checkpoint {
            spec: Arc::clone(&self.spec),
            managed: self.managed,
            state: self.state.clone(),
            since: self.since,
            reason: self.reason.clone(),
            instance: self.instance,
            recovery: self.recovery.clone(),
            oom: self.ledger.balance(),
            fatal_oom: self.fatal_oom,
            loops: self.loops.kept(),
            probing: self.probing.kept(),
            ready: self.ready.kept(),
            levels: self.levels.kept(),
            health: self.health,
            health_why: self.health_why.clone(),
            health_seq: self.health_seq,
            remedy: (*self.remedy).clone(),
            sacrificed: self.sacrificed,
            stopped_for: self.stopped_for,
            start_seq: self.start_seq,
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            last_exit: self.last_exit,
        })
    }

    /// Returns the workload as its checkpoint has it. [`Workload::take_over`] adds the processes
    /// that are left.
    pub(crate) fn resume(name: WorkloadName, kept: &Checkpoint) -> Self {
        Self {
            managed: kept.managed,
            state: kept.state.clone(),
            since: kept.since,
            reason: kept.reason.clone(),
            instance: kept.instance,
            recovery: kept.recovery.clone(),
            fatal_oom: kept.fatal_oom,
            ready: Ready::resume(kept.ready),
            levels: Levels::resume(kept.levels),
            health: kept.health,
            health_why: kept.health_why.clone(),
            health_seq: kept.health_seq,
            remedy: Box::new(kept.remedy.clone()),
            sacrificed: kept.sacrificed,
            stopped_for: kept.stopped_for,
            start_seq: kept.start_seq,
            restarts: kept.restarts,
            oom_kills: kept.oom_kills,
            last_exit: kept.last_exit,
            checkpoint: Some(kept.clone()),
            ..Self::new(name, Arc::clone(&kept.spec), kept.since)
        }
    }
}
