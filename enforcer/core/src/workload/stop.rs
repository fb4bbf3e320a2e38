//! A stop on request: the signal, the grace, the kill.

use super::lifecycle::Stopping;
use super::{After, Context, Lifecycle, Then, Workload};
use crate::event::{
    Aside, BreakerChange, BreakerState, Cause, ConfigChange, Detail, Hang, Hook, HungThread,
    Reason, Seq, Step, Stop,
};
use std::sync::Arc;
use std::time::Duration;

/// The time that a start may go on after a request to stop, so that a program which begins in this
/// moment gets its signal and its grace.
const START_WAIT: Duration = Duration::from_secs(1);

/// The longest time for which a stop waits until it is known where the program hangs.
const COLLECTING: Duration = Duration::from_secs(3);

/// Returns whether a program is stopped because it does nothing.
fn is_hang(after: After) -> bool {
    matches!(after, After::Recover(Cause::Liveness | Cause::Progress))
}

impl Workload {
    /// Stops the workload for a shutdown or a removal.
    pub(crate) fn leave(&mut self, context: &mut Context<'_>, cause: Cause) {
        let after = if cause == Cause::Config {
            self.managed = false;
            After::Remove
        } else {
            After::Stop
        };
        self.stop(context, after, cause, false);
    }

    pub(super) fn stop(
        &mut self,
        context: &mut Context<'_>,
        after: After,
        cause: Cause,
        kill: bool,
    ) {
        if self.is_attached() {
            self.let_go(context, after, cause);
            return;
        }
        match &mut self.state {
            // Between two instances the cgroup stays, with its counters.
            Lifecycle::BackingOff { seq, .. } | Lifecycle::BreakerOpen { seq, .. } => {
                let seq = *seq;
                self.rest_after(context, after, cause, seq);
            }
            Lifecycle::Queued { reason, .. } => {
                let seq = reason.seq;
                self.rest_after(context, after, cause, seq);
            }
            Lifecycle::Pending | Lifecycle::Failed | Lifecycle::Stopped => {
                self.come_to_rest(context, after, cause)
            }
            Lifecycle::Starting {
                then,
                remedying,
                abort_at,
            } => {
                *then = Some(Then { after, cause, kill });
                // A program that has just begun is stopped with its grace, and so are the commands
                // before a start. A start that hangs has none.
                let wait = match remedying {
                    _ if kill => Duration::ZERO,
                    Some(_) => self.spec.stop.grace,
                    None => START_WAIT,
                };
                *abort_at = Some(context.moment.now.after(wait));
                if kill {
                    self.abort_start_if_due(context);
                }
            }
            Lifecycle::Running(_) => self.stop_running(context, after, (cause, None), kill),
            Lifecycle::Stopping(stopping) => {
                stopping.after = after;
                if kill {
                    stopping.withdrawing = None;
                    stopping.draining = false;
                    stopping.collecting = false;
                    stopping.kill_at = None;
                    let reason = stopping.reason;
                    self.kill_tree(context, reason);
                }
            }
            Lifecycle::Ending(ending) => ending.after = after,
            Lifecycle::Gone => {}
        }
    }

    /// Comes to rest: no instance runs, and none will.
    pub(super) fn come_to_rest(&mut self, context: &mut Context<'_>, after: After, cause: Cause) {
        match after {
            After::Remove => {
                self.report(
                    context,
                    Some(cause),
                    None,
                    Detail::Config(ConfigChange::Removed),
                );
                self.enter(context, Lifecycle::Gone, "removed");
            }
            After::Stop | After::Policy | After::Restart(_) | After::Recover(_) => {
                self.stopped_for = cause;
                if !matches!(self.state, Lifecycle::Stopped) {
                    self.enter(context, Lifecycle::Stopped, format!("stopped ({cause})"));
                }
            }
        }
        // A workload that steps back, or ends with the agent, keeps its used budget.
        match cause {
            Cause::Manual | Cause::Config => self.close_breaker(context),
            Cause::Exit
            | Cause::OomKill
            | Cause::Liveness
            | Cause::Startup
            | Cause::Progress
            | Cause::CpuLoop
            | Cause::HostPressure
            | Cause::Deadline
            | Cause::Drift
            | Cause::Agent => {}
        }
    }

    /// Closes the breaker and resets the recovery, for a person or for another manifest.
    pub(super) fn close_breaker(&mut self, context: &mut Context<'_>) {
        if self.recovery.is_open() {
            let change = BreakerChange {
                state: BreakerState::Closed,
                cooldown: Duration::ZERO,
            };
            self.report(context, Some(Cause::Manual), None, Detail::Breaker(change));
        }
        self.recovery.reset();
    }

