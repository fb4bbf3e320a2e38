//! A workload as the API shows it, and as others' starts see it.

use super::loops::Loops;
use super::{Lifecycle, ProbeView, Workload};
use crate::claims::Claims;
use crate::event::InstanceId;
use crate::group::Seen;
use crate::health::Health;
use crate::name::ReplicaId;
use crate::spec::WorkloadSpec;
use crate::state::WorkloadState;
use crate::units::MonoTime;
pub use enforcer_model::ids::LastExit;
use std::sync::Arc;

/// A workload as the API shows it.
#[derive(Clone, Debug)]
pub struct View {
    pub name: ReplicaId,
    /// The present instance is an attached service, or the edges look for one.
    pub is_attached: bool,
    pub spec: Arc<WorkloadSpec>,
    pub managed: bool,
    pub state: WorkloadState,
    pub health: Health,
    pub ready: bool,
    pub probes: Vec<ProbeView>,
    pub instance: InstanceId,
    pub pid: Option<u32>,
    pub restarts: u64,
    pub oom_kills: u64,
    pub last_exit: Option<LastExit>,
    /// The time at which the state was entered.
    pub since: MonoTime,
    /// The time of the next start.
    pub next_start: Option<MonoTime>,
    /// The reason for the state, in one line.
    pub reason: String,
    /// Restarts of the budget's window, those included that are waited for.
    pub spent: Vec<MonoTime>,
    /// The workload was stopped because the host was short of memory, and comes back.
    pub comes_back: bool,
    /// The deadline of a leased workload.
    pub deadline: Option<MonoTime>,
    pub claims: Claims,
    /// Is true while limits are on their way to the kernel.
    pub writing: bool,
    /// The reason for which the kernel refused the last limits.
    pub limits_refused: Option<String>,
    /// Processes of it are still there long after SIGKILL.
    pub stuck: bool,
    /// The text by which the program describes its state.
    pub status_text: Option<String>,
    /// The last reload, with its error.
    pub reloaded: Option<(MonoTime, Option<String>)>,
}

/// The progress of a workload, on which the starts of others depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    runs: bool,
    ready: bool,
    completed: bool,
    pub(crate) coming_up: bool,
}

impl View {
    /// Returns the number of restarts of the budget that are used now; 0 without a budget.
    #[must_use]
    pub fn budget_used(&self, now: MonoTime) -> u32 {
        let Some(budget) = &self.spec.recovery.budget else {
            return 0;
        };
        let spent = self.spent.iter();
        let spent = spent.filter(|restart| now.since(**restart) < budget.within);
        // Without a breaker, the next restart waits until the budget has room.
        let used = u32::try_from(spent.count()).unwrap_or(u32::MAX);
        used.min(budget.restarts)
    }
}

impl Workload {
    /// Returns what a group of replicas needs to know.
    pub(crate) fn seen(&self) -> Seen {
        let failed = matches!(
            self.state,
            Lifecycle::Failed | Lifecycle::BreakerOpen { .. }
        );
        Seen {
            ready: self.ready.now,
            rests: self.comes_to_rest() && !failed && !matches!(self.state, Lifecycle::Pending),
            is_broken: failed,
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            runs: self.runs(),
            ready: self.ready.now,
            completed: self.has_completed(),
            coming_up: self.is_coming_up(),
        }
    }

    /// Returns the state that the API shows.
    pub(crate) fn public_state(&self) -> WorkloadState {
        self.standing().0
    }

    /// Returns whether the breaker is open or half open.
    pub(crate) fn is_broken(&self) -> bool {
        self.recovery.is_open()
            && !matches!(
                self.state,
                Lifecycle::Stopped | Lifecycle::Failed | Lifecycle::Gone
            )
    }

    /// Returns the state, the main process, and when the next start is due.
    fn standing(&self) -> (WorkloadState, Option<u32>, Option<MonoTime>) {
        match &self.state {
            Lifecycle::Pending | Lifecycle::Queued { .. } => (WorkloadState::Pending, None, None),
            Lifecycle::Starting { .. } => (WorkloadState::Starting, None, None),
            Lifecycle::Running(running) => {
                (WorkloadState::Running, Some(running.instance.pid), None)
            }
            Lifecycle::Stopping(stopping) => {
                (WorkloadState::Stopping, Some(stopping.instance.pid), None)
            }
            Lifecycle::Ending(_) => (WorkloadState::Stopping, None, None),
            Lifecycle::BackingOff { until, .. } => (WorkloadState::BackingOff, None, Some(*until)),
            Lifecycle::BreakerOpen { until, .. } => {
                (WorkloadState::BreakerOpen, None, Some(*until))
            }
            Lifecycle::Stopped | Lifecycle::Gone => (WorkloadState::Stopped, None, None),
            Lifecycle::Failed => (WorkloadState::Failed, None, None),
        }
    }

    pub(crate) fn view(&self) -> View {
        let (state, pid, next_start) = self.standing();
        let rests = self.state.instance().is_none();
        View {
            name: self.name.clone(),
            is_attached: self.is_attached() || (rests && self.spec.attach.is_some()),
            spec: Arc::clone(&self.spec),
            managed: self.managed,
            state,
            health: self.health,
            ready: self.ready.now,
            probes: self.probe_views(),
            instance: self.instance,
            pid,
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            last_exit: self.last_exit,
            since: self.since,
            next_start,
            reason: self.describe(),
            spent: self.recovery.spent().collect(),
            comes_back: self.sacrificed && self.is_at_rest(),
            deadline: self.lease.until(),
            claims: self.claims(),
            writing: !self.writes_under_way.is_empty(),
            limits_refused: self.limits_refused.clone(),
            stuck: self.state.is_stuck(),
            status_text: self.status_text().map(str::to_owned),
            reloaded: self.reloads.last.clone(),
        }
    }

    /// Returns the reason for the state, in one line.
    fn describe(&self) -> String {
        let off = matches!(self.health, Health::Degraded | Health::Unhealthy);
        match self.loops().and_then(Loops::describe) {
            Some(looping) => looping,
            None if off && self.runs() => self.health_why.clone(),
            None => match self.status_text() {
                Some(status) => format!("{}: {status}", self.reason),
                None => self.reason.clone(),
            },
        }
    }
}
