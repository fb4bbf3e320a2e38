//! The commands of the manifest that run beside a workload: before a start, and when it becomes
//! ready or unready.

use std::time::Duration;

/// A command that announces whether a workload may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    OnReady,
    OnUnready,
}

impl Hook {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnReady => "on_ready",
            Self::OnUnready => "on_unready",
        }
    }
}

/// The most time that a hook may run.
pub const HOOK_LIMIT: Duration = Duration::from_secs(10);
/// The most time that the command of a recovery, or of `watch.disk`, may run.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);
