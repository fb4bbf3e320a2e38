//! One workload of `top`, and in what order they come.

use super::super::sentence;
use serde_json::Value;
use std::cmp::Ordering;

/// One workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) health: String,
    pub(super) ready: bool,
    pub(super) throttle: String,
    /// Of what it may use.
    pub(super) cpu_share: f64,
    /// Of one CPU.
    pub(super) cpu_percent: f64,
    /// Of its periods.
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
    pub(super) fn of(workload: &Value, cpus: f64) -> Self {
        let text = |key: &str| sentence::plain(workload[key].as_str().unwrap_or("-"));
        let number = |key: &str| workload[key].as_u64().unwrap_or(0);
        let percent = |key: &str| workload[key].as_f64().unwrap_or(0.0);
        let allowed = workload["cpu_max_percent"].as_f64();
        let allowed = allowed.unwrap_or(cpus * 100.0).max(0.1);
        Self {
            name: text("name"),
            state: text("state"),
            health: text("health"),
            ready: workload["ready"] == true,
            throttle: text("throttle"),
            cpu_share: percent("cpu_percent") / allowed * 100.0,
            cpu_percent: percent("cpu_percent"),
            throttled_percent: percent("cpu_throttled_percent"),
            memory: number("memory_bytes"),
            memory_max: workload["memory_max_bytes"].as_u64(),
            swap: number("swap_bytes"),
            swap_max: workload["swap_max_bytes"].as_u64(),
            waited: ["cpu", "memory", "io"].map(|of| workload["waiting_percent"][of].as_f64()),
            pids: workload["pids"].as_u64(),
            restarts: number("restarts"),
            oom_kills: number("oom_kills"),
            reason: text("reason"),
        }
    }

    /// Of its limit, from 0 to 1; `None` without one.
    pub(super) fn memory_share(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss)]
        let share = |max: u64| self.memory as f64 / max.max(1) as f64;
        self.memory_max.map(share)
    }

    fn is_in_trouble(&self) -> bool {
        !matches!(self.state.as_str(), "running" | "starting" | "stopped")
            || self.health == "unhealthy"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Cpu,
    Memory,
    Restarts,
    /// What is in trouble first.
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
                let rank = |row: &Row| (!row.is_in_trouble(), row.state.clone());
                rank(one).cmp(&rank(other))
            }
        };
        order.then_with(|| one.name.cmp(&other.name))
    }
}
