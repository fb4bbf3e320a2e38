//! The lifecycle of one workload.
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
//! An exit is reported only after its OOM incident, so that the cause always comes before its
//! effect.

mod adoption;
mod attached;
mod checkpoint;
mod configuration;
mod drift;
mod end;
mod event;
mod gate;
mod health;
mod host_pressure;
mod ladder;
mod lease;
mod lifecycle;
mod loops;
mod notice;
mod probes;
mod readiness;
mod reload;
mod start;
mod stop;
mod view;

pub(crate) use event::limits_change;
pub use probes::{ProbeView, answer_in_words};
pub(crate) use view::Progress;
pub use view::{LastExit, View};

use crate::checkpoint::{After, Checkpoint, Then};
use crate::claims::Claims;
use crate::drift::Repairs;
use crate::event::{
    Action, Aside, BreakerChange, BreakerState, Cause, Decision, Degraded, Detail, InstanceId,
    Moment, Reason, Remedy, Seq, Step, Transition, WorkloadAction, WorkloadChange,
};
use crate::health::Health;
use crate::name::ReplicaId;
use crate::notice::Notice;
use crate::oom::{Ancestors, Circumstances, Ledger};
use crate::recovery::{RecoveryState, TRIAL};
use crate::spec::WorkloadSpec;
use crate::units::MonoTime;
use gate::Gate;
use lease::Lease;
use lifecycle::Lifecycle;
use loops::Loops;
use readiness::Ready;
use reload::Reloads;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The state that all workloads share while one of them decides.
pub(crate) struct Context<'a> {
    pub(crate) moment: Moment,
    pub(crate) ebpf: bool,
    /// Another replica of the same workload is ready.
    pub(crate) peers_pass: bool,
    /// The time of the agent's first event.
    pub(crate) agent_began: MonoTime,
    pub(crate) ancestors: &'a mut Ancestors,
    pub(crate) next_seq: &'a mut u64,
    pub(crate) next_instance: &'a mut u64,
    pub(crate) decision: &'a mut Decision,
}

#[derive(Debug)]
pub(crate) struct Workload {
    name: ReplicaId,
    pub(crate) spec: Arc<WorkloadSpec>,
    pub(crate) managed: bool,
    state: Lifecycle,
    since: MonoTime,
    reason: String,
    instance: InstanceId,
    recovery: RecoveryState,
    ledger: Ledger,
    /// The reason for which the last write of limits failed. The kernel still has older ones.
    limits_refused: Option<String>,
    /// The writes of limits that are not answered yet: the cause of each, and the drift that was
    /// reported.
    writes_under_way: VecDeque<(Cause, Vec<String>)>,
    repairs: Repairs,
    /// The claims that outlast an instance: an operator's throttle, and the demotion of a host that
    /// is short of memory.
    standing_claims: Claims,
    ready: Ready,
    gate: Gate,
    health: Health,
    health_why: String,
    /// The event that reported the health.
    health_seq: Seq,
    /// The present instance is an attached service, or the edges look for one.
    attached: bool,
    asking: attached::Asking,
    /// The work before the next automatic start.
    remedy: Box<Remedy>,
    /// The workload was stopped because the host was short of memory, and comes back.
    sacrificed: bool,
    /// The cause of the last rest.
    stopped_for: Cause,
    lease: Lease,
    /// The workload would have stepped back for the host, if its mode were not `observe`.
    spared_by_mode: bool,
    /// Askings so far, of all probes of all instances.
    probe_runs: u64,
    restarts: u64,
    oom_kills: u64,
    last_exit: Option<LastExit>,
    reloads: Reloads,
    /// Notifications that arrived before the start was known to have succeeded.
    early: Notice,
    /// The last checkpoint.
    checkpoint: Option<Checkpoint>,
}

/// The time after a kill when processes that are still there are reported, and the time to the next
/// report.
const STUCK_AFTER: Duration = Duration::from_secs(10);
const STUCK_AGAIN: Duration = Duration::from_secs(60);

