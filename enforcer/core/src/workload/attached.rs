//! An attached service: another program, its owner, has started it. The workload finds it, observes it and lets
//! it go, and asks nothing of its processes. Where the manifest allows it, the workload asks the owner to
//! restart it.
//!
//! ```text
//! Starting (it is looked for) ─found→ Running ─its last process has ended→ Ending ─→ Starting
//! ```

use super::{After, Context, Lifecycle, Workload};
use crate::checkpoint::KeptAsking;
use crate::cpu_loop::{Evidence, LoopSource, Rung, Thread, Verdict};
use crate::event::{
    Aside, BreakerChange, BreakerState, Cause, Detail, Reason, RestartPlan, Seq, Step,
};
use crate::health::Health;
use crate::recovery::Next;
use crate::spec::Mode;
use crate::units::{MonoTime, human_duration};
use std::sync::Arc;
use std::time::Duration;

/// The time in which an owner that was asked to restart a service has ended it. A unit may take 90 s to stop
/// (systemd-system.conf(5), `DefaultTimeoutStopSec`).
const OWNER_PATIENCE: Duration = Duration::from_secs(300);

/// The request to restart a service that fails, which goes to its owner.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asking {
    /// The time at which it is asked, and why.
    due: Option<(MonoTime, Reason)>,
    /// The owner was asked at that time, and the service has not ended since.
    asked: Option<(MonoTime, Reason)>,
    /// The breaker is open until then.
    is_open: bool,
}

impl Asking {
    /// Returns why the service ends, if its owner was asked for that.
    pub(super) fn reason(self) -> Option<Reason> {
        self.asked.map(|(_, reason)| reason)
    }

    pub(super) fn deadline(self) -> Option<MonoTime> {
        let due = self.due.map(|(at, _)| at);
        due.or(self.late_at())
    }

    /// Returns the time at which an owner that was asked counts as one that has failed.
    fn late_at(self) -> Option<MonoTime> {
        self.asked.map(|(at, _)| at.after(OWNER_PATIENCE))
    }

    /// Returns whether the owner was asked, and the service has not ended since.
    pub(super) fn is_asked(self) -> bool {
        self.asked.is_some()
    }

    pub(super) fn kept(self) -> KeptAsking {
        // A command may have died with the agent, so it is run again.
        let asked = self.asked.map(|(_, reason)| (MonoTime(0), reason));
        KeptAsking {
            due: self.due.or(asked),
            is_open: self.is_open,
        }
    }

    pub(super) fn resume(kept: KeptAsking) -> Self {
        Self {
            due: kept.due,
            asked: None,
            is_open: kept.is_open,
        }
    }
}

impl Workload {
    /// Returns the service that is looked for or looked after, in words.
    pub(super) fn attached_to(&self) -> String {
        let service = self.spec.attach.as_ref();
        service.map_or_else(String::new, ToString::to_string)
    }

    /// Has the edges look for the service, for as long as it takes.
    pub(super) fn look_for_service(&mut self, context: &mut Context<'_>, reason: Reason) {
        self.carry_out_start(context, reason);
        self.reason = format!("waiting for {} to run", self.attached_to());
    }

    /// Ends the observation. The service goes on.
    pub(super) fn let_go(&mut self, context: &mut Context<'_>, after: After, cause: Cause) {
        self.forget_loops(context);
        self.attached = false;
        self.asking = Asking::default();
        let seq = Seq(*context.next_seq);
        let reason = Reason { cause, seq };
        match after {
            After::Restart(cause) => {
                self.step(context, reason, Step::RemoveCgroup);
                self.start_at_once(context, Reason { cause, seq });
            }
            After::Stop | After::Remove | After::Policy | After::Recover(_) => {
                self.rest_after(context, after, cause, seq);
            }
        }
    }

    /// Handles the end of a service: its owner decides whether it comes back.
    pub(super) fn service_ended(&mut self, context: &mut Context<'_>, cause: Cause, seq: Seq) {
        self.start(context, Reason { cause, seq });
    }

    /// Judges a suspect without a proof, where tracing was not allowed.
    pub(super) fn judge_untraced(&mut self, context: &mut Context<'_>, thread: Thread) {
        let Some(found) = self.thread_mut(thread) else {
            return;
        };
        let (source, cpu): (LoopSource, _) = (found.suspect.source, found.suspect.cpu);
        found.proof = super::loops::Proof::Done(None);
        let why = "it is attached, and not traced without `prove: true`";
        let evidence = Evidence::none(source, why);
        self.judge(context, thread, Verdict::OverBudget, cpu, evidence);
    }

