//! The way in which a program takes a new configuration without a restart.

use crate::settings::Setting;
use crate::shapes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the two is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Reload {
    /// The signal to the main process, by its name in signal(7) or its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Signal")]
    pub signal: Option<String>,
    /// The command that makes the program reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Command")]
    pub run: Option<Vec<String>>,
}
