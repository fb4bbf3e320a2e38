//! A workload's checkpoint: how it is made, and how a workload is resumed from one.

use super::attached::Asking;
use super::health::Levels;
use super::lease::Lease;
use super::lifecycle::{Ending, Instance, Running, Stopping};
use super::notice::Words;
use super::probes::Probing;
use super::readiness::Ready;
use super::{Lifecycle, Workload};
use crate::checkpoint::{After, Checkpoint, KeptLevels, KeptLifecycle, KeptLoops, KeptProbing};
use crate::claims::Claims;
use crate::event::{Cause, Seq};
use crate::name::ReplicaId;
use crate::units::{Bytes, MonoTime};
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
            | Lifecycle::Running(_)
            | Lifecycle::Stopping(_)
            | Lifecycle::Ending(_)
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Failed => {}
        }
        let (instance, running) = (self.state.instance(), self.state.running());
        Some(Checkpoint {
            spec: Arc::clone(&self.spec),
            managed: self.managed,
            state: self.state.kept(),
            since: self.since,
            reason: self.reason.clone(),
            instance: self.instance,
            recovery: self.recovery.clone(),
            oom: self.ledger.balance(),
            fatal_oom: instance.and_then(|instance| instance.fatal_oom),
            loops: KeptLoops {
                threads: instance.map_or_else(Vec::new, |instance| instance.loops.kept()),
                manual: self.standing_claims.throttled,
                host_demoted: self.standing_claims.demoted,
            },
            probing: running.map_or_else(KeptProbing::default, |running| {
                running.probing.kept(&running.words)
            }),
            ready: self.ready.kept(),
            levels: running.map_or_else(KeptLevels::default, |running| running.levels.kept()),
            health: self.health,
            health_why: self.health_why.clone(),
            health_seq: self.health_seq,
            attached: self.attached,
            asking: self.asking.kept(),
            remedy: (*self.remedy).clone(),
            sacrificed: self.sacrificed,
            stopped_for: self.stopped_for,
            deadline: self.lease.until(),
            start_seq: instance.map_or(Seq(0), |instance| instance.start_seq),
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            last_exit: self.last_exit,
        })
    }

    /// Returns the workload as its checkpoint has it. [`Workload::take_over`] adds the processes
    /// that are left.
    pub(crate) fn resume(name: ReplicaId, kept: &Checkpoint) -> Self {
        Self {
            managed: kept.managed,
            state: Lifecycle::resume(kept),
            since: kept.since,
            reason: kept.reason.clone(),
            instance: kept.instance,
            recovery: kept.recovery.clone(),
            standing_claims: Claims {
                demoted: kept.loops.host_demoted,
                throttled: kept.loops.manual,
            },
            ready: Ready::resume(kept.ready),
            health: kept.health,
            health_why: kept.health_why.clone(),
            health_seq: kept.health_seq,
            attached: kept.attached,
            asking: Asking::resume(kept.asking),
            remedy: Box::new(kept.remedy.clone()),
            sacrificed: kept.sacrificed,
            stopped_for: kept.stopped_for,
            lease: Lease::resume(kept.deadline),
            restarts: kept.restarts,
            oom_kills: kept.oom_kills,
            last_exit: kept.last_exit,
            checkpoint: Some(kept.clone()),
            ..Self::new(name, Arc::clone(&kept.spec), kept.since)
        }
    }
}

impl Lifecycle {
    fn kept(&self) -> KeptLifecycle {
        match self {
            Self::Pending => KeptLifecycle::Pending,
            Self::Queued { reason, at_once } => KeptLifecycle::Queued {
                reason: *reason,
                at_once: *at_once,
            },
            Self::Starting {
                then,
                remedying,
                abort_at,
            } => KeptLifecycle::Starting {
                then: *then,
                remedying: *remedying,
                abort_at: *abort_at,
            },
            Self::Running(running) => KeptLifecycle::Running {
                pid: running.instance.pid,
                since: running.instance.since,
            },
            Self::Stopping(stopping) => KeptLifecycle::Stopping {
                pid: stopping.instance.pid,
                since: stopping.instance.since,
                after: stopping.after,
                reason: stopping.reason,
                withdrawing: stopping.withdrawing,
                kill_at: stopping.kill_at,
            },
            Self::Ending(ending) => KeptLifecycle::Ending {
                since: ending.instance.since,
                pid: ending.instance.pid,
                after: ending.after,
                reason: ending.reason,
                status: ending.status,
            },
            Self::BackingOff { until, cause, seq } => KeptLifecycle::BackingOff {
                until: *until,
                cause: *cause,
                seq: *seq,
            },
            Self::BreakerOpen { until, cause, seq } => KeptLifecycle::BreakerOpen {
                until: *until,
                cause: *cause,
                seq: *seq,
            },
            Self::Stopped => KeptLifecycle::Stopped,
            Self::Failed => KeptLifecycle::Failed,
            Self::Gone => KeptLifecycle::Gone,
        }
    }

    /// Returns the state as it was. [`Workload::take_over`] adds the loops and the probes.
    fn resume(kept: &Checkpoint) -> Self {
        let instance = |pid: u32, since: MonoTime| Instance {
            fatal_oom: kept.fatal_oom,
            ..Instance::new(pid, since, kept.start_seq)
        };
        match kept.state.clone() {
            KeptLifecycle::Pending => Self::Pending,
            KeptLifecycle::Queued { reason, at_once } => Self::Queued { reason, at_once },
            KeptLifecycle::Starting {
                then,
                remedying,
                abort_at,
            } => Self::Starting {
                then,
                remedying,
                abort_at,
            },
            KeptLifecycle::Running { pid, since } => Self::Running(Box::new(Running {
                instance: instance(pid, since),
                probing: Probing::default(),
                words: Words::default(),
                levels: Levels::resume(kept.levels),
                memory: Bytes(0),
            })),
            KeptLifecycle::Stopping {
                pid,
                since,
                after,
                reason,
                withdrawing,
                kill_at,
            } => Self::Stopping(Box::new(Stopping {
                instance: instance(pid, since),
                after,
                reason,
                withdrawing,
                draining: false,
                collecting: false,
                // They may not have ended, so they run again.
                finishing: withdrawing.is_none() || matches!(after, After::Recover(_)),
                asked_at: kept.since,
                kill_at,
                report_stuck_at: None,
                stuck: false,
            })),
            KeptLifecycle::Ending {
                since,
                pid,
                after,
                reason,
                status,
            } => Self::Ending(Box::new(Ending {
                instance: instance(pid, since),
                after,
                reason,
                status,
                stuck: false,
            })),
            KeptLifecycle::BackingOff { until, cause, seq } => {
                Self::BackingOff { until, cause, seq }
            }
            KeptLifecycle::BreakerOpen { until, cause, seq } => {
                Self::BreakerOpen { until, cause, seq }
            }
            KeptLifecycle::Stopped => Self::Stopped,
            KeptLifecycle::Failed => Self::Failed,
            KeptLifecycle::Gone => Self::Gone,
        }
    }
}
