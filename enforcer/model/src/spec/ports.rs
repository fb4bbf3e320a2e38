//! Ports behind the gate: the kernel gives their connections to instances that are ready.

use crate::settings::Setting;
use crate::shapes;
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
}

impl Port {
    /// The most ports of a workload.
    pub const MOST: usize = 16;
}

/// The way in which one instance takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Rollout {
    /// The longest wait for the end of the connections at `ports` before the stop signal.
    #[schemars(with = "shapes::Time")]
    pub drain: Duration,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(10),
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
