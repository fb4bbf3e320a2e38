//! The way up: a start that is due, asked for, done or failed.

use super::health::Levels;
use super::lifecycle::{Instance, Running};
use super::notice::Words;
use super::probes::Probing;
use super::{After, Context, Lifecycle, Then, Workload};
use crate::admission::Queued;
use crate::claims::Claims;
use crate::event::{
    Aside, Cause, CgroupId, Detail, Hook, InstanceId, MainChange, Reason, Remedy, Request, Seq,
    Start, StartError, Step, Stop,
};
use crate::name::WorkloadName;
use crate::notice::Notice;
use crate::oom::Counters;
use crate::spec::{Mode, Need, Strategy};
use crate::units::Bytes;
use std::sync::Arc;
use std::time::Duration;

impl Workload {
    /// Queues the start of a new instance. `reason` names the event behind it.
    pub(crate) fn start(&mut self, context: &mut Context<'_>, reason: Reason) {
        self.queue(context, reason, false);
    }

    /// Queues a start that does not wait for what the workload needs: a person waits, or it ran
    /// until just now.
    pub(super) fn start_at_once(&mut self, context: &mut Context<'_>, reason: Reason) {
        self.queue(context, reason, true);
    }

    fn queue(&mut self, context: &mut Context<'_>, reason: Reason, at_once: bool) {
        self.sacrificed = false;
        let why = format!("waiting for its turn to start ({})", reason.cause);
        self.enter(context, Lifecycle::Queued { reason, at_once }, why);
    }

    /// Starts a failed workload again. Under `observe` that is only reported.
    pub(super) fn start_again(&mut self, context: &mut Context<'_>, reason: Reason) {
        if self.spec.mode == Mode::Observe {
            let plan = self.restart_plan(reason.cause, 1, Duration::ZERO, false);
            self.report(
                context,
                Some(reason.cause),
                Some(reason.seq),
                Detail::Restart(plan),
            );
            self.step(context, reason, Step::RemoveCgroup);
            let why = std::mem::take(&mut self.reason);
            self.enter(context, Lifecycle::Failed, why);
            return;
        }
        self.restarts += 1;
        self.start(context, reason);
    }

    /// Returns the start that waits for its turn.
    pub(crate) fn queued(&self) -> Option<Queued> {
        let Lifecycle::Queued { reason, at_once } = self.state else {
            return None;
        };
        Some(Queued {
            workload: self.name.clone(),
            by_hand: reason.cause == Cause::Manual,
            at_once,
            priority: self.spec.priority,
        })
    }

    /// Returns whether a start of this workload takes one of the host's places.
    pub(crate) fn is_coming_up(&self) -> bool {
        // A remedy may take a minute, and is no start yet.
        let starting = matches!(
            self.state,
            Lifecycle::Starting {
                remedying: None,
                ..
            }
        );
        let running = self.state.running();
        let comes = starting || running.is_some_and(|running| running.probing.takes_a_turn());
        // Its owner starts an attached service, and it may never come.
        comes && !self.attached
    }

    /// Returns whether the workload is as far as others need it.
    pub(crate) fn meets(&self, need: Need) -> bool {
        match need {
            Need::Started => self.runs(),
            Need::Ready => self.ready.now,
            Need::Completed => self.has_completed(),
        }
    }

    /// Notes that a queued start waits for another workload.
    pub(crate) fn waits_for(&mut self, other: &WorkloadName, need: Need) {
        if let Lifecycle::Queued { .. } = self.state {
            self.reason = format!("waiting for {other} to be {}", need.as_str());
        }
    }

