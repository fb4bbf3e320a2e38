//! The way up: a start that is due, asked for, done or failed.

use super::{After, Context, Lifecycle, Then, Workload};
use crate::event::{
    ActionKind, Cause, CgroupId, Detail, InstanceId, Reason, Request, Seq, StartError,
};
use crate::oom::Counters;
use std::sync::Arc;
use std::time::Duration;

impl Workload {
    /// Starts a new instance; `reason` names the record that made it so.
    pub(crate) fn start(&mut self, context: &mut Context<'_>, reason: Reason) {
        *context.next_instance += 1;
        self.instance = InstanceId(*context.next_instance);
        self.fatal_oom = None;
        self.act(
            context,
            reason,
            ActionKind::Start {
                spec: Arc::clone(&self.spec),
                limits: self.effective_limits(),
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
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(
            self.state,
            Lifecycle::BackingOff { .. } | Lifecycle::BreakerOpen { .. }
        )
    }

    pub(super) fn start_by_hand(&mut self, context: &mut Context<'_>) {
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
