//! A workload's checkpoint: how it is made, and how a workload is resumed from one.

use super::health::Levels;
use super::readiness::Ready;
use super::{Lifecycle, Workload};
use crate::checkpoint::Checkpoint;
use crate::event::Cause;
use crate::name::WorkloadName;
use std::sync::Arc;

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