    /// Begins the start whose turn it is.
    pub(crate) fn begin_start(&mut self, context: &mut Context<'_>) {
        let Lifecycle::Queued { reason, .. } = self.state else {
            return;
        };
        let had_instance = self.instance != InstanceId(0);
        if !self.has_time(context.moment.now) {
            match had_instance {
                true => self.rest_after(context, After::Stop, Cause::Deadline, reason.seq),
                false => self.come_to_rest(context, After::Stop, Cause::Deadline),
            }
            return;
        }
        *context.next_instance += 1;
        self.instance = InstanceId(*context.next_instance);
        self.early = Notice::default();
        let why = format!("starting ({})", reason.cause);
        let was_attached = std::mem::replace(&mut self.attached, self.spec.attach.is_some());
        if self.attached {
            if had_instance && !was_attached {
                // The program before may have left sockets, ports and a cgroup.
                self.step(context, reason, Step::RemoveCgroup);
                self.standing_claims = Claims::default();
            }
            self.look_for_service(context, reason);
            return;
        }
        if self.remedy.strategy == Strategy::Restart && self.spec.before_start.is_empty() {
            self.carry_out_start(context, reason);
        } else {
            self.carry_out_remedy(context, reason);
            let starting = Lifecycle::Starting {
                then: None,
                remedying: Some(reason),
                abort_at: None,
            };
            self.enter(context, starting, why);
        }
    }

    pub(super) fn carry_out_remedy(&self, context: &mut Context<'_>, reason: Reason) {
        let remedy = Aside::Remedy {
            spec: Arc::clone(&self.spec),
            remedy: self.remedy.clone(),
        };
        self.aside(context, reason, remedy);
    }

    pub(super) fn carry_out_start(&mut self, context: &mut Context<'_>, reason: Reason) {
        *self.remedy = Remedy::default();
        let start = Step::Start {
            spec: Arc::clone(&self.spec),
            limits: self.effective_limits(),
        };
        self.step(context, reason, start);
        let why = format!("starting ({})", reason.cause);
        let starting = Lifecycle::Starting {
            then: None,
            remedying: None,
            abort_at: None,
        };
        self.enter(context, starting, why);
    }

    pub(super) fn abort_start_if_due(&mut self, context: &mut Context<'_>) {
        if let Lifecycle::Starting {
            abort_at: Some(at), ..
        } = self.state
            && at <= context.moment.now
        {
            self.abort_start(context);
        }
    }

    /// Aborts a start that was asked to stop and has not ended by itself.
    fn abort_start(&mut self, context: &mut Context<'_>) {
        let Lifecycle::Starting {
            then,
            ref mut abort_at,
            ..
        } = self.state
        else {
            return;
        };
        *abort_at = None;
        // The workload may be wanted again by now.
        let Some(Then { cause, .. }) = then else {
            return;
        };
        let detail = Detail::Stop(Stop {
            signal: "SIGKILL".to_owned(),
            grace: Duration::ZERO,
            kill: true,
        });
        let seq = self.report(context, Some(cause), None, detail);
        self.aside(context, Reason { cause, seq }, Aside::AbortStart);
    }

    /// Handles the end of the work before a start. If it failed, the start has failed.
    pub(super) fn remedied(&mut self, context: &mut Context<'_>, error: Option<StartError>) {
        let Lifecycle::Starting {
            then,
            remedying: Some(reason),
            ..
        } = self.state
        else {
            return;
        };
        match (error, then) {
            (Some(error), _) => self.start_failed(context, error),
            (None, Some(then)) => self.instead_of_starting(context, then, reason.seq),
            (None, None) => self.carry_out_start(context, reason),
        }
    }

    /// Handles a request that came during a start that failed.
    fn instead_of_starting(&mut self, context: &mut Context<'_>, then: Then, seq: Seq) {
        match then {
            // Perhaps with another command.
            Then {
                after: After::Restart(cause),
                ..
            } => self.start_at_once(context, Reason { cause, seq }),
            Then { after, cause, .. } => self.rest_after(context, after, cause, seq),
        }
    }

