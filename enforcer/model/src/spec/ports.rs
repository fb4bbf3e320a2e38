//! Ports behind the gate: the kernel gives their connections to instances that are ready.

use super::Replicas;
use crate::settings::{Setting, words_are_settings};
use crate::shapes;
use crate::words::words;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A TCP port at which the program itself listens, at the addresses that it chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Port {
    /// The number of the port.
    #[schemars(with = "shapes::Port")]
    pub port: u16,
    /// `each` gives each replica a port of its own: this number and the replica's added.
    #[serde(default, skip_serializing_if = "PortOf::is_usual")]
    #[schemars(with = "shapes::PortOf")]
    pub to: PortOf,
    /// The port that the program binds, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Port")]
    pub target: Option<u16>,
    /// `*` has the program listen at every address of the host, whatever it binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::PortAddress")]
    pub address: Option<PortAddress>,
}

words! {
    /// The addresses at which a port is reached.
    pub enum PortAddress {
        Any = "*",
    }
}

words! {
    /// Whose port it is.
    #[derive(Default)]
    pub enum PortOf {
        /// New connections go to any replica that is ready.
        #[default]
        Any = "any",
        /// Each replica has a port of its own.
        Each = "each",
    }
}

words! {
    /// The answer to a rollout that does not come to its end.
    #[derive(Default)]
    pub enum OnFailure {
        /// The version before is rolled out.
        #[default]
        Rollback = "rollback",
        /// The rollout stands still, and waits for a command.
        Pause = "pause",
    }
}

words_are_settings!(OnFailure, PortAddress, PortOf);

impl PortOf {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_usual(&self) -> bool {
        *self == Self::Any
    }
}

impl Port {
    /// The most ports of a workload.
    pub const MOST: usize = 16;
    /// The most addresses at which replicas listen at one port.
    pub const ADDRESSES: usize = 4;

    /// Returns a port that the program binds as it is.
    #[must_use]
    pub const fn plain(port: u16) -> Self {
        Self {
            port,
            to: PortOf::Any,
            target: None,
            address: None,
        }
    }

    /// Returns the first and the last number that the replicas of a workload may use.
    #[must_use]
    pub fn numbers(&self) -> (u16, u16) {
        match self.to {
            PortOf::Any => (self.port, self.port),
            PortOf::Each => (self.port, self.port.saturating_add(Replicas::MOST - 1)),
        }
    }

    /// Returns whether a number is one of them.
    #[must_use]
    pub fn has(&self, number: u16) -> bool {
        let (first, last) = self.numbers();
        (first..=last).contains(&number)
    }

    /// Returns whether two ports have a number in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (first, last) = self.numbers();
        let (others_first, others_last) = other.numbers();
        first <= others_last && others_first <= last
    }
}

/// The way in which one instance takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Rollout {
    /// The longest wait for the end of the connections at `ports` before the stop signal.
    #[schemars(with = "shapes::Time")]
    pub drain: Duration,
    /// The most replicas beside those that are wanted, while one takes the place of another.
    #[serde(default = "one")]
    #[schemars(with = "shapes::Whole<0, 14>")]
    pub max_surge: u16,
    /// The most wanted replicas that a rollout leaves without readiness.
    #[serde(default)]
    #[schemars(with = "shapes::Whole<0, 15>")]
    pub max_unavailable: u16,
    /// The time for which a new replica must be ready before the next one is replaced.
    #[serde(default)]
    #[schemars(with = "shapes::Time")]
    pub min_ready: Duration,
    /// The longest time without progress. After that the rollout has failed.
    #[serde(default = "deadline")]
    #[schemars(with = "shapes::Time")]
    pub deadline: Duration,
    /// The answer to a failure: `rollback` or `pause`.
    #[serde(default)]
    #[schemars(with = "shapes::OnFailure")]
    pub on_failure: OnFailure,
}

fn one() -> u16 {
    1
}

fn deadline() -> Duration {
    Duration::from_secs(300)
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(10),
            max_surge: one(),
            max_unavailable: 0,
            min_ready: Duration::ZERO,
            deadline: deadline(),
            on_failure: OnFailure::Rollback,
        }
    }
}

impl Rollout {
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field")]
pub(super) fn unready_wait() -> Option<Duration> {
    Some(Duration::from_secs(5))
}

pub(super) fn is_usual_wait(wait: &Option<Duration>) -> bool {
    *wait == unready_wait()
}
