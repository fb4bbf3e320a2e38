//! Where a workload stands, with all that belongs to it there.

use crate::event::{Cause, ExitStatus, Reason, Seq};
use crate::units::MonoTime;
use serde::{Deserialize, Serialize};

/// What comes after an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum After {
    /// It went by itself: the restart policy decides.
    Policy,
    Stop,
    Restart(Cause),
    /// A remedy ended it: it costs what a failure costs.
    Recover(Cause),
    /// It is to be forgotten altogether.
    Remove,
}

/// What was asked for while a start was under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Then {
    pub(super) after: After,
    pub(super) cause: Cause,
    pub(super) kill: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) enum Lifecycle {
    Pending,
    /// A start is due, and waits for its turn and for what it needs.
    Queued {
        reason: Reason,
        /// It waits for its turn alone, not for what it needs.
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
