//! Directories that are made for a workload before it starts.

use super::modes::FileMode;
use crate::settings::Setting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Directories below `/run`, `/var/lib` or `/var/cache`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Directories {
    /// Relative paths.
    pub names: Vec<String>,
    /// The permissions, as an octal number. The default is 0755.
    #[schemars(with = "crate::shapes::Octal")]
    pub mode: FileMode,
}

/// The kinds of such directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryKind {
    /// It is removed when the workload comes to rest.
    Runtime,
    State,
    Cache,
}

impl DirectoryKind {
    pub const ALL: [Self; 3] = [Self::Runtime, Self::State, Self::Cache];

    /// Returns the key of the manifest.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Runtime => "runtime_directory",
            Self::State => "state_directory",
            Self::Cache => "cache_directory",
        }
    }

    /// Returns the folder that root's are in.
    #[must_use]
    pub const fn base(self) -> &'static str {
        match self {
            Self::Runtime => "/run",
            Self::State => "/var/lib",
            Self::Cache => "/var/cache",
        }
    }
}
