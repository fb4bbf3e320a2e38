//! These commands of the manifest run beside a workload. They run at a start and a stop, for a
//! reload, and after a change of its readiness.

use crate::spec::{Reload, WorkloadSpec};
use std::time::Duration;

/// Commands of a workload that run at a turn of its life. Those before a start are part of the
/// start itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    OnReady,
    OnUnready,
    AfterStart,
    BeforeStop,
    Reload,
}

impl Hook {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnReady => "on_ready",
            Self::OnUnready => "on_unready",
            Self::AfterStart => "after_start",
            Self::BeforeStop => "before_stop",
            Self::Reload => "reload",
        }
    }

    /// Returns the commands, which run one after another.
    #[must_use]
    pub fn commands(self, spec: &WorkloadSpec) -> Vec<Vec<String>> {
        let one = |command: &Option<Vec<String>>| command.iter().cloned().collect();
        match self {
            Self::OnReady => one(&spec.on_ready),
            Self::OnUnready => one(&spec.on_unready),
            Self::AfterStart => spec.after_start.clone(),
            Self::BeforeStop => spec.before_stop.clone(),
            Self::Reload => match &spec.reload {
                Some(Reload { run, .. }) => one(run),
                None => Vec::new(),
            },
        }
    }

    /// Returns the most time that one of the commands may run.
    #[must_use]
    pub const fn limit(self) -> Duration {
        match self {
            Self::OnReady | Self::OnUnready => HOOK_LIMIT,
            Self::AfterStart | Self::BeforeStop | Self::Reload => COMMAND_LIMIT,
        }
    }
}

/// The most time that `on_ready` or `on_unready` may run.
pub const HOOK_LIMIT: Duration = Duration::from_secs(10);
/// The most time that any other command of a workload, or that of `watch.disk`, may run.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);
