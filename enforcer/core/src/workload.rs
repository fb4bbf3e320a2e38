//! One workload's lifecycle, and nothing about any other.
//!
//! ```text
//!  Pending ─start→ Starting ─started→ Running ─main exited→ Ending ─reaped, settled─┐
//!                     │                  └─stop→ Stopping ─main exited→ Ending      │
//!                     └─failed─┐                                                    │
//!                              ▼                                                    ▼
//!          BackingOff ←──── what follows: nothing (Stopped, Failed), a start, a wait
//!          BreakerOpen ←───────┘                     └→ Starting
//! ```
//!
//! An exit is told only when its OOM incident is, so that the cause always
//! stands before its effect.

use crate::event::{
    Action, ActionKind, BreakerChange, BreakerState, Cause, CgroupId, ConfigChange, Decision,
    Detail, ExitStatus, InstanceId, Moment, Reason, Request, RestartPlan, Seq, StartError,
    Transition,
};
use crate::name::WorkloadName;
use crate::oom::{Ancestors, Circumstances, Counters, Ledger, Victim};
use crate::plan::{Effect, SettingChange};
use crate::recovery::{Next, RecoveryState, TRIAL};
use crate::spec::{Mode, RestartPolicy, WorkloadSpec};
use crate::units::MonoTime;
use std::sync::Arc;
use std::time::Duration;

const SIGKILL: i32 = 9;

/// What all workloads share while one of them decides.
pub(crate) struct Context<'a> {
    pub(crate) moment: Moment,
    pub(crate) ebpf: bool,
    pub(crate) ancestors: &'a mut Ancestors,
    pub(crate) next_seq: &'a mut u64,
    pub(crate) next_instance: &'a mut u64,
    pub(crate) decision: &'a mut Decision,
}

/// What comes after an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// It went by itself: the restart policy decides.
    Policy,
    Stop,
    Restart(Cause),
    /// It is to be forgotten altogether.
    Remove,
}

#[derive(Clone, Debug)]
enum Lifecycle {
    Pending,
    /// `then` holds what was asked for meanwhile.
    Starting {
        then: Option<(After, Reason)>,
    },
    Running {
        pid: u32,
        since: MonoTime,
    },
    /// The stop signal was sent; at `kill_at` the tree is killed.
    Stopping {
        pid: u32,
        since: MonoTime,
        after: After,
        reason: Reason,
        kill_at: Option<MonoTime>,
    },
    /// The main process is gone.
    Ending {
        since: MonoTime,
        pid: u32,
        after: After,
        reason: Option<Reason>,
        status: Option<ExitStatus>,
    },
    BackingOff {
        until: MonoTime,
        cause: Cause,
        seq: Seq,
    },
    BreakerOpen {
        until: MonoTime,
        cause: Cause,
        seq: Seq,
    },
    Stopped,
    Failed,
    Gone,
}

/// What the API shows of a workload.
#[derive(Clone, Debug)]
pub struct View {
    pub name: WorkloadName,
    pub spec: Arc<WorkloadSpec>,
    pub managed: bool,
    pub state: &'static str,
    pub instance: InstanceId,
    pub pid: Option<u32>,
    pub restarts: u64,
    pub oom_kills: u64,
    pub last_exit: Option<LastExit>,
    /// When the state was entered.
    pub since: MonoTime,
    /// When the next start is due.
    pub next_start: Option<MonoTime>,
    /// One line: why it is in this state.
    pub reason: String,
    pub budget_used: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub oom_killed: bool,
}

#[derive(Debug)]
pub(crate) struct Workload {
    name: WorkloadName,
    pub(crate) spec: Arc<WorkloadSpec>,
    pub(crate) managed: bool,
    state: Lifecycle,
    since: MonoTime,
    reason: String,
    instance: InstanceId,
    recovery: RecoveryState,
    ledger: Ledger,
    /// The incident that killed this instance's main process or all of it.
    fatal_oom: Option<Seq>,
    restarts: u64,
    oom_kills: u64,
    last_exit: Option<LastExit>,
}

impl Workload {
    pub(crate) fn new(name: WorkloadName, spec: Arc<WorkloadSpec>, now: MonoTime) -> Self {
        Self {
            name,
            spec,
            managed: true,
            state: Lifecycle::Pending,
            since: now,
            reason: "not started yet".to_owned(),
            instance: InstanceId(0),
            recovery: RecoveryState::default(),
            ledger: Ledger::default(),
            fatal_oom: None,
            restarts: 0,
            oom_kills: 0,
            last_exit: None,
        }
    }

