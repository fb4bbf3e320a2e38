//! The states of a workload, by the names that the API, the metrics and the manifest share.

use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadState {
    /// A start is wanted and waits: for its turn, for what the workload needs, or for its cgroup.
    Pending,
    Starting,
    Running,
    /// The stop signal was sent, or the rest of the instance is being killed.
    Stopping,
    /// The next restart waits for its time.
    BackingOff,
    /// The budget of restarts is used up, and a trial waits for its time.
    BreakerOpen,
    Stopped,
    /// The policy allows no further restart.
    Failed,
}

impl WorkloadState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::BackingOff,
        Self::BreakerOpen,
        Self::Stopped,
        Self::Failed,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::BackingOff => "backing_off",
            Self::BreakerOpen => "breaker_open",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for WorkloadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_serialized_by_its_name() {
        for state in WorkloadState::ALL {
            let text = serde_json::to_string(&state).expect("JSON");
            assert_eq!(text, format!("\"{state}\""));
            let again: WorkloadState = serde_json::from_str(&text).expect("a state");
            assert_eq!(again, state);
        }
    }
}
