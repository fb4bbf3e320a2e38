//! Commands of the manifest that stand beside a workload: what comes before a start, and
//! who is told that it may be used.

use crate::spec::Strategy;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is done before a start that follows a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    pub strategy: Strategy,
    /// Environment of the strategy's command: what has failed.
    pub failure: Vec<(String, String)>,
}

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

/// How long a hook may run.
pub const HOOK_LIMIT: Duration = Duration::from_secs(10);
/// How long the command of a recovery may run, or one that makes room on a disk.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);