    pub(crate) fn view(&self) -> View {
        let (state, pid, next_start) = match &self.state {
            Lifecycle::Pending => ("pending", None, None),
            Lifecycle::Starting { .. } => ("starting", None, None),
            Lifecycle::Running { pid, .. } => ("running", Some(*pid), None),
            Lifecycle::Stopping { pid, .. } => ("stopping", Some(*pid), None),
            Lifecycle::Ending { .. } => ("stopping", None, None),
            Lifecycle::BackingOff { until, .. } => ("backing_off", None, Some(*until)),
            Lifecycle::BreakerOpen { until, .. } => ("breaker_open", None, Some(*until)),
            Lifecycle::Stopped | Lifecycle::Gone => ("stopped", None, None),
            Lifecycle::Failed => ("failed", None, None),
        };
        View {
            name: self.name.clone(),
            spec: Arc::clone(&self.spec),
            managed: self.managed,
            state,
            instance: self.instance,
            pid,
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            last_exit: self.last_exit,
            since: self.since,
            next_start,
            reason: self.reason.clone(),
            budget_used: self.recovery.budget_used(),
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, Lifecycle::Gone)
    }

    /// Nothing of it runs, and nothing is about to.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.state {
            Lifecycle::Pending | Lifecycle::Stopped | Lifecycle::Failed | Lifecycle::Gone => true,
            Lifecycle::Starting { .. }
            | Lifecycle::Running { .. }
            | Lifecycle::Stopping { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. } => false,
        }
    }

    fn enter(&mut self, context: &Context<'_>, state: Lifecycle, reason: impl Into<String>) {
        self.state = state;
        self.since = context.moment.now;
        self.reason = reason.into();
    }

    fn tell(
        &self,
        context: &mut Context<'_>,
        reason: Option<Cause>,
        caused_by: Option<Seq>,
        detail: Detail,
    ) -> Seq {
        *context.next_seq += 1;
        let seq = Seq(*context.next_seq);
        context.decision.transitions.push(Transition {
            seq,
            workload: Some(self.name.clone()),
            instance: Some(self.instance),
            reason,
            caused_by,
            detail,
        });
        seq
    }

    fn act(&self, context: &mut Context<'_>, reason: Reason, kind: ActionKind) {
        context.decision.actions.push(Action {
            workload: Some(self.name.clone()),
            instance: self.instance,
            reason,
            kind,
        });
    }

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
        }
    }

    fn is_waiting(&self) -> bool {
        matches!(
            self.state,
            Lifecycle::BackingOff { .. } | Lifecycle::BreakerOpen { .. }
        )
    }

    fn start_by_hand(&mut self, context: &mut Context<'_>) {
        // The record of the start itself is what the action's reason points to:
        // it comes with the pid, one number further on.
        let reason = Reason {
            cause: Cause::Manual,
            seq: Seq(*context.next_seq + 1),
        };
        self.start(context, reason);
    }

    /// No workload is left behind: neither by a shutdown, nor by a removal.
    pub(crate) fn leave(&mut self, context: &mut Context<'_>, cause: Cause) {
        let after = if cause == Cause::Config {
            After::Remove
        } else {
            After::Stop
        };
        self.stop(context, after, cause, false);
    }

    fn stop(&mut self, context: &mut Context<'_>, after: After, cause: Cause, kill: bool) {
        match &mut self.state {
            // Between two instances the cgroup is kept, with its counters.
            Lifecycle::BackingOff { seq, .. } | Lifecycle::BreakerOpen { seq, .. } => {
                let seq = *seq;
                self.rest_after(context, after, cause, seq);
            }
            Lifecycle::Pending | Lifecycle::Failed | Lifecycle::Stopped => {
                self.come_to_rest(context, after, cause)
            }
            Lifecycle::Starting { then } => {
                let seq = Seq(*context.next_seq);
                *then = Some((after, Reason { cause, seq }));
            }
            Lifecycle::Running { pid, since } => {
                let (pid, since) = (*pid, *since);
                self.stop_running(context, (pid, since), after, cause, kill);
            }
            Lifecycle::Stopping {
                after: present,
                reason,
                kill_at,
                ..
            } => {
                *present = after;
                if kill && kill_at.take().is_some() {
                    let reason = *reason;
                    self.act(context, reason, ActionKind::KillTree);
                }
            }
            Lifecycle::Ending { after: present, .. } => *present = after,
            Lifecycle::Gone => {}
        }
    }

    /// Nothing runs and nothing will: what is left is to say so.
    fn come_to_rest(&mut self, context: &mut Context<'_>, after: After, cause: Cause) {
        match after {
            After::Remove => {
                self.tell(
                    context,
                    Some(cause),
                    None,
                    Detail::Config(ConfigChange::Removed),
                );
                self.enter(context, Lifecycle::Gone, "removed");
            }
            After::Stop | After::Policy | After::Restart(_) => {
                if !matches!(self.state, Lifecycle::Stopped) {
                    self.enter(context, Lifecycle::Stopped, format!("stopped ({cause})"));
                }
            }
        }
        self.recovery.reset();
    }

    fn stop_running(
        &mut self,
        context: &mut Context<'_>,
        (pid, since): (u32, MonoTime),
        after: After,
        cause: Cause,
        kill: bool,
    ) {
        let stop = self.spec.stop.clone();
        let detail = Detail::Stop {
            signal: stop.signal.clone(),
            grace_seconds: stop.grace.as_secs_f64(),
            kill,
        };
        let seq = self.tell(context, Some(cause), None, detail);
        let reason = Reason { cause, seq };
        let at_once = kill || stop.grace.is_zero();
        let kill_at = (!at_once).then(|| context.moment.now.after(stop.grace));
        if at_once {
            self.act(context, reason, ActionKind::KillTree);
        } else {
            self.act(
                context,
                reason,
                ActionKind::Signal {
                    signal: stop.signal,
                },
            );
        }
        self.enter(
            context,
            Lifecycle::Stopping {
                pid,
                since,
                after,
                reason,
                kill_at,
            },
            format!("stopping ({cause})"),
        );
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
        if let Some((after, reason)) = then {
            self.stop(context, after, reason.cause, false);
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
            Some((after, reason)) => self.rest_after(context, after, reason.cause, seq),
            None => self.recover(context, Cause::Exit, seq, Duration::ZERO, true),
        }
    }

    /// The cgroup goes, and the workload stays where it is.
    fn rest_after(&mut self, context: &mut Context<'_>, after: After, cause: Cause, seq: Seq) {
        self.act(context, Reason { cause, seq }, ActionKind::RemoveCgroup);
        self.come_to_rest(context, after, cause);
    }

    pub(crate) fn main_exited(&mut self, context: &mut Context<'_>, instance: InstanceId) {
        if instance != self.instance {
            return;
        }
        let (pid, since, after, reason) = match self.state {
            Lifecycle::Running { pid, since } => (pid, since, After::Policy, None),
            Lifecycle::Stopping {
                pid,
                since,
                after,
                reason,
                ..
            } => (pid, since, after, Some(reason)),
            Lifecycle::Pending
            | Lifecycle::Starting { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => return,
        };
        // What is left beside it is killed because of the exit, which is told next.
        let because = reason.unwrap_or(Reason {
            cause: Cause::Exit,
            seq: Seq(*context.next_seq + 1),
        });
        self.act(context, because, ActionKind::Reap);
        self.enter(
            context,
            Lifecycle::Ending {
                since,
                pid,
                after,
                reason,
                status: None,
            },
            "collecting what is left",
        );
    }

    pub(crate) fn reaped(
        &mut self,
        context: &mut Context<'_>,
        instance: InstanceId,
        status: ExitStatus,
        counters: Counters,
    ) {
        if instance != self.instance {
            return;
        }
        let Lifecycle::Ending {
            status: ref mut slot,
            ..
        } = self.state
        else {
            return;
        };
        *slot = Some(status);
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

    /// Tells an incident that is complete, and an exit that waited for it. What
    /// happens to an instance is not told before its start is.
    fn settle(&mut self, context: &mut Context<'_>) {
        if matches!(self.state, Lifecycle::Starting { .. }) {
            return;
        }
        let ended = matches!(
            self.state,
            Lifecycle::Ending {
                status: Some(_),
                ..
            }
        );
        let group = self.spec.limits.memory_oom_group == Some(true);
        let circumstances = Circumstances {
            ended,
            ebpf: context.ebpf,
            group,
        };
        let incident = self
            .ledger
            .settle(context.moment.now, circumstances, context.ancestors);
        if let Some(incident) = incident {
            self.oom_kills += 1;
            let main = self.main_pid();
            let fatal = incident.group
                || incident.victims.is_empty()
                || incident
                    .victims
                    .iter()
                    .any(|victim| Some(victim.pid) == main);
            let seq = self.tell(context, None, None, Detail::OomKill(incident));
            if fatal {
                self.fatal_oom = Some(seq);
            }
        }
        if let Lifecycle::Ending {
            since,
            after,
            reason,
            status: Some(status),
            ..
        } = self.state
            && !self.ledger.is_open()
        {
            self.ended(context, since, after, reason, status);
        }
    }

    fn main_pid(&self) -> Option<u32> {
        match self.state {
            Lifecycle::Running { pid, .. }
            | Lifecycle::Stopping { pid, .. }
            | Lifecycle::Ending { pid, .. } => Some(pid),
            Lifecycle::Pending
            | Lifecycle::Starting { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => None,
        }
    }

    fn ended(
        &mut self,
        context: &mut Context<'_>,
        since: MonoTime,
        after: After,
        reason: Option<Reason>,
        status: ExitStatus,
    ) {
        let (code, signal) = match status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal(signal) => (None, Some(signal)),
        };
        let oom = self.fatal_oom.filter(|_| signal == Some(SIGKILL));
        let exit = LastExit {
            code,
            signal,
            oom_killed: oom.is_some(),
        };
        self.last_exit = Some(exit);
        let detail = Detail::Exit {
            code,
            signal,
            oom_killed: exit.oom_killed,
        };
        let seq = self.tell(
            context,
            None,
            oom.or(reason.map(|reason| reason.seq)),
            detail,
        );
        let cause = if oom.is_some() {
            Cause::OomKill
        } else {
            Cause::Exit
        };
        match after {
            After::Policy => {
                self.reason = describe_exit(exit);
                self.recover(
                    context,
                    cause,
                    seq,
                    context.moment.now.since(since),
                    code != Some(0),
                );
            }
            After::Restart(cause) => {
                let plan = self.restart_plan(0, Duration::ZERO, true);
                let seq = self.tell(context, Some(cause), Some(seq), Detail::Restart(plan));
                self.start(context, Reason { cause, seq });
            }
            After::Stop | After::Remove => {
                let cause = reason.map_or(Cause::Manual, |reason| reason.cause);
                self.rest_after(context, after, cause, seq);
            }
        }
    }

    fn restart_plan(&self, attempt: u32, delay: Duration, carried_out: bool) -> RestartPlan {
        RestartPlan {
            attempt,
            delay,
            carried_out,
            budget_used: self.recovery.budget_used(),
            budget: self
                .spec
                .recovery
                .budget
                .as_ref()
                .map(|budget| budget.restarts),
        }
    }

    /// An instance is gone, or never came to be, and nobody asked for that.
    fn recover(
        &mut self,
        context: &mut Context<'_>,
        cause: Cause,
        seq: Seq,
        ran: Duration,
        failure: bool,
    ) {
        let wanted = match self.spec.recovery.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => failure,
            RestartPolicy::Never => false,
        };
        let spec = Arc::clone(&self.spec);
        if !wanted || spec.mode == Mode::Observe {
            if wanted {
                let plan = self.restart_plan(1, Duration::ZERO, false);
                self.tell(context, Some(cause), Some(seq), Detail::Restart(plan));
            }
            self.act(context, Reason { cause, seq }, ActionKind::RemoveCgroup);
            let state = if failure {
                Lifecycle::Failed
            } else {
                Lifecycle::Stopped
            };
            let reason = std::mem::take(&mut self.reason);
            self.enter(context, state, reason);
            return;
        }
        match self
            .recovery
            .after_failure(context.moment, ran, &spec.recovery)
        {
            Next::Restart { attempt, delay } => {
                let plan = self.restart_plan(attempt, delay, true);
                let seq = self.tell(context, Some(cause), Some(seq), Detail::Restart(plan));
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
                let change = BreakerChange {
                    state: BreakerState::Open,
                    cooldown,
                };
                let seq = self.tell(context, Some(cause), Some(seq), Detail::Breaker(change));
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

    /// Takes over another version of its manifest.
    pub(crate) fn configure(
        &mut self,
        context: &mut Context<'_>,
        spec: Arc<WorkloadSpec>,
        changes: Vec<SettingChange>,
    ) {
        self.spec = spec;
        self.managed = true;
        let restart = changes
            .iter()
            .any(|change| change.effect == Effect::Restart);
        let limits = changes
            .iter()
            .any(|change| change.setting.starts_with("cgroup."));
        let seq = self.tell(
            context,
            Some(Cause::Config),
            None,
            Detail::Config(ConfigChange::Changed(changes)),
        );
        if restart && !self.is_at_rest() && !self.is_waiting() {
            self.stop(context, After::Restart(Cause::Config), Cause::Config, false);
        } else if limits && self.main_pid().is_some() {
            let spec = Arc::clone(&self.spec);
            self.act(
                context,
                Reason {
                    cause: Cause::Config,
                    seq,
                },
                ActionKind::WriteLimits { spec },
            );
        }
    }

    /// No manifest names it any more.
    pub(crate) fn disown(&mut self, context: &mut Context<'_>) {
        if self.managed {
            self.managed = false;
            self.tell(
                context,
                Some(Cause::Config),
                None,
                Detail::Config(ConfigChange::Unmanaged),
            );
        }
    }

    pub(crate) fn record(&self, context: &mut Context<'_>, reason: Cause, detail: Detail) {
        self.tell(context, Some(reason), None, detail);
    }

    /// Does what is due at this moment.
    pub(crate) fn wake(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        self.settle(context);
        match self.state {
            Lifecycle::Stopping {
                ref mut kill_at,
                reason,
                ..
            } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
                self.act(context, reason, ActionKind::KillTree);
            }
            Lifecycle::BackingOff { until, cause, seq } if until <= now => {
                self.restarts += 1;
                self.start(context, Reason { cause, seq });
            }
            Lifecycle::BreakerOpen { until, cause, seq } if until <= now => {
                let cooldown = self.recovery.half_open();
                let change = BreakerChange {
                    state: BreakerState::HalfOpen,
                    cooldown,
                };
                let seq = self.tell(context, Some(cause), Some(seq), Detail::Breaker(change));
                self.restarts += 1;
                self.start(context, Reason { cause, seq });
            }
            Lifecycle::Running { since, .. }
                if self.recovery.is_on_trial() && now.since(since) >= TRIAL =>
            {
                let change = BreakerChange {
                    state: BreakerState::Closed,
                    cooldown: Duration::ZERO,
                };
                self.tell(context, None, None, Detail::Breaker(change));
                self.recovery.reset();
            }
            Lifecycle::Pending
            | Lifecycle::Starting { .. }
            | Lifecycle::Running { .. }
            | Lifecycle::Stopping { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => {}
        }
    }

    /// When this workload next has something to do without being told.
    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        let ended = matches!(
            self.state,
            Lifecycle::Ending {
                status: Some(_),
                ..
            }
        );
        let group = self.spec.limits.memory_oom_group == Some(true);
        let due = match self.state {
            Lifecycle::Starting { .. } => return None,
            Lifecycle::Stopping { kill_at, .. } => kill_at,
            Lifecycle::BackingOff { until, .. } | Lifecycle::BreakerOpen { until, .. } => {
                Some(until)
            }
            Lifecycle::Running { since, .. } if self.recovery.is_on_trial() => {
                Some(since.after(TRIAL))
            }
            Lifecycle::Pending
            | Lifecycle::Running { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => None,
        };
        let settle = self.ledger.deadline(group, ended);
        match (due, settle) {
            (Some(due), Some(settle)) => Some(due.min(settle)),
            (due, settle) => due.or(settle),
        }
    }
}

fn describe_exit(exit: LastExit) -> String {
    match exit {
        LastExit {
            oom_killed: true, ..
        } => "OOM kill".to_owned(),
        LastExit {
            code: Some(code), ..
        } => format!("exited with code {code}"),
        LastExit {
            signal: Some(signal),
            ..
        } => format!("killed by signal {signal}"),
        LastExit {
            code: None,
            signal: None,
            ..
        } => "exited".to_owned(),
    }
}
