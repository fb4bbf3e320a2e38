//! The destination and the bounds of a workload's output.

use crate::settings::Setting;
use crate::shapes;
use crate::units::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[schemars(deny_unknown_fields, transform = shapes::refuse_bounds_of_the_journal)]
pub struct Logs {
    /// `file` for a file of the agent, `journal` for systemd-journald.
    #[serde(default, skip_serializing_if = "LogTarget::is_file")]
    #[setting(restart)]
    #[schemars(with = "shapes::LogTarget")]
    pub to: LogTarget,
    /// The size at which a new file is begun.
    #[setting(live)]
    #[schemars(with = "shapes::Size")]
    pub max_size: Bytes,
    /// The number of older files beside the one that is written.
    #[setting(live)]
    #[schemars(with = "shapes::Whole<0, 100>")]
    pub keep: u32,
}

/// The destination of a workload's standard output and error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// A file of ours, with a bound.
    #[default]
    File,
    /// systemd-journald, which has its own bounds.
    Journal,
}

impl LogTarget {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Journal => "journal",
        }
    }

    /// Returns whether the value is the default. serde passes a reference.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            to: LogTarget::File,
            max_size: Bytes(10 << 20),
            keep: 3,
        }
    }
}