    /// Has the owner of a service that was found set the limits, and give back what an earlier instance was throttled to.
    pub(super) fn limit_service(&mut self, context: &mut Context<'_>, seq: Seq) {
        if self.attached && self.spec.mode == Mode::Enforce {
            self.write_limits(context, Cause::Agent, seq);
        }
    }

    /// Returns whether the limits can be lowered so. The owner of an attached service knows some of them.
    pub(super) fn owner_takes(&self, rung: Rung) -> bool {
        let file = match rung {
            Rung::Demote => "cpu.weight",
            Rung::Throttle(_) => "cpu.max",
            Rung::Tell | Rung::Restart => return true,
        };
        let service = self.spec.attach.as_ref().filter(|_| self.attached);
        service.is_none_or(|service| service.limits().contains(&file))
    }

    /// Returns whether the present instance is an attached service, or the edges look for one.
    pub(super) fn is_attached(&self) -> bool {
        let is_there = matches!(
            self.state,
            Lifecycle::Starting { .. } | Lifecycle::Running(_) | Lifecycle::Ending(_)
        );
        self.attached && is_there
    }

    /// Decides when the owner of a service that fails is asked to restart it.
    pub(super) fn ask_owner(
        &mut self,
        context: &mut Context<'_>,
        (cause, because): (Cause, Option<Seq>),
    ) {
        let Some(instance) = self.state.instance() else {
            return;
        };
        if self.asking.due.is_some() || self.asking.asked.is_some() {
            return;
        }
        let now = context.moment.now;
        let ran = now.since(instance.since);
        let spec = Arc::clone(&self.spec);
        let next = self
            .recovery
            .after_failure(context.moment, ran, &spec.recovery);
        let (detail, wait) = match next {
            Next::Restart {
                attempt,
                delay,
                rate_limited,
            } => {
                let plan = RestartPlan {
                    rate_limited,
                    ..self.restart_plan(cause, attempt, delay, true)
                };
                (Detail::Restart(plan), delay)
            }
            Next::Open { cooldown } => {
                self.asking.is_open = true;
                let state = BreakerState::Open;
                (Detail::Breaker(BreakerChange { state, cooldown }), cooldown)
            }
        };
        let seq = self.report(context, Some(cause), because, detail);
        self.asking.due = Some((now.after(wait), Reason { cause, seq }));
        self.ask_owner_if_due(context);
    }

    pub(super) fn ask_owner_if_due(&mut self, context: &mut Context<'_>) {
        let late_at = self.asking.late_at();
        if late_at.is_some_and(|at| at <= context.moment.now) {
            let service = self.attached_to();
            let wait = human_duration(OWNER_PATIENCE);
            let why = format!(
                "{service} has not ended within {wait} after its owner was asked to restart it"
            );
            self.remedy_failed(context, why);
        }
        let Some((at, mut reason)) = self.asking.due else {
            return;
        };
        if at > context.moment.now || !self.runs() {
            return;
        }
        if !self.still_fails(reason.cause) {
            self.asking = Asking::default();
            return;
        }
        if std::mem::take(&mut self.asking.is_open) {
            let cooldown = self.recovery.half_open();
            let change = BreakerChange {
                state: BreakerState::HalfOpen,
                cooldown,
            };
            let (cause, because) = (reason.cause, Some(reason.seq));
            reason.seq = self.report(context, Some(cause), because, Detail::Breaker(change));
        }
        self.asking.due = None;
        self.asking.asked = Some((context.moment.now, reason));
        let spec = Arc::clone(&self.spec);
        self.aside(context, reason, Aside::AskOwner { spec });
    }

    /// Returns whether the owner may be asked, and the reason for it still holds.
    fn still_fails(&self, cause: Cause) -> bool {
        let holds = match cause == Cause::CpuLoop {
            true => self.worst_verdict().is_some(),
            false => self.health == Health::Unhealthy,
        };
        holds && self.spec.mode == Mode::Enforce
    }

    /// Handles a command of the owner's that has failed: the service was not restarted.
    pub(super) fn owner_failed(&mut self, context: &mut Context<'_>, seq: Seq) {
        if let Some((_, reason)) = self.asking.asked.take()
            && self.still_fails(reason.cause)
        {
            self.ask_owner(context, (reason.cause, Some(seq)));
        }
    }
}
