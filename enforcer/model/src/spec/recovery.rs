//! The `recovery` section of a manifest: what follows a failure.

pub use crate::strategy::StrategyName;

use crate::ids::Cause;
use crate::settings::Setting;
use crate::shapes;
use crate::units::Percent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnFailure => "on-failure",
            Self::Never => "never",
        }
    }
}

/// The answer to a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Recovery {
    /// The ends after which the workload is started again.
    #[schemars(with = "shapes::Restart")]
    pub restart: RestartPolicy,
    /// The work between the old instance and the new one, also as a list by attempt, or by cause.
    #[schemars(rename = "strategy", with = "shapes::Strategies")]
    pub strategies: Strategies,
    /// The folders that `reset` empties; the folders themselves stay.
    #[schemars(with = "shapes::AbsolutePaths")]
    pub reset_paths: Vec<String>,
    /// The wait before a restart, or `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Backoff>")]
    pub backoff: Option<Backoff>,
    /// The number of restarts after which the breaker opens, or `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Budget>")]
    pub budget: Option<Budget>,
    /// The time without restarts after the budget is used, or `off`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Breaker>")]
    pub breaker: Option<Breaker>,
}

/// The work between the old instance and the new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Setting)]
#[serde(rename_all = "snake_case")]
#[setting(inherit)]
pub enum Strategy {
    /// The workload is only restarted.
    #[default]
    Restart,
    /// The reset paths are emptied.
    Reset,
    /// A new cgroup and a new log.
    Recreate,
    /// A command, as the workload's user.
    Run(Vec<String>),
}

impl Strategy {
    #[must_use]
    pub const fn name(&self) -> StrategyName {
        match self {
            Self::Restart => StrategyName::Restart,
            Self::Reset => StrategyName::Reset,
            Self::Recreate => StrategyName::Recreate,
            Self::Run(_) => StrategyName::Run,
        }
    }
}

/// Strategies by cause and attempt. The n-th attempt takes the n-th of its list;
/// the last one stands for all that come after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Setting)]
#[setting(inherit)]
pub struct Strategies {
    /// The strategies for every cause without a list of its own. An empty list means `restart`.
    #[setting(key = "")]
    pub default: Vec<Strategy>,
    #[setting(key = "")]
    pub by_cause: BTreeMap<Cause, Vec<Strategy>>,
}

impl Strategies {
    /// Returns the commands of the strategies that run one.
    pub(super) fn commands(&self) -> impl Iterator<Item = &Vec<String>> + Clone {
        let all = self.default.iter().chain(self.by_cause.values().flatten());
        all.filter_map(|strategy| {
            let Strategy::Run(command) = strategy else {
                return None;
            };
            Some(command)
        })
    }

    /// Returns the strategy of this attempt, counted from 1.
    #[must_use]
    pub fn choose(&self, cause: Cause, attempt: u32) -> Strategy {
        let list = self.by_cause.get(&cause).unwrap_or(&self.default);
        let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let chosen = list.get(index).or(list.last());
        chosen.cloned().unwrap_or_default()
    }

    /// Returns every strategy that may be chosen.
    pub fn all(&self) -> impl Iterator<Item = &Strategy> {
        self.default.iter().chain(self.by_cause.values().flatten())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Backoff {
    /// The first wait.
    #[schemars(with = "shapes::Time")]
    pub initial: Duration,
    /// The factor between one wait and the next.
    #[schemars(with = "shapes::Factor")]
    pub factor: f64,
    /// The longest wait.
    #[schemars(with = "shapes::Time")]
    pub max: Duration,
    /// The random part of a wait.
    #[schemars(with = "shapes::Share")]
    pub jitter: Percent,
    /// The time without a failure after which the waits begin anew.
    #[schemars(with = "shapes::Time")]
    pub reset_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Budget {
    /// The number of restarts.
    #[schemars(with = "shapes::Whole<1, 1000>")]
    pub restarts: u32,
    /// The time in which they count.
    #[schemars(with = "shapes::Time")]
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Breaker {
    /// The first time without restarts. It doubles with each failed trial.
    #[schemars(with = "shapes::Time")]
    pub cooldown: Duration,
    /// The longest time without restarts.
    #[schemars(with = "shapes::Time")]
    pub max: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            restart: RestartPolicy::Always,
            strategies: Strategies::default(),
            reset_paths: Vec::new(),
            backoff: Some(Backoff::default()),
            budget: Some(Budget::default()),
            breaker: Some(Breaker::default()),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            jitter: Percent(10),
            reset_after: Duration::from_secs(600),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            restarts: 5,
            within: Duration::from_secs(300),
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            cooldown: Duration::from_secs(60),
            max: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_and_attempt_choose_the_strategy() {
        let strategies = Strategies {
            default: vec![Strategy::Restart, Strategy::Reset],
            by_cause: BTreeMap::from([(Cause::OomKill, vec![Strategy::Recreate])]),
        };
        let chosen = |cause, attempt| strategies.choose(cause, attempt).name().as_str();
        assert_eq!(
            [1, 2, 3].map(|attempt| chosen(Cause::Exit, attempt)),
            ["restart", "reset", "reset"]
        );
        assert_eq!(
            [0, 7].map(|attempt| chosen(Cause::OomKill, attempt)),
            ["recreate"; 2]
        );
        let none = Strategies::default();
        assert_eq!(none.choose(Cause::Liveness, 3), Strategy::Restart);
    }
}
