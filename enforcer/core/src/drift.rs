//! The answer to values that another process changes: they are written again a few times a minute,
//! and then it is a conflict, so that two programs do not fight.

use crate::units::MonoTime;
pub use enforcer_model::drift::{Drifted, PLACE};
use std::collections::VecDeque;
use std::time::Duration;

/// The most repairs within [`WITHIN`]; one more would be a fight between two programs.
pub const REPAIRS: usize = 3;
pub const WITHIN: Duration = Duration::from_secs(60);

/// The answer to a drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    Repair,
    /// No repair for this time. The conflict is reported.
    Conflict(Duration),
    /// No repair; the conflict was reported before.
    Wait,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Repairs {
    done: VecDeque<MonoTime>,
    /// Left alone until then.
    conflict: Option<MonoTime>,
}

impl Repairs {
    pub(crate) fn drifted(&mut self, now: MonoTime) -> Response {
        self.done.retain(|done| now.since(*done) < WITHIN);
        if self.conflict.is_some() {
            return Response::Wait;
        }
        if self.done.len() < REPAIRS {
            self.done.push_back(now);
            return Response::Repair;
        }
        let oldest = self.done.front().copied().unwrap_or(now);
        let until = oldest.after(WITHIN);
        self.conflict = Some(until);
        Response::Conflict(until.since(now))
    }

    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        self.conflict
    }

    /// Returns whether a conflict has lasted long enough, so that one more repair is due.
    pub(crate) fn retry(&mut self, now: MonoTime) -> bool {
        let due = self.conflict.is_some_and(|until| until <= now);
        if due {
            self.conflict = None;
            self.done.push_back(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_repairs_a_minute_and_then_a_truce() {
        let at = |seconds: u64| MonoTime(seconds * 1_000_000_000);
        let mut repairs = Repairs::default();
        for second in [0, 1, 2] {
            assert_eq!(repairs.drifted(at(second)), Response::Repair);
        }
        let pause = Duration::from_secs(57);
        assert_eq!(repairs.drifted(at(3)), Response::Conflict(pause));
        assert_eq!(repairs.drifted(at(4)), Response::Wait);
        assert!(!repairs.retry(at(59)));
        assert_eq!(repairs.deadline(), Some(at(60)));
        assert!(repairs.retry(at(60)));
        // The minute slides: two of the last one still count, and the one of just now.
        assert_eq!(
            repairs.drifted(at(60)),
            Response::Conflict(Duration::from_secs(1))
        );
        assert!(repairs.retry(at(200)));
        assert_eq!(repairs.drifted(at(201)), Response::Repair);
    }
}
