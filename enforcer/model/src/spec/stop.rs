//! The way in which a workload is stopped.

use crate::settings::Setting;
use crate::shapes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Stop {
    /// The signal that asks the program to end, by its name in signal(7) or its number.
    #[schemars(with = "shapes::Signal")]
    pub signal: String,
    /// The processes that get the signal.
    #[serde(default, skip_serializing_if = "StopScope::is_main")]
    #[schemars(with = "shapes::StopScope")]
    pub scope: StopScope,
    /// The time between the signal and SIGKILL.
    #[schemars(with = "shapes::Time")]
    pub grace: Duration,
}

/// The processes that get the signal of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopScope {
    /// The main process alone.
    #[default]
    Main,
    /// Every process of the workload's cgroup.
    Group,
}

impl StopScope {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Group => "group",
        }
    }

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_main(&self) -> bool {
        *self == Self::Main
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: "SIGTERM".to_owned(),
            scope: StopScope::Main,
            grace: Duration::from_secs(10),
        }
    }
}
