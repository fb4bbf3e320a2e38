//! The way up: a start that is due, asked for, done or failed.

use super::wellbeing::Levels;
use super::{After, Context, Lifecycle, Then, Workload};
use crate::admission::Queued;
use crate::event::{
    ActionKind, Cause, CgroupId, Detail, InstanceId, Reason, Remedy, Request, Seq, StartError,
};
use crate::name::WorkloadName;
use crate::oom::Counters;
use crate::spec::Need;
use std::sync::Arc;
use std::time::Duration;

impl Workload {
    /// A new instance is to be started, as soon as it is its turn; `reason` names
    /// the record that made it so.
    pub(crate) fn start(&mut self, context: &mut Context<'_>, reason: Reason) {
        self.sacrificed = false;
        let told = format!("waiting for its turn to start ({})", reason.cause);
        self.enter(context, Lifecycle::Queued { reason }, told);
    }

    /// Whether a start waits for its turn.
    pub(crate) fn queued(&self) -> Option<Queued> {
        let Lifecycle::Queued { reason } = self.state else {
            return None;
        };
        Some(Queued {
            workload: self.name.clone(),
            by_hand: reason.cause == Cause::Manual,
            priority: self.spec.priority,
        })
    }

    /// Whether a start of it takes one of the host's places.
    pub(crate) fn is_coming_up(&self) -> bool {
        matches!(self.state, Lifecycle::Starting { .. }) || self.probing.takes_a_turn()
    }

    /// How far it has come, for those that need it.
    pub(crate) fn meets(&self, need: Need) -> bool {
        match need {
            Need::Started => matches!(self.state, Lifecycle::Running { .. }),
            Need::Ready => self.ready.now,
        }
    }

    /// Says what a queued start waits for, if not for its turn alone.
    pub(crate) fn waits_for(&mut self, other: &WorkloadName, need: Need) {
        if let Lifecycle::Queued { .. } = self.state {
            self.reason = format!("waiting for {other} to be {}", need.word());
        }
    }

    /// Its turn has come.
    pub(crate) fn begin_start(&mut self, context: &mut Context<'_>) {
        let Lifecycle::Queued { reason } = self.state else {
            return;
        };
        *context.next_instance += 1;
        self.instance = InstanceId(*context.next_instance);
        self.fatal_oom = None;
        let remedy = std::mem::take(&mut self.remedy);
        self.act(
            context,
            reason,
            ActionKind::Start {
                spec: Arc::clone(&self.spec),
                limits: self.effective_limits(),
                remedy,
            },
        );
        self.enter(
            context,
            Lifecycle::Starting { then: None },
            format!("starting ({})", reason.cause),
        );
    }

    pub(crate) fn request(&mut self, context: &mut Context<'_>, request: Request) {
        match request {
            Request::Start => {
                self.recovery.reset();
                match self.state {
                    Lifecycle::Pending
                    | Lifecycle::Queued { .. }
                    | Lifecycle::BackingOff { .. }
                    | Lifecycle::BreakerOpen { .. }
                    | Lifecycle::Stopped
                    | Lifecycle::Failed => self.start_by_hand(context),
                    Lifecycle::Starting { ref mut then } => *then = None,
                    Lifecycle::Stopping { ref mut after, .. }
                    | Lifecycle::Ending { ref mut after, .. } => {
                        *after = After::Restart(Cause::Manual);
                    }
                    Lifecycle::Running { .. } | Lifecycle::Gone => {}
                }
            }
            Request::Restart => {
                self.recovery.reset();
                if self.is_at_rest() || self.is_waiting() {
                    self.start_by_hand(context);
                } else {
                    self.stop(context, After::Restart(Cause::Manual), Cause::Manual, false);
                }
            }
            Request::Stop => self.stop(context, After::Stop, Cause::Manual, false),
            Request::Kill => self.stop(context, After::Stop, Cause::Manual, true),
            Request::Throttle(percent) => self.throttle_by_hand(context, percent),
            Request::Release => self.release_by_hand(context),
            Request::Probe => self.probe_by_hand(context),
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(
            self.state,
            Lifecycle::Queued { .. } | Lifecycle::BackingOff { .. } | Lifecycle::BreakerOpen { .. }
        )
    }

    pub(super) fn start_by_hand(&mut self, context: &mut Context<'_>) {
        *self.remedy = Remedy::default();
        // The record of the start itself is what the action's reason points to:
        // it comes with the pid, one number further on.
        let reason = Reason {
            cause: Cause::Manual,
            seq: Seq(*context.next_seq + 1),
        };
        self.start(context, reason);
    }

    pub(crate) fn prepared(
        &mut self,
        context: &mut Context<'_>,
        instance: InstanceId,
        cgroup: CgroupId,
        counters: Counters,
    ) {
        if instance == self.instance {
            context.ancestors.observe(context.moment.now, &counters);
            self.ledger.begin(cgroup, counters);
        }
    }

    pub(crate) fn started(&mut self, context: &mut Context<'_>, instance: InstanceId, pid: u32) {
        if instance != self.instance {
            return;
        }
        let Lifecycle::Starting { then } = self.state else {
            return;
        };
        self.tell(context, None, None, Detail::Start { pid });
        self.enter(
            context,
            Lifecycle::Running {
                pid,
                since: context.moment.now,
            },
            "running",
        );
        self.levels = Levels::default();
        self.begin_probes(context);
        self.ask_probes(context);
        if let Some(Then { after, cause, kill }) = then {
            self.stop(context, after, cause, kill);
        }
    }

    pub(crate) fn start_failed(
        &mut self,
        context: &mut Context<'_>,
        instance: InstanceId,
        error: StartError,
    ) {
        if instance != self.instance {
            return;
        }
        let Lifecycle::Starting { then } = self.state else {
            return;
        };
        let told = format!("failed to {}: {}", error.stage, error.error);
        let seq = self.tell(context, None, None, Detail::StartFailed(error));
        self.reason = told;
        match then {
            // The wish came after the start that failed: it is tried, perhaps with
            // another command.
            Some(Then {
                after: After::Restart(cause),
                ..
            }) => self.start(context, Reason { cause, seq }),
            Some(Then { after, cause, .. }) => self.rest_after(context, after, cause, seq),
            None => self.recover(context, Cause::Exit, seq, Duration::ZERO, true),
        }
    }
}
