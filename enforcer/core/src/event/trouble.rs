//! The events that a rule of `alerts` can report. An improvement, a request of a person, and an
//! action that `observe` only considered are none.

use super::{BreakerState, Cause, Detail, HostPressure, PressureAnswer, RolloutState, Transition};
use crate::threshold::Level;
use enforcer_model::sentence;

impl Transition {
    /// Returns the trouble in words; `None` if the event is none.
    pub(crate) fn trouble(&self) -> Option<String> {
        let is_trouble = match &self.detail {
            Detail::OomKill(_)
            | Detail::CpuLoop(_)
            | Detail::Hang(_)
            | Detail::Drift(_)
            | Detail::Conflict(_)
            | Detail::Lost(_)
            | Detail::Degraded(_) => true,
            Detail::Pressure(pressure) => pressure.level > Level::Normal,
            Detail::HostPressure(pressure) => is_shortage(pressure),
            Detail::Restart(plan) => plan.carried_out && self.reason.is_some_and(is_automatic),
            Detail::Reload(reloaded) => reloaded.error.is_some(),
            Detail::Rollout(change) => {
                matches!(change.state, RolloutState::Failed | RolloutState::Paused)
            }
            Detail::Breaker(change) => change.state == BreakerState::Open,
            Detail::Start(_)
            | Detail::Adopt(_)
            | Detail::Stop(_)
            | Detail::Exit(_)
            | Detail::Throttle(_)
            | Detail::Release(_)
            | Detail::Health(_)
            | Detail::Ready(_)
            | Detail::Drain(_)
            | Detail::Scale(_)
            | Detail::FileChange(_)
            | Detail::Main(_)
            | Detail::Alert(_)
            | Detail::Config(_)
            | Detail::Agent(_)
            | Detail::Unknown(_) => false,
        };
        is_trouble.then(|| sentence::of(&self.detail, self.reason))
    }
}

/// Returns whether enforcer acts by itself, without a request.
fn is_automatic(cause: Cause) -> bool {
    cause.is_failure() || matches!(cause, Cause::HostPressure | Cause::Drift)
}

/// Returns whether the host is short. A workload that had to step back is trouble at any level:
/// waiting alone may be enough.
fn is_shortage(pressure: &HostPressure) -> bool {
    pressure.carried_out
        && match pressure.done {
            PressureAnswer::Released | PressureAnswer::StartedAgain => false,
            PressureAnswer::Demoted | PressureAnswer::Stopped | PressureAnswer::Failed => true,
            PressureAnswer::Warned | PressureAnswer::Ran => pressure.level > Level::Normal,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Resource;

    #[test]
    fn a_workload_that_steps_back_is_trouble_at_any_level() {
        let check = |done, level, expected| {
            let pressure = HostPressure {
                resource: Resource::Memory,
                level,
                used_percent: Some(91),
                done,
                error: None,
                carried_out: true,
            };
            assert_eq!(is_shortage(&pressure), expected, "{done}");
        };
        check(PressureAnswer::Stopped, Level::Normal, true);
        check(PressureAnswer::Warned, Level::Critical, true);
        check(PressureAnswer::Warned, Level::Normal, false);
        check(PressureAnswer::Released, Level::Critical, false);
        check(PressureAnswer::StartedAgain, Level::Warn, false);
    }
}
