//! The states of a workload, as the next agent reads them.

use crate::units::MonoTime;
use enforcer_model::ids::{Cause, ExitStatus, Reason, Seq};
use serde::{Deserialize, Serialize};

/// The decision that follows the end of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum After {
    /// The instance ended by itself: the restart policy decides.
    Policy,
    Stop,
    Restart(Cause),
    /// A remedy ended it: it costs what a failure costs.
    Recover(Cause),
    /// The workload is removed.
    Remove,
}

/// A request that came while a start was under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Then {
    pub(crate) after: After,
    pub(crate) cause: Cause,
    pub(crate) kill: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) enum KeptLifecycle {
    Pending,
    /// A start is due, and waits for its turn and for what it needs.
    Queued {
        reason: Reason,
        /// The start waits for its turn alone, not for what the workload needs.
        at_once: bool,
    },
    /// `then` holds what was asked for meanwhile. First comes the remedy, where there
    /// is one. A start that was asked to stop is given up at `abort_at`.
    Starting {
        then: Option<Then>,
        remedying: Option<Reason>,
        #[serde(default)]
        abort_at: Option<MonoTime>,
    },
    Running {
        pid: u32,
        since: MonoTime,
    },
    /// The stop signal was sent; at `kill_at` the tree is killed. Before that it may
    /// wait for its hook, at most until `withdrawing`.
    Stopping {
        pid: u32,
        since: MonoTime,
        after: After,
        reason: Reason,
        withdrawing: Option<MonoTime>,
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
