//! An instance's end: what is left is collected, OOM incidents are reported before the exit that
//! they caused, and the restart policy decides what follows.

use super::lifecycle::Ending;
use super::{After, Context, LastExit, Lifecycle, Workload};
use crate::checkpoint::FatalOom;
use crate::event::{
    BreakerChange, BreakerState, Cause, Degraded, Detail, Exit, ExitStatus, Reason, Remedy,
    RestartPlan, Seq, Step,
};
use crate::oom::{Counters, Victim};
use crate::recovery::Next;
use crate::spec::{Mode, RestartPolicy, Strategy};
use crate::units::MonoTime;
use enforcer_model::sentence;
use std::sync::Arc;
use std::time::Duration;

const SIGKILL: i32 = 9;
/// An exit so soon after a kill without a name is taken for its effect.
const NAMELESS_WAIT: Duration = Duration::from_secs(1);

impl Workload {
    pub(super) fn main_exited(&mut self, context: &mut Context<'_>) {
        let state = std::mem::replace(&mut self.state, Lifecycle::Pending);
        let (instance, after, reason, stuck) = match state {
            Lifecycle::Running(running) => {
                let asked = std::mem::take(&mut self.asking).reason();
                (running.instance, After::Policy, asked, false)
            }
            Lifecycle::Stopping(stopping) => (
                stopping.instance,
                stopping.after,
                Some(stopping.reason),
                // The main process may be gone while others stay.
                stopping.stuck,
            ),
            state @ (Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Starting { .. }
            | Lifecycle::Ending(_)
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone) => {
                self.state = state;
                return;
            }
        };
        // The exit is reported later. It ends the instance of this start.
        let because = reason.unwrap_or(Reason {
            cause: Cause::Exit,
            seq: instance.start_seq,
        });
        self.step(context, because, Step::Reap);
        let ending = Ending {
            instance,
            after,
            reason,
            status: None,
            stuck,
        };
        self.enter(
            context,
            Lifecycle::Ending(Box::new(ending)),
            "collecting what is left",
        );
    }

    pub(super) fn reaped(
        &mut self,
        context: &mut Context<'_>,
        status: ExitStatus,
        counters: Counters,
    ) {
        let Lifecycle::Ending(ending) = &mut self.state else {
            return;
        };
        let known = &mut ending.status;
        // A second answer, after the agent that knew the first is gone, may know less.
        match status {
            ExitStatus::Unknown => _ = known.get_or_insert(status),
            ExitStatus::Code(_) | ExitStatus::Signal(_) => *known = Some(status),
        }
        self.counters_read(context, counters);
    }

    pub(crate) fn oom_mark(
        &mut self,
        context: &mut Context<'_>,
        victim: Victim,
        counters: Counters,
    ) {
        self.ledger.mark(context.moment.now, victim);
        self.counters_read(context, counters);
    }

    pub(crate) fn counters_read(&mut self, context: &mut Context<'_>, counters: Counters) {
        context.ancestors.observe(context.moment.now, &counters);
        self.ledger.read(context.moment.now, counters);
        self.settle(context);
    }

