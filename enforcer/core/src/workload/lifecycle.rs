//! The states of a workload, each with what exists only in it.

use super::health::Levels;
use super::loops::Loops;
use super::notice::Words;
use super::probes::Probing;
use crate::checkpoint::{After, FatalOom, Then};
use crate::event::{Cause, ExitStatus, Reason, Seq};
use crate::units::{Bytes, MonoTime};

/// An instance whose main process has begun, and whose end is not reported yet.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) pid: u32,
    /// The time of the start.
    pub(super) since: MonoTime,
    /// The record of the start.
    pub(super) start_seq: Seq,
    /// The incident that killed the main process or all of the instance.
    pub(super) fatal_oom: Option<FatalOom>,
    pub(super) loops: Loops,
}

/// An instance that serves, and what is observed of it.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) instance: Instance,
    pub(super) probing: Probing,
    pub(super) words: Words,
    pub(super) levels: Levels,
    /// The memory in use at the last tick.
    pub(super) memory: Bytes,
}

/// An instance that was asked to end.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) instance: Instance,
    pub(super) after: After,
    pub(super) reason: Reason,
    /// The stop signal waits for a hook, at most until this time.
    pub(super) withdrawing: Option<MonoTime>,
    /// The stop signal waits for the end of connections, at most until `withdrawing`.
    pub(super) draining: bool,
    /// The stop signal waits until it is known where the program hangs, at most until `withdrawing`.
    pub(super) collecting: bool,
    /// The commands of `before_stop` have begun, or are not wanted.
    pub(super) finishing: bool,
    /// The time of the stop.
    pub(super) asked_at: MonoTime,
    /// The time at which the tree is killed.
    pub(super) kill_at: Option<MonoTime>,
    /// The time of the next report of processes that SIGKILL has not ended.
    pub(super) report_stuck_at: Option<MonoTime>,
    /// Processes were still there long after SIGKILL: the kernel cannot end them.
    pub(super) stuck: bool,
}

/// An instance whose main process has ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) instance: Instance,
    pub(super) after: After,
    pub(super) reason: Option<Reason>,
    /// The exit status, when it is known.
    pub(super) status: Option<ExitStatus>,
    /// Processes were still there long after SIGKILL.
    pub(super) stuck: bool,
}

#[derive(Debug)]
pub(super) enum Lifecycle {
    Pending,
    /// A start is due, and waits for its turn and for what the workload needs.
    Queued {
        reason: Reason,
        /// The start waits for its turn alone, not for what the workload needs.
        at_once: bool,
    },
    /// A start is under way, after the remedy if there is one.
    Starting {
        /// The last request that came meanwhile.
        then: Option<Then>,
        remedying: Option<Reason>,
        /// The time at which a start that was asked to stop is given up.
        abort_at: Option<MonoTime>,
    },
    Running(Box<Running>),
    Stopping(Box<Stopping>),
    Ending(Box<Ending>),
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

impl Instance {
    pub(super) fn new(pid: u32, since: MonoTime, start_seq: Seq) -> Self {
        Self {
            pid,
            since,
            start_seq,
            fatal_oom: None,
            loops: Loops::default(),
        }
    }
}

impl Lifecycle {
    pub(super) fn instance(&self) -> Option<&Instance> {
        match self {
            Self::Running(running) => Some(&running.instance),
            Self::Stopping(stopping) => Some(&stopping.instance),
            Self::Ending(ending) => Some(&ending.instance),
            Self::Pending
            | Self::Queued { .. }
            | Self::Starting { .. }
            | Self::BackingOff { .. }
            | Self::BreakerOpen { .. }
            | Self::Stopped
            | Self::Failed
            | Self::Gone => None,
        }
    }

    pub(super) fn instance_mut(&mut self) -> Option<&mut Instance> {
        match self {
            Self::Running(running) => Some(&mut running.instance),
            Self::Stopping(stopping) => Some(&mut stopping.instance),
            Self::Ending(ending) => Some(&mut ending.instance),
            Self::Pending
            | Self::Queued { .. }
            | Self::Starting { .. }
            | Self::BackingOff { .. }
            | Self::BreakerOpen { .. }
            | Self::Stopped
            | Self::Failed
            | Self::Gone => None,
        }
    }

    pub(super) fn running(&self) -> Option<&Running> {
        if let Self::Running(running) = self {
            Some(running)
        } else {
            None
        }
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut Running> {
        if let Self::Running(running) = self {
            Some(running)
        } else {
            None
        }
    }

    /// Returns whether processes of the instance are still there long after SIGKILL.
    pub(super) fn is_stuck(&self) -> bool {
        match self {
            Self::Stopping(stopping) => stopping.stuck,
            Self::Ending(ending) => ending.stuck,
            Self::Pending
            | Self::Queued { .. }
            | Self::Starting { .. }
            | Self::Running(_)
            | Self::BackingOff { .. }
            | Self::BreakerOpen { .. }
            | Self::Stopped
            | Self::Failed
            | Self::Gone => false,
        }
    }
}