    /// Asks the running instance to end, or kills it. `cause` comes with the event behind it.
    pub(super) fn stop_running(
        &mut self,
        context: &mut Context<'_>,
        after: After,
        (cause, because): (Cause, Option<Seq>),
        kill: bool,
    ) {
        if !self.runs() {
            return;
        }
        if self.attached {
            self.ask_owner(context, (cause, because));
            return;
        }
        let detail = Detail::Stop(Stop {
            signal: self.spec.stop.signal.clone(),
            grace: self.spec.stop.grace,
            kill,
        });
        let seq = self.report(context, Some(cause), because, detail);
        let was_open = self.gate.is_open();
        let busy = self.withdraw(context);
        let Lifecycle::Running(running) = std::mem::replace(&mut self.state, Lifecycle::Pending)
        else {
            return;
        };
        // A hook that failed has nothing to finish, so the stop does not wait for it.
        // Nor has one time for it whose deadline has passed.
        let waits = !kill && !matches!(after, After::Recover(_)) && cause != Cause::Deadline;
        let reason = Reason { cause, seq };
        // The host needs what the workload has, or goes down.
        let is_urgent = matches!(cause, Cause::Agent | Cause::HostPressure);
        let draining = waits && was_open && !is_urgent;
        let withdrawing = busy.filter(|_| waits);
        let hangs_alone = !kill && context.peers_pass && is_hang(after);
        let stopping = Stopping {
            instance: running.instance,
            after,
            reason,
            withdrawing,
            draining,
            collecting: hangs_alone,
            finishing: !waits,
            asked_at: context.moment.now,
            kill_at: None,
            report_stuck_at: None,
            stuck: false,
        };
        let why = format!("stopping ({cause})");
        self.enter(context, Lifecycle::Stopping(Box::new(stopping)), why);
        // Before the signal, so that no new connection reaches the program.
        self.refresh_gate(context);
        if hangs_alone {
            self.collect(context, reason);
            return;
        }
        if draining {
            let until = self.drain(context, reason);
            if let Lifecycle::Stopping(stopping) = &mut self.state {
                stopping.withdrawing = withdrawing.max(Some(until));
            }
            return;
        }
        if withdrawing.is_none() && !self.finish(context) {
            self.ask_to_end(context, kill);
        }
    }

    /// Has the edges find where the program hangs, while its peers do not. Afterwards nobody could.
    fn collect(&mut self, context: &mut Context<'_>, reason: Reason) {
        if let Lifecycle::Stopping(stopping) = &mut self.state {
            stopping.withdrawing = Some(context.moment.now.after(COLLECTING));
        }
        self.aside(context, reason, Aside::Collect);
    }

    /// The edges have found where the program hangs.
    pub(super) fn collected(&mut self, context: &mut Context<'_>, threads: Vec<HungThread>) {
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return;
        };
        if !std::mem::replace(&mut stopping.collecting, false) {
            return;
        }
        let reason = stopping.reason;
        if !threads.is_empty() {
            let detail = Detail::Hang(Hang { threads });
            self.report(context, Some(reason.cause), Some(reason.seq), detail);
        }
        self.withdrawn(context, false);
    }

    /// Begins the commands of `before_stop`, once. Returns whether the stop signal waits for them.
    fn finish(&mut self, context: &mut Context<'_>) -> bool {
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return false;
        };
        if std::mem::replace(&mut stopping.finishing, true) || self.spec.before_stop.is_empty() {
            return false;
        }
        let count = u32::try_from(self.spec.before_stop.len()).unwrap_or(u32::MAX);
        let limit = Hook::BeforeStop.limit().saturating_mul(count);
        // Each command may take a while to begin and to be ended.
        let until = context.moment.now.after(limit.saturating_mul(2));
        stopping.withdrawing = Some(until);
        let (reason, spec) = (stopping.reason, Arc::clone(&self.spec));
        let hook = Hook::BeforeStop;
        self.aside(context, reason, Aside::RunHook { spec, hook });
        true
    }

    /// Returns the step that asks the program to end.
    pub(super) fn stop_signal(&self) -> Step {
        Step::Signal {
            signal: self.spec.stop.signal.clone(),
            scope: self.spec.stop.scope,
        }
    }

    /// Sends the stop signal, or kills the instance if it has no grace.
    fn ask_to_end(&mut self, context: &mut Context<'_>, kill: bool) {
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return;
        };
        let reason = stopping.reason;
        let stop = &self.spec.stop;
        if kill || stop.grace.is_zero() {
            self.kill_tree(context, reason);
            return;
        }
        stopping.kill_at = Some(context.moment.now.after(stop.grace));
        let signal = self.stop_signal();
        self.step(context, reason, signal);
    }

    /// Goes on with a stop that waited for a hook, which has ended or whose time is over: with the
    /// commands of `before_stop`, or with the stop signal. `finished` says that those have ended.
    pub(super) fn withdrawn(&mut self, context: &mut Context<'_>, finished: bool) {
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return;
        };
        // A hook of readiness may end beside them, and beside the end of the connections.
        let runs_commands = stopping.finishing && !finished && !is_hang(stopping.after);
        let waits_for_others = runs_commands || stopping.draining || stopping.collecting;
        if waits_for_others
            && stopping
                .withdrawing
                .is_some_and(|at| at > context.moment.now)
        {
            return;
        }
        stopping.draining = false;
        stopping.collecting = false;
        if stopping.withdrawing.take().is_some() && !self.finish(context) {
            self.ask_to_end(context, false);
        }
    }

    /// Removes the cgroup, and leaves the workload in its state.
    pub(super) fn rest_after(
        &mut self,
        context: &mut Context<'_>,
        after: After,
        cause: Cause,
        seq: Seq,
    ) {
        self.step(context, Reason { cause, seq }, Step::RemoveCgroup);
        self.come_to_rest(context, after, cause);
    }
}