impl Workload {
    pub(crate) fn new(name: ReplicaId, spec: Arc<WorkloadSpec>, now: MonoTime) -> Self {
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
            limits_refused: None,
            writes_under_way: VecDeque::new(),
            repairs: Repairs::default(),
            standing_claims: Claims::default(),
            ready: Ready::default(),
            gate: Gate::default(),
            health: Health::default(),
            health_why: String::new(),
            health_seq: Seq(0),
            attached: false,
            asking: attached::Asking::default(),
            remedy: Box::default(),
            sacrificed: false,
            stopped_for: Cause::Agent,
            lease: Lease::default(),
            spared_by_mode: false,
            probe_runs: 0,
            restarts: 0,
            oom_kills: 0,
            last_exit: None,
            reloads: Reloads::default(),
            early: Notice::default(),
            checkpoint: None,
        }
    }

    /// Returns whether the workload is removed, and shown no more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, Lifecycle::Gone)
    }

    /// Returns whether the workload is removed, and no command of its manifest runs any more.
    pub(crate) fn may_be_forgotten(&self) -> bool {
        self.is_gone() && self.is_done() && !self.reloads.is_busy()
    }

    /// Takes the place of a removed workload of the same name whose last hook or reload still runs.
    /// It inherits their state, so that hooks stay in order and reloads do not overlap.
    pub(crate) fn succeed(&mut self, gone: &Self) {
        self.ready = gone.ready.clone();
        self.reloads = gone.reloads.inherited();
        self.probe_runs = gone.probe_runs;
    }

    /// Returns whether no instance runs, and none is about to.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.state {
            Lifecycle::Pending | Lifecycle::Stopped | Lifecycle::Failed | Lifecycle::Gone => true,
            Lifecycle::Queued { .. }
            | Lifecycle::Starting { .. }
            | Lifecycle::Running { .. }
            | Lifecycle::Stopping { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. } => false,
        }
    }

    /// Returns whether the last instance ended by itself, and no other one is to follow.
    fn ended_by_itself(&self) -> bool {
        let is_over = matches!(self.state, Lifecycle::Stopped | Lifecycle::Failed);
        is_over && matches!(self.stopped_for, Cause::Exit | Cause::OomKill)
    }

    /// Returns whether the workload is a job that has done its work.
    fn has_completed(&self) -> bool {
        let succeeded = self.last_exit.is_some_and(|exit| exit.code == Some(0));
        succeeded && matches!(self.state, Lifecycle::Stopped) && self.ended_by_itself()
    }

    /// Returns whether a shutdown need not wait for this workload. It does not wait for a process
    /// that the kernel cannot end.
    pub(crate) fn is_done(&self) -> bool {
        (self.is_at_rest() || self.state.is_stuck()) && !self.ready.is_busy()
    }

    /// Kills the whole cgroup, and reports what is still there after a while.
    fn kill_tree(&mut self, context: &mut Context<'_>, reason: Reason) {
        self.step(context, reason, Step::KillTree);
        if let Lifecycle::Stopping(stopping) = &mut self.state {
            stopping.report_stuck_at = Some(context.moment.now.after(STUCK_AFTER));
        }
    }

    fn ask_about_stuck(&mut self, context: &mut Context<'_>) {
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return;
        };
        let now = context.moment.now;
        if stopping.report_stuck_at.is_some_and(|at| at <= now) {
            stopping.report_stuck_at = Some(now.after(STUCK_AGAIN));
            let reason = stopping.reason;
            self.aside(context, reason, Aside::ReportStuck);
        }
    }

    /// Processes are still there although they were killed.
    fn stays(&mut self, context: &mut Context<'_>, processes: &str) {
        let stuck = match &mut self.state {
            Lifecycle::Stopping(stopping) => &mut stopping.stuck,
            Lifecycle::Ending(ending) => &mut ending.stuck,
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Starting { .. }
            | Lifecycle::Running(_)
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => return,
        };
        *stuck = true;
        self.reason = format!("still there after SIGKILL: {processes}");
        let detail = Detail::Degraded(Degraded {
            what: "stop".to_owned(),
            why: self.reason.clone(),
        });
        self.report(context, None, None, detail);
    }

    /// Brings health and readiness up to date, after every event.
    pub(crate) fn refresh(&mut self, context: &mut Context<'_>) {
        self.refresh_health(context);
        self.refresh_ready(context);
        self.refresh_gate(context);
    }

    fn enter(&mut self, context: &Context<'_>, state: Lifecycle, reason: impl Into<String>) {
        self.state = state;
        self.since = context.moment.now;
        self.reason = reason.into();
    }

    fn report(
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

    /// Decides on a change that follows the workload's earlier ones.
    fn step(&self, context: &mut Context<'_>, reason: Reason, step: Step) {
        self.act(context, reason, WorkloadChange::Step(step));
    }

    /// Decides on a change that no other one waits for.
    fn aside(&self, context: &mut Context<'_>, reason: Reason, aside: Aside) {
        self.act(context, reason, WorkloadChange::Aside(aside));
    }

    fn act(&self, context: &mut Context<'_>, reason: Reason, change: WorkloadChange) {
        let action = WorkloadAction {
            workload: self.name.clone(),
            instance: self.instance,
            reason,
            change,
        };
        context.decision.actions.push(Action::Workload(action));
    }

    fn main_pid(&self) -> Option<u32> {
        self.state.instance().map(|instance| instance.pid)
    }

    /// Returns the circumstances in which an OOM episode is judged now.
    fn circumstances(&self, ebpf: bool) -> Circumstances {
        Circumstances {
            ended: matches!(&self.state, Lifecycle::Ending(ending) if ending.status.is_some()),
            ebpf,
            group: self.spec.limits.memory_oom_group == Some(true),
        }
    }

    /// Returns when a half-open breaker closes, if time alone decides about it.
    fn trial_ends(&self) -> Option<MonoTime> {
        // The trial is the next instance, which the owner starts.
        let running = self.state.running().filter(|_| !self.asking.is_asked())?;
        let decides = self.recovery.is_on_trial() && running.probing.startup_passed;
        decides.then(|| running.instance.since.after(TRIAL))
    }

    /// Handles everything that is due at this moment.
    pub(crate) fn wake(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        self.settle(context);
        self.wake_loops(context);
        self.retry_repair(context);
        self.ask_probes(context);
        self.abort_start_if_due(context);
        self.ask_about_stuck(context);
        self.ask_owner_if_due(context);
        self.end_at_deadline(context);
        let is_due = |at: Option<MonoTime>| at.is_some_and(|at| at <= now);
        match self.state {
            Lifecycle::Stopping(ref stopping) if is_due(stopping.withdrawing) => {
                self.withdrawn(context, false);
            }
            Lifecycle::Stopping(ref mut stopping) if is_due(stopping.kill_at) => {
                stopping.kill_at = None;
                let reason = stopping.reason;
                self.kill_tree(context, reason);
            }
            Lifecycle::BackingOff { until, cause, seq } if until <= now => {
                self.start_again(context, Reason { cause, seq });
            }
            Lifecycle::BreakerOpen { until, cause, seq } if until <= now => {
                let cooldown = self.recovery.half_open();
                let change = BreakerChange {
                    state: BreakerState::HalfOpen,
                    cooldown,
                };
                let seq = self.report(context, Some(cause), Some(seq), Detail::Breaker(change));
                self.start_again(context, Reason { cause, seq });
            }
            Lifecycle::Running(_) if is_due(self.trial_ends()) => self.pass_trial(context),
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
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

    /// Returns the time at which this workload next acts by itself.
    pub(crate) fn deadline(&self, ebpf: bool) -> Option<MonoTime> {
        let gate = self.gate_deadline();
        let due = match self.state {
            Lifecycle::Starting { abort_at, .. } => {
                return [abort_at, gate, self.lease_ends()]
                    .into_iter()
                    .flatten()
                    .min();
            }
            Lifecycle::Stopping(ref stopping) => {
                let next = stopping.withdrawing.or(stopping.kill_at);
                [next, stopping.report_stuck_at].into_iter().flatten().min()
            }
            Lifecycle::BackingOff { until, .. } | Lifecycle::BreakerOpen { until, .. } => {
                Some(until)
            }
            Lifecycle::Running(ref running) => {
                let probes = running.probing.deadline();
                [self.trial_ends(), probes].into_iter().flatten().min()
            }
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => None,
        };
        let settle = self.ledger.deadline(self.circumstances(ebpf));
        let loops = self.loops().and_then(Loops::deadline);
        let repair = self.repairs.deadline();
        let asking = self.asking.deadline();
        let all = [due, settle, loops, repair, gate, asking, self.lease_ends()];
        all.into_iter().flatten().min()
    }
}
