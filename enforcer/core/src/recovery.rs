//! The restart of a failed workload: backoff, budget and breaker.
//!
//! ```text
//!            failure, budget left            failure, budget spent
//!   Closed ──────────────────────→ wait    Closed ──────────────→ Open
//!   Open ──(cooldown over)──→ HalfOpen ──(30 s alive)──→ Closed
//!                                └──(failure)──→ Open, cooldown doubled
//! ```

use crate::moment::Moment;
use crate::spec::{Backoff, Recovery, Strategy};
use crate::units::MonoTime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// The age of an instance at which a half-open trial has passed.
pub const TRIAL: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct RecoveryState {
    /// Restarts since the last long run.
    attempts: u32,
    /// The restarts of the budget's window.
    spent: VecDeque<MonoTime>,
    circuit: Circuit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Circuit {
    #[default]
    Closed,
    Open {
        cooldown: Duration,
    },
    HalfOpen {
        cooldown: Duration,
    },
}

/// The answer to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Restart {
        attempt: u32,
        delay: Duration,
        /// The budget is spent, and without a breaker it is the pace.
        rate_limited: bool,
    },
    Open {
        cooldown: Duration,
    },
}

impl RecoveryState {
    /// Decides about an instance that has failed after `ran`.
    pub(crate) fn after_failure(
        &mut self,
        moment: Moment,
        ran: Duration,
        recovery: &Recovery,
    ) -> Next {
        let now = moment.now;
        if let (Circuit::HalfOpen { cooldown }, Some(breaker)) = (self.circuit, &recovery.breaker) {
            return self.open((cooldown * 2).min(breaker.max));
        }
        let reset_after = recovery.backoff.as_ref().map(|backoff| backoff.reset_after);
        if ran >= reset_after.unwrap_or(Backoff::default().reset_after) {
            self.attempts = 0;
        }
        let mut delay = Duration::ZERO;
        let mut rate_limited = false;
        if let Some(budget) = &recovery.budget {
            self.spent
                .retain(|restart| now.since(*restart) < budget.within);
            if self.spent.len() >= usize::try_from(budget.restarts).unwrap_or(usize::MAX) {
                match (&recovery.breaker, self.spent.front()) {
                    (Some(breaker), _) => return self.open(breaker.cooldown),
                    // Without a breaker, the budget sets the pace.
                    (None, Some(oldest)) => {
                        rate_limited = true;
                        delay = oldest.after(budget.within).since(now);
                    }
                    (None, None) => {}
                }
            }
        }
        self.attempts = self.attempts.saturating_add(1);
        if let Some(backoff) = &recovery.backoff {
            delay = delay.max(wait(backoff, self.attempts, moment.noise));
        }
        self.spent.push_back(now.after(delay));
        Next::Restart {
            attempt: self.attempts,
            delay,
            rate_limited,
        }
    }

    fn open(&mut self, cooldown: Duration) -> Next {
        self.circuit = Circuit::Open { cooldown };
        Next::Open { cooldown }
    }

    /// Begins a trial when the cooldown is over. Returns the cooldown.
    pub(crate) fn half_open(&mut self) -> Duration {
        let cooldown = match self.circuit {
            Circuit::Open { cooldown } | Circuit::HalfOpen { cooldown } => cooldown,
            Circuit::Closed => Duration::ZERO,
        };
        self.circuit = Circuit::HalfOpen { cooldown };
        cooldown
    }

    /// Returns whether the breaker is open or half open.
    pub(crate) fn is_open(&self) -> bool {
        self.circuit != Circuit::Closed
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        matches!(self.circuit, Circuit::HalfOpen { .. })
    }

    /// Closes the breaker after a trial that passed. The budget stays used: a program that comes up
    /// well and fails soon after gets no new one.
    pub(crate) fn close(&mut self) {
        self.circuit = Circuit::Closed;
    }

    /// Resets the recovery at the request of a person.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Returns the part of the budget that was used at the last failure.
    pub(crate) fn used(&self) -> u32 {
        u32::try_from(self.spent.len()).unwrap_or(u32::MAX)
    }

    /// Returns the times of the restarts that count against the budget.
    pub(crate) fn spent(&self) -> impl Iterator<Item = MonoTime> {
        self.spent.iter().copied()
    }
}

/// Returns the wait before a restart: none before the first, then `initial × factor^(n-2)`, at most
/// `max`, spread by the jitter.
fn wait(backoff: &Backoff, attempt: u32, noise: u64) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let exponent = i32::try_from(attempt - 2).unwrap_or(i32::MAX);
    let max = backoff.max.as_secs_f64();
    let seconds = (backoff.initial.as_secs_f64() * backoff.factor.powi(exponent)).min(max);
    let jitter = f64::from(backoff.jitter.0) / 100.0;
    // The upper 32 bits as a number from -1 to 1.
    let high = u32::try_from(noise >> 32).unwrap_or(u32::MAX);
    let spread = f64::from(high) / f64::from(u32::MAX) * 2.0 - 1.0;
    Duration::try_from_secs_f64(seconds * (1.0 + jitter * spread)).unwrap_or(backoff.max)
}

