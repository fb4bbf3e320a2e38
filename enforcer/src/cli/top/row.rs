//! One row of `top`, and the order of the rows.

use crate::sentence;
use enforcer_core::WorkloadState;
use enforcer_core::health::Health;
use enforcer_model::claims::Throttling;
use enforcer_model::views::{Waiting, WorkloadView};
use std::cmp::Ordering;

/// A workload as `top` shows it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: WorkloadState,
    pub(super) health: Health,
    pub(super) ready: bool,
    pub(super) throttle: Throttling,
    /// The CPU time in percent of what the workload may use.
    pub(super) cpu_share: f64,
    /// The CPU time in percent of one CPU.
    pub(super) cpu_percent: f64,
    /// The percentage of periods in which the workload was throttled.
    pub(super) throttled_percent: f64,
    pub(super) memory: u64,
    pub(super) memory_max: Option<u64>,
    pub(super) swap: u64,
    pub(super) swap_max: Option<u64>,
    /// Shares of the last 10 s in which some of it waited: CPU, memory, I/O.
    pub(super) waited: [Option<f64>; 3],
    pub(super) pids: Option<u64>,
    pub(super) restarts: u64,
    pub(super) oom_kills: u64,
    pub(super) reason: String,
}

impl Row {
    /// `cpus` is the number of the host's CPUs.
    pub(super) fn of(workload: &WorkloadView, cpus: f64) -> Self {
        let more = workload.more.unwrap_or_default();
        let allowed = more.cpu_max_percent.unwrap_or(cpus * 100.0).max(0.1);
        let Waiting { cpu, memory, io } = more.waiting_percent;
        Self {
            name: workload.name.to_string(),
            state: workload.state,
            health: workload.health,
            ready: workload.ready,
            throttle: workload.throttle,
            cpu_share: workload.cpu_percent / allowed * 100.0,
            cpu_percent: workload.cpu_percent,
            throttled_percent: workload.cpu_throttled_percent,
            memory: workload.memory_bytes,
            memory_max: workload.memory_max_bytes,
            swap: workload.swap_bytes,
            swap_max: workload.swap_max_bytes,
            waited: [cpu, memory, io],
            pids: more.pids,
            restarts: workload.restarts,
            oom_kills: workload.oom_kills,
            reason: sentence::plain(&workload.reason),
        }
    }

    /// Returns the used share of the memory limit, from 0 to 1; `None` without a limit.
    pub(super) fn memory_share(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss)]
        let share = |max: u64| self.memory as f64 / max.max(1) as f64;
        self.memory_max.map(share)
    }

    fn is_in_trouble(&self) -> bool {
        let is_well = matches!(
            self.state,
            WorkloadState::Running | WorkloadState::Starting | WorkloadState::Stopped
        );
        !is_well || self.health == Health::Unhealthy
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Cpu,
    Memory,
    Restarts,
    /// Workloads in trouble come first.
    State,
}

impl Order {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Cpu => "CPU",
            Self::Memory => "memory",
            Self::Restarts => "restarts",
            Self::State => "state",
        }
    }

    pub(super) fn compare(self, one: &Row, other: &Row) -> Ordering {
        let most_first = |of: fn(&Row) -> f64| of(other).total_cmp(&of(one));
        let order = match self {
            Self::Name => Ordering::Equal,
            Self::Cpu => most_first(|row| row.cpu_share),
            Self::Memory => other.memory.cmp(&one.memory),
            Self::Restarts => other.restarts.cmp(&one.restarts),
            Self::State => {
                let rank = |row: &Row| (!row.is_in_trouble(), row.state.as_str());
                rank(one).cmp(&rank(other))
            }
        };
        order.then_with(|| one.name.cmp(&other.name))
    }
}
