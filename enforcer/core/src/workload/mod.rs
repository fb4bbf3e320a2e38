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

mod checkpoint;
mod climbing;
mod configuring;
mod drifting;
mod ending;
mod event;
mod lifecycle;
mod looping;
mod probing;
mod readying;
mod starting;
mod stopping;
mod taking_over;
mod view;
mod wellbeing;
mod yielding;

pub use checkpoint::Checkpoint;
pub(crate) use event::limits_change;
pub use probing::{ProbeView, answer_in_words};
pub(crate) use view::Progress;
pub use view::{LastExit, View};

use crate::drift::Repairs;
use crate::event::{
    Action, Aside, BreakerChange, BreakerState, Cause, Decision, Degraded, Detail, InstanceId,
    Moment, Reason, Remedy, Seq, Step, Transition, WorkloadAction, WorkloadChange,
};
use crate::health::Health;
use crate::name::WorkloadName;
use crate::oom::{Ancestors, Circumstances, Ledger};
use crate::recovery::{RecoveryState, TRIAL};
use crate::spec::WorkloadSpec;
use crate::units::{Bytes, MonoTime};
use lifecycle::{After, Lifecycle, Then};
use looping::Loops;
use probing::Probing;
use readying::Ready;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use wellbeing::Levels;

/// What all workloads share while one of them decides.
pub(crate) struct Context<'a> {
    pub(crate) moment: Moment,
    pub(crate) ebpf: bool,
    /// When the first manifest came.
    pub(crate) agent_began: MonoTime,
    pub(crate) ancestors: &'a mut Ancestors,
    pub(crate) next_seq: &'a mut u64,
    pub(crate) next_instance: &'a mut u64,
    pub(crate) decision: &'a mut Decision,
}

/// An incident that may explain the exit that follows it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
struct FatalOom {
    seq: Seq,
    /// Whether the main process was among its victims for sure.
    certain: bool,
    told: MonoTime,
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
    fatal_oom: Option<FatalOom>,
    /// The last write of limits failed; the kernel still has older ones.
    limits_refused: bool,
    /// Why limits are being written, for each write that is not answered yet, and what was
    /// told to be not as it was left.
    writes_under_way: VecDeque<(Cause, Vec<String>)>,
    repairs: Repairs,
    loops: Loops,
    probing: Probing,
    ready: Ready,
    levels: Levels,
    health: Health,
    health_why: String,
    /// The record that told it.
    health_seq: Seq,
    memory_bytes: Bytes,
    /// What the next automatic start begins with.
    remedy: Box<Remedy>,
    /// It was stopped for the host's sake, and comes back.
    sacrificed: bool,
    /// Why it came to rest last.
    stopped_for: Cause,
    /// It would have had to step back for the host's sake, were it not observed only.
    spared_by_mode: bool,
    /// Askings so far, of all probes of all instances.
    probe_runs: u64,
    /// The record of the instance's start.
    start_seq: Seq,
    restarts: u64,
    oom_kills: u64,
    last_exit: Option<LastExit>,
    /// The time of the next report of processes that SIGKILL has not ended.
    report_stuck_at: Option<MonoTime>,
    /// Processes of it were still there long after SIGKILL: the kernel cannot end them.
    stuck: bool,
    /// As it was last kept.
    checkpoint: Option<Checkpoint>,
}