/// The work before a start that follows a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    pub strategy: Strategy,
    /// The environment of the strategy's command, which describes the failure.
    pub failure: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Breaker, Budget};
    use crate::units::Percent;
    use expect_test::{Expect, expect};

    /// Fails each time right after its start, as soon as it was started.
    fn check(recovery: &Recovery, failures: usize, expected: &Expect) {
        let mut state = RecoveryState::default();
        let mut now = MonoTime(0);
        let mut reported = String::new();
        for _ in 0..failures {
            let next = state.after_failure(
                Moment {
                    now,
                    noise: u64::MAX / 2,
                },
                Duration::ZERO,
                recovery,
            );
            let wait = match next {
                Next::Restart { attempt, delay, .. } => {
                    reported.push_str(&format!("attempt {attempt} in {delay:.1?}\n"));
                    delay
                }
                Next::Open { cooldown } => {
                    reported.push_str(&format!("open for {cooldown:.1?}\n"));
                    cooldown
                }
            };
            now = now.after(wait);
            if matches!(next, Next::Open { .. }) {
                state.half_open();
            }
        }
        expected.assert_eq(&reported);
    }

    fn without_jitter() -> Recovery {
        let backoff = Backoff {
            jitter: Percent(0),
            ..Backoff::default()
        };
        Recovery {
            backoff: Some(backoff),
            ..Recovery::default()
        }
    }

    #[test]
    fn the_default_backs_off_and_then_opens_the_breaker() {
        check(
            &without_jitter(),
            8,
            &expect![[r#"
            attempt 1 in 0.0ns
            attempt 2 in 1.0s
            attempt 3 in 2.0s
            attempt 4 in 4.0s
            attempt 5 in 8.0s
            open for 60.0s
            open for 120.0s
            open for 240.0s
        "#]],
        );
    }

    #[test]
    fn waits_are_capped() {
        let recovery = Recovery {
            backoff: Some(Backoff {
                max: Duration::from_secs(3),
                jitter: Percent(0),
                ..Backoff::default()
            }),
            budget: None,
            ..Recovery::default()
        };
        check(
            &recovery,
            5,
            &expect![[r#"
            attempt 1 in 0.0ns
            attempt 2 in 1.0s
            attempt 3 in 2.0s
            attempt 4 in 3.0s
            attempt 5 in 3.0s
        "#]],
        );
    }

    #[test]
    fn without_a_breaker_the_budget_is_the_pace() {
        let recovery = Recovery {
            backoff: None,
            budget: Some(Budget {
                restarts: 2,
                within: Duration::from_secs(10),
            }),
            breaker: None,
            ..Recovery::default()
        };
        check(
            &recovery,
            4,
            &expect![[r#"
            attempt 1 in 0.0ns
            attempt 2 in 0.0ns
            attempt 3 in 10.0s
            attempt 4 in 0.0ns
        "#]],
        );
    }

    #[test]
    fn a_long_run_starts_the_count_again() {
        let mut state = RecoveryState::default();
        let recovery = without_jitter();
        let at = |now| Moment {
            now: MonoTime(now),
            noise: 0,
        };
        for _ in 0..3 {
            let _ = state.after_failure(at(0), Duration::ZERO, &recovery);
        }
        let long = recovery
            .backoff
            .as_ref()
            .map(|backoff| backoff.reset_after)
            .expect("a backoff");
        let next = state.after_failure(at(u64::MAX / 4), long, &recovery);
        assert_eq!(
            next,
            Next::Restart {
                attempt: 1,
                delay: Duration::ZERO,
                rate_limited: false,
            }
        );
    }

    #[test]
    fn jitter_stays_in_its_bounds() {
        let backoff = Backoff::default();
        for (noise, seconds) in [(0, 0.9), (u64::MAX, 1.1)] {
            let wait = wait(&backoff, 2, noise).as_secs_f64();
            assert!((wait - seconds).abs() < 1e-6, "{wait}");
        }
    }

    #[test]
    fn the_cooldown_doubles_to_its_maximum() {
        let recovery = Recovery {
            budget: Some(Budget {
                restarts: 1,
                within: Duration::from_secs(3600),
            }),
            breaker: Some(Breaker {
                cooldown: Duration::from_secs(60),
                max: Duration::from_secs(100),
            }),
            ..without_jitter()
        };
        check(
            &recovery,
            4,
            &expect![[r#"
            attempt 1 in 0.0ns
            open for 60.0s
            open for 100.0s
            open for 100.0s
        "#]],
        );
    }
}