    pub(crate) fn request(&mut self, context: &mut Context<'_>, request: Request) {
        match request {
            Request::Start => {
                self.close_breaker(context);
                match self.state {
                    Lifecycle::Pending
                    | Lifecycle::Queued { .. }
                    | Lifecycle::BackingOff { .. }
                    | Lifecycle::BreakerOpen { .. }
                    | Lifecycle::Stopped
                    | Lifecycle::Failed => self.start_by_hand(context),
                    Lifecycle::Starting {
                        ref mut then,
                        ref mut abort_at,
                        ..
                    } => (*then, *abort_at) = (None, None),
                    Lifecycle::Stopping(ref mut stopping) => {
                        stopping.after = After::Restart(Cause::Manual);
                    }
                    Lifecycle::Ending(ref mut ending) => {
                        ending.after = After::Restart(Cause::Manual);
                    }
                    Lifecycle::Running(_) | Lifecycle::Gone => {}
                }
            }
            Request::Restart => {
                self.close_breaker(context);
                if self.is_at_rest() || self.is_waiting() {
                    self.start_by_hand(context);
                } else {
                    self.stop(context, After::Restart(Cause::Manual), Cause::Manual, false);
                }
            }
            Request::Stop | Request::Kill => {
                self.sacrificed = false;
                let kill = request == Request::Kill;
                self.stop(context, After::Stop, Cause::Manual, kill);
            }
            Request::Throttle(percent) => self.throttle_by_hand(context, percent),
            Request::Release => self.release_by_hand(context),
            Request::Probe => self.probe_by_hand(context),
            Request::Reload => self.reload(context, Cause::Manual, None),
            Request::Deadline(until) => self.extend(context, until),
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
        let cause = Cause::Manual;
        let plan = self.restart_plan(cause, 0, Duration::ZERO, true);
        let seq = self.report(context, Some(cause), None, Detail::Restart(plan));
        self.start_at_once(context, Reason { cause, seq });
    }

    pub(super) fn prepared(
        &mut self,
        context: &mut Context<'_>,
        cgroup: CgroupId,
        counters: Counters,
    ) {
        context.ancestors.observe(context.moment.now, &counters);
        self.ledger.begin(cgroup, counters);
    }

    pub(super) fn started(&mut self, context: &mut Context<'_>, pid: u32) {
        let Lifecycle::Starting { then, .. } = self.state else {
            return;
        };
        // The owner has started it again.
        self.restarts += u64::from(self.attached && self.last_exit.is_some());
        let detail = Detail::Start(Start::Started { pid });
        let start_seq = self.report(context, None, None, detail);
        let running = Running {
            instance: Instance::new(pid, context.moment.now, start_seq),
            probing: Probing::begin(&self.spec, context, context.moment.now),
            words: Words::begin(&self.spec, context.moment.now),
            levels: Levels::default(),
            memory: Bytes(0),
        };
        self.enter(context, Lifecycle::Running(Box::new(running)), "running");
        if !self.spec.after_start.is_empty() {
            let reason = Reason {
                cause: Cause::Agent,
                seq: start_seq,
            };
            let (spec, hook) = (Arc::clone(&self.spec), Hook::AfterStart);
            self.aside(context, reason, Aside::RunHook { spec, hook });
        }
        self.limit_service(context, start_seq);
        self.ask_probes(context);
        self.hear_early(context);
        if let Some(Then { after, cause, kill }) = then {
            self.stop(context, after, cause, kill);
        }
    }

    /// Takes another process for the main one: the program has forked.
    pub(super) fn main_changed(&mut self, context: &mut Context<'_>, pid: u32) {
        if let Lifecycle::Starting { .. } = self.state {
            self.early.main_pid = Some(pid);
            return;
        }
        let Some(instance) = self.state.instance_mut() else {
            return;
        };
        if std::mem::replace(&mut instance.pid, pid) == pid {
            return;
        }
        let because = instance.start_seq;
        let detail = Detail::Main(MainChange { pid });
        self.report(context, None, Some(because), detail);
    }

    pub(super) fn start_failed(&mut self, context: &mut Context<'_>, error: StartError) {
        let Lifecycle::Starting { then, .. } = self.state else {
            return;
        };
        let why = format!("failed to {}: {}", error.stage, error.error);
        let seq = self.report(context, None, None, Detail::Start(Start::Failed(error)));
        self.reason = why;
        match then {
            Some(then) => self.instead_of_starting(context, then, seq),
            None => self.recover(context, Cause::Exit, seq, Duration::ZERO, true),
        }
    }
}