/// How long killed processes may take to be gone before they are reported, and how long until
/// they are reported again.
const STUCK_AFTER: Duration = Duration::from_secs(10);
const STUCK_AGAIN: Duration = Duration::from_secs(60);

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
            limits_refused: false,
            writes_under_way: VecDeque::new(),
            repairs: Repairs::default(),
            loops: Loops::default(),
            probing: Probing::default(),
            ready: Ready::default(),
            levels: Levels::default(),
            health: Health::default(),
            health_why: String::new(),
            health_seq: Seq(0),
            memory_bytes: Bytes(0),
            remedy: Box::default(),
            sacrificed: false,
            stopped_for: Cause::Agent,
            spared_by_mode: false,
            probe_runs: 0,
            start_seq: Seq(0),
            restarts: 0,
            oom_kills: 0,
            last_exit: None,
            report_stuck_at: None,
            stuck: false,
            checkpoint: None,
        }
    }

    /// It is to be forgotten, and shown no more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.state, Lifecycle::Gone)
    }

    /// Another one of its name begins, though the last word about this one is still on
    /// its way: no hook overtakes another.
    pub(crate) fn succeed(&mut self, gone: &Self) {
        self.ready = gone.ready.clone();
        self.probe_runs = gone.probe_runs;
    }

    /// Nothing of it runs, and nothing is about to.
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

    /// Nothing of it is left to wait for when the agent goes. What the kernel cannot end is not
    /// waited for.
    pub(crate) fn is_done(&self) -> bool {
        (self.is_at_rest() || self.stuck) && !self.ready.is_busy()
    }

    /// Kills the whole cgroup, and reports what is still there after a while.
    fn kill_tree(&mut self, context: &mut Context<'_>, reason: Reason) {
        self.step(context, reason, Step::KillTree);
        self.report_stuck_at = Some(context.moment.now.after(STUCK_AFTER));
    }

    fn ask_about_stuck(&mut self, context: &mut Context<'_>) {
        let Lifecycle::Stopping { reason, .. } = self.state else {
            return;
        };
        let now = context.moment.now;
        if self.report_stuck_at.is_some_and(|at| at <= now) {
            self.report_stuck_at = Some(now.after(STUCK_AGAIN));
            self.aside(context, reason, Aside::ReportStuck);
        }
    }

    /// Processes are still there although they were killed.
    fn stays(&mut self, context: &mut Context<'_>, processes: &str) {
        let ends = matches!(
            self.state,
            Lifecycle::Stopping { .. } | Lifecycle::Ending { .. }
        );
        if !ends {
            return;
        }
        self.stuck = true;
        self.reason = format!("still there after SIGKILL: {processes}");
        let detail = Detail::Degraded(Degraded {
            what: "stop".to_owned(),
            why: self.reason.clone(),
        });
        self.tell(context, None, None, detail);
    }

    /// After every event: what follows from where it stands now.
    pub(crate) fn refresh(&mut self, context: &mut Context<'_>) {
        self.refresh_health(context);
        self.refresh_ready(context);
    }

    fn enter(&mut self, context: &Context<'_>, state: Lifecycle, reason: impl Into<String>) {
        self.report_stuck_at = None;
        // The main process may be gone while others stay.
        self.stuck &= matches!(state, Lifecycle::Ending { .. });
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
        match self.state {
            Lifecycle::Running { pid, .. }
            | Lifecycle::Stopping { pid, .. }
            | Lifecycle::Ending { pid, .. } => Some(pid),
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Starting { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => None,
        }
    }

    /// How an OOM episode of this workload is to be judged now.
    fn circumstances(&self, ebpf: bool) -> Circumstances {
        Circumstances {
            ended: matches!(
                self.state,
                Lifecycle::Ending {
                    status: Some(_),
                    ..
                }
            ),
            ebpf,
            group: self.spec.limits.memory_oom_group == Some(true),
        }
    }

    /// Whether time alone decides about a half-open breaker.
    fn is_on_trial(&self) -> bool {
        self.recovery.is_on_trial() && self.probing.startup_passed
    }

    /// Does what is due at this moment.
    pub(crate) fn wake(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        self.settle(context);
        self.wake_loops(context);
        self.retry_repair(context);
        self.ask_probes(context);
        self.abort_start_if_due(context);
        self.ask_about_stuck(context);
        match self.state {
            Lifecycle::Stopping {
                withdrawing: Some(until),
                ..
            } if until <= now => self.withdrawn(context),
            Lifecycle::Stopping {
                ref mut kill_at,
                reason,
                ..
            } if kill_at.is_some_and(|at| at <= now) => {
                *kill_at = None;
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
                let seq = self.tell(context, Some(cause), Some(seq), Detail::Breaker(change));
                self.start_again(context, Reason { cause, seq });
            }
            Lifecycle::Running { since, .. } if self.is_on_trial() && now.since(since) >= TRIAL => {
                self.pass_trial(context);
            }
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

    /// When this workload next has something to do without being told.
    pub(crate) fn deadline(&self, ebpf: bool) -> Option<MonoTime> {
        let due = match self.state {
            Lifecycle::Starting { abort_at, .. } => return abort_at,
            Lifecycle::Stopping {
                withdrawing,
                kill_at,
                ..
            } => withdrawing.or(kill_at),
            Lifecycle::BackingOff { until, .. } | Lifecycle::BreakerOpen { until, .. } => {
                Some(until)
            }
            Lifecycle::Running { since, .. } if self.is_on_trial() => Some(since.after(TRIAL)),
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Running { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => None,
        };
        let settle = self.ledger.deadline(self.circumstances(ebpf));
        let loops = self.loops.deadline();
        let probes = self.probing.deadline();
        let repair = self.repairs.deadline();
        [due, settle, loops, probes, repair, self.report_stuck_at]
            .into_iter()
            .flatten()
            .min()
    }
}