    /// Reports an incident that is complete, and an exit that waited for it. No event of an
    /// instance is reported before its start.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) {
        if matches!(self.state, Lifecycle::Starting { .. }) {
            return;
        }
        let circumstances = self.circumstances(context.ebpf);
        let incident = self
            .ledger
            .settle(context.moment.now, circumstances, context.ancestors);
        if let Some(incident) = incident {
            self.oom_kills += 1;
            let main = self.main_pid();
            let named = incident
                .victims
                .iter()
                .any(|victim| Some(victim.pid) == main);
            let certain = incident.group || named;
            // Without names the victim may be the main process, if it ends next.
            let possible = certain || incident.victims.is_empty();
            let seq = self.report(context, None, None, Detail::OomKill(incident));
            if possible && let Some(instance) = self.state.instance_mut() {
                let at = context.moment.now;
                instance.fatal_oom = Some(FatalOom { seq, certain, at });
            }
        }
        if let Lifecycle::Ending(ending) = &self.state
            && let Some(status) = ending.status
            && !self.ledger.is_open()
        {
            let (after, reason) = (ending.after, ending.reason);
            let ran = context.moment.now.since(ending.instance.since);
            let oom = ending.instance.fatal_oom;
            let oom = oom.filter(|oom| explains(*oom, status, context.moment.now));
            let oom = oom.map(|oom| oom.seq);
            self.ended(context, status, oom, ran, after, reason);
        }
    }

    /// Reports the exit of an instance, which an OOM incident may have caused, and decides what
    /// follows.
    fn ended(
        &mut self,
        context: &mut Context<'_>,
        status: ExitStatus,
        oom: Option<Seq>,
        ran: Duration,
        after: After,
        reason: Option<Reason>,
    ) {
        let (code, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) => (None, Some(signal)),
            ExitStatus::Unknown => (None, None),
        };
        let oom_killed = oom.is_some();
        let exit = LastExit {
            code,
            signal,
            oom_killed,
        };
        self.last_exit = Some(exit);
        let detail = Detail::Exit(Exit {
            code,
            signal,
            oom_killed,
        });
        let because = oom.or(reason.map(|reason| reason.seq));
        let seq = self.report(context, None, because, detail);
        self.forget_loops(context);
        match after {
            After::Policy => {
                self.reason = describe_exit(exit);
                let cause = match oom_killed {
                    true => Cause::OomKill,
                    false => Cause::Exit,
                };
                self.recover(context, cause, seq, ran, code != Some(0));
            }
            After::Recover(cause) => {
                self.reason = if cause == Cause::CpuLoop {
                    "a dead loop".to_owned()
                } else {
                    self.health_why.clone()
                };
                self.recover(context, cause, seq, ran, true);
            }
            After::Restart(cause) => {
                *self.remedy = Remedy::default();
                let plan = self.restart_plan(cause, 0, Duration::ZERO, true);
                let seq = self.report(context, Some(cause), Some(seq), Detail::Restart(plan));
                self.start_at_once(context, Reason { cause, seq });
            }
            After::Stop | After::Remove => {
                let by_itself = match self.has_time(context.moment.now) {
                    true => Cause::Manual,
                    false => Cause::Deadline,
                };
                let cause = reason.map_or(by_itself, |reason| reason.cause);
                self.rest_after(context, after, cause, seq);
            }
        }
    }

    pub(super) fn restart_plan(
        &self,
        cause: Cause,
        attempt: u32,
        delay: Duration,
        carried_out: bool,
    ) -> RestartPlan {
        let strategy = match attempt {
            0 => Strategy::Restart,
            attempt => self.spec.recovery.strategies.choose(cause, attempt),
        };
        RestartPlan {
            attempt,
            delay,
            carried_out,
            strategy: strategy.name(),
            rate_limited: false,
            budget_used: self.recovery.used(),
            budget: self
                .spec
                .recovery
                .budget
                .as_ref()
                .map(|budget| budget.restarts),
        }
    }

    /// Decides what follows an instance that failed, or never began.
    pub(super) fn recover(
        &mut self,
        context: &mut Context<'_>,
        cause: Cause,
        seq: Seq,
        ran: Duration,
        failure: bool,
    ) {
        if self.attached {
            self.service_ended(context, cause, seq);
            return;
        }
        let wanted = match self.spec.recovery.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => failure,
            RestartPolicy::Never => false,
        };
        let spec = Arc::clone(&self.spec);
        if !wanted || spec.mode == Mode::Observe {
            if wanted {
                let plan = self.restart_plan(cause, 1, Duration::ZERO, false);
                self.report(context, Some(cause), Some(seq), Detail::Restart(plan));
            }
            self.step(context, Reason { cause, seq }, Step::RemoveCgroup);
            let state = if failure {
                Lifecycle::Failed
            } else {
                Lifecycle::Stopped
            };
            let reason = std::mem::take(&mut self.reason);
            // The next agent has to know that it ended by itself.
            self.stopped_for = cause;
            self.enter(context, state, reason);
            return;
        }
        match self
            .recovery
            .after_failure(context.moment, ran, &spec.recovery)
        {
            Next::Restart {
                attempt,
                delay,
                rate_limited,
            } => {
                self.choose_strategy(cause, attempt);
                let plan = RestartPlan {
                    rate_limited,
                    ..self.restart_plan(cause, attempt, delay, true)
                };
                let seq = self.report(context, Some(cause), Some(seq), Detail::Restart(plan));
                if delay.is_zero() {
                    self.restarts += 1;
                    self.start(context, Reason { cause, seq });
                } else {
                    let until = context.moment.now.after(delay);
                    let reason = std::mem::take(&mut self.reason);
                    self.enter(context, Lifecycle::BackingOff { until, cause, seq }, reason);
                }
            }
            Next::Open { cooldown } => {
                self.choose_strategy(cause, u32::MAX);
                let change = BreakerChange {
                    state: BreakerState::Open,
                    cooldown,
                };
                let seq = self.report(context, Some(cause), Some(seq), Detail::Breaker(change));
                let until = context.moment.now.after(cooldown);
                let reason = std::mem::take(&mut self.reason);
                self.enter(
                    context,
                    Lifecycle::BreakerOpen { until, cause, seq },
                    reason,
                );
            }
        }
    }
}

impl Workload {
    /// Chooses the work before the next start, and the environment of its command.
    fn choose_strategy(&mut self, cause: Cause, attempt: u32) {
        let strategy = self.spec.recovery.strategies.choose(cause, attempt);
        let mut failure = vec![
            ("ENFORCER_CAUSE".to_owned(), cause.to_string()),
            ("ENFORCER_REASON".to_owned(), self.reason.clone()),
        ];
        let mut set = |name: &str, value: String| failure.push((name.to_owned(), value));
        if attempt < u32::MAX {
            set("ENFORCER_ATTEMPT", attempt.to_string());
        }
        let exit = self.last_exit;
        let code = exit.and_then(|exit| exit.code);
        let signal = exit.and_then(|exit| exit.signal);
        if let Some(code) = code {
            set("ENFORCER_EXIT_CODE", code.to_string());
        }
        if let Some(signal) = signal {
            set("ENFORCER_EXIT_SIGNAL", signal.to_string());
        }
        *self.remedy = Remedy { strategy, failure };
    }

    /// Reports that the command between two instances failed.
    pub(crate) fn remedy_failed(&mut self, context: &mut Context<'_>, why: String) {
        let what = "recovery".to_owned();
        let seq = self.report(
            context,
            None,
            None,
            Detail::Degraded(Degraded { what, why }),
        );
        if self.attached {
            self.owner_failed(context, seq);
        }
    }
}

/// Returns whether the incident explains this exit, if it is reported now.
fn explains(oom: FatalOom, status: ExitStatus, now: MonoTime) -> bool {
    let killed = match status {
        ExitStatus::Code(_) => false,
        ExitStatus::Signal(signal) => signal == SIGKILL,
        ExitStatus::Unknown => true,
    };
    killed && (oom.certain || now.since(oom.at) <= NAMELESS_WAIT)
}

fn describe_exit(exit: LastExit) -> String {
    match exit.oom_killed {
        true => "OOM kill".to_owned(),
        false => sentence::of_exit(&Exit {
            code: exit.code,
            signal: exit.signal,
            oom_killed: false,
        }),
    }
}
