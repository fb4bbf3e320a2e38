//! The gate in front of a workload's ports: a new connection reaches the program only while the
//! workload is ready. Otherwise it waits, and is refused after `unready_wait`. Before a planned
//! stop the gate is closed and what is under way comes to its end.

use super::{Context, Lifecycle, Workload};
use crate::checkpoint::After;
use crate::event::{Aside, Cause, Detail, Door, Drained, Reason, Seq};
use crate::units::MonoTime;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gate {
    /// The last decision of this agent.
    told: Option<Door>,
    /// The time since which the workload is not ready.
    unready_since: Option<MonoTime>,
}

impl Gate {
    pub(super) fn is_open(self) -> bool {
        self.told == Some(Door::Open)
    }
}

impl Workload {
    /// Returns whether no instance runs, or none will once the present one has ended.
    pub(super) fn comes_to_rest(&self) -> bool {
        let ends = |after: After| match after {
            After::Stop | After::Remove => true,
            After::Policy | After::Restart(_) | After::Recover(_) => false,
        };
        match &self.state {
            Lifecycle::Stopping(stopping) => ends(stopping.after),
            Lifecycle::Ending(ending) => ends(ending.after),
            Lifecycle::Starting { then, .. } => then.is_some_and(|then| ends(then.after)),
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Running(_)
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => self.is_at_rest(),
        }
    }

    /// Returns whether connections are under way that end before a stop.
    fn drains(&self) -> bool {
        matches!(&self.state, Lifecycle::Stopping(stopping) if stopping.draining)
    }

    /// Opens or closes the gate, if that has changed.
    pub(super) fn refresh_gate(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        // The running instance may still have the ports that its manifest had.
        let has_none = !self.spec.has_gate();
        let rests = self.comes_to_rest() || has_none;
        // The wait begins when what is under way has ended.
        self.gate.unready_since = match self.ready.now || rests || self.drains() {
            true => None,
            false => self.gate.unready_since.or(Some(now)),
        };
        let door = match self.end_of_wait() {
            _ if self.ready.now && !has_none => Door::Open,
            _ if rests || self.spec.unready_wait.is_none() => Door::Refuse,
            Some(until) if now >= until => Door::Refuse,
            Some(_) | None => Door::Wait,
        };
        // A workload that has not run yet, or without ports, has no gate.
        let is_new = self.gate.told.is_none() && (has_none || self.is_at_rest());
        if self.gate.told == Some(door) || is_new {
            return;
        }
        self.gate.told = (!has_none).then_some(door);
        let reason = Reason {
            cause: Cause::Agent,
            // Before the first change of readiness, the last record is the reason.
            seq: match self.ready.seq() {
                Seq(0) => Seq(*context.next_seq),
                seq => seq,
            },
        };
        self.aside(context, reason, Aside::SetDoor { door });
    }

    /// Returns the time at which waiting connections are refused.
    fn end_of_wait(&self) -> Option<MonoTime> {
        let since = self.gate.unready_since?;
        Some(since.after(self.spec.unready_wait?))
    }

    /// Returns the time at which the gate changes by itself.
    pub(super) fn gate_deadline(&self) -> Option<MonoTime> {
        let waits = self.gate.told == Some(Door::Wait);
        self.end_of_wait().filter(|_| waits)
    }

    /// Begins to wait for the end of the connections. Returns when that wait ends.
    pub(super) fn drain(&self, context: &mut Context<'_>, reason: Reason) -> MonoTime {
        let limit = self.spec.rollout.drain;
        self.aside(context, reason, Aside::Drain { limit });
        // Room for the answer.
        context
            .moment
            .now
            .after(limit)
            .after(super::readiness::ANSWER)
    }

    /// Goes on with a drain that an earlier agent has begun. Returns false if there is no time left
    /// for it.
    pub(super) fn resume_drain(&mut self, context: &mut Context<'_>) -> bool {
        let now = context.moment.now;
        let has_ports = self.spec.has_gate();
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return false;
        };
        let drains = !matches!(stopping.after, After::Recover(_));
        let left = stopping.withdrawing.filter(|_| drains);
        let left = left.map(|until| until.since(now));
        let Some(limit) = left.filter(|left| has_ports && !left.is_zero()) else {
            return false;
        };
        stopping.draining = true;
        let reason = stopping.reason;
        self.aside(context, reason, Aside::Drain { limit });
        true
    }

    /// The connections have ended, or the time for that is over.
    pub(super) fn drained(&mut self, context: &mut Context<'_>, drained: Drained) {
        let Lifecycle::Stopping(stopping) = &mut self.state else {
            return;
        };
        if !std::mem::replace(&mut stopping.draining, false) {
            return;
        }
        let reason = stopping.reason;
        self.report(
            context,
            Some(reason.cause),
            Some(reason.seq),
            Detail::Drain(drained),
        );
        if !self.ready.is_busy() {
            self.withdrawn(context, false);
        }
    }
}
