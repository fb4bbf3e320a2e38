//! Leases. A leased workload runs only until its deadline. A program of the host, such as the node of a fleet, moves the deadline while no
//! other host runs the workload.

use super::{After, Context, Lifecycle, Workload};
use crate::event::{Cause, Detail, Reason};
use crate::units::MonoTime;
use std::time::Duration;

/// The deadline of a leased workload, and what has been done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lease {
    /// The deadline. It is `None` until a program sets one.
    until: Option<MonoTime>,
    /// The workload has received its stop signal because of this deadline.
    is_stopped: bool,
    /// The workload has been killed because of this deadline.
    is_killed: bool,
}

impl Lease {
    pub(super) fn resume(until: Option<MonoTime>) -> Self {
        Self {
            until,
            ..Self::default()
        }
    }

    pub(super) fn until(self) -> Option<MonoTime> {
        self.until
    }
}

impl Workload {
    /// Returns whether it may run at this moment.
    pub(super) fn has_time(&self, now: MonoTime) -> bool {
        !self.spec.leased || self.lease.until.is_some_and(|until| until > now)
    }

    /// Moves the deadline. One that has stopped for want of time starts.
    pub(super) fn extend(&mut self, context: &mut Context<'_>, until: MonoTime) {
        self.lease = Lease::resume(Some(until));
        if let Lifecycle::Starting { then, abort_at, .. } = &mut self.state
            && then.is_some_and(|then| then.cause == Cause::Deadline)
        {
            (*then, *abort_at) = (None, None);
        }
        let waits = matches!(self.state, Lifecycle::Stopped) && self.stopped_for == Cause::Deadline;
        if waits && self.has_time(context.moment.now) {
            let cause = Cause::Deadline;
            let plan = self.restart_plan(cause, 0, Duration::ZERO, true);
            let seq = self.report(context, Some(cause), None, Detail::Restart(plan));
            self.start_at_once(context, Reason { cause, seq });
        }
        self.end_at_deadline(context);
    }

    /// Stops the workload at its deadline, and kills it a grace later, whatever it was doing meanwhile.
    pub(super) fn end_at_deadline(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        if self.has_time(now) || self.is_at_rest() {
            return;
        }
        let until = self.lease.until.unwrap_or_default();
        let kills = now >= until.after(self.spec.stop.grace);
        if kills && !self.lease.is_killed {
            (self.lease.is_stopped, self.lease.is_killed) = (true, true);
            self.stop(context, After::Stop, Cause::Deadline, true);
        } else if !self.lease.is_stopped {
            self.lease.is_stopped = true;
            self.stop(context, After::Stop, Cause::Deadline, false);
        }
    }

    /// Returns the time at which [`Self::end_at_deadline`] has something to do.
    pub(super) fn lease_ends(&self) -> Option<MonoTime> {
        if !self.spec.leased || self.is_at_rest() {
            return None;
        }
        let until = self.lease.until.unwrap_or_default();
        match self.lease {
            Lease {
                is_stopped: false, ..
            } => Some(until),
            Lease {
                is_killed: false, ..
            } => Some(until.after(self.spec.stop.grace)),
            Lease { .. } => None,
        }
    }
}
