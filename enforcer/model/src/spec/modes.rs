//! Permissions of files, and the mask of new ones.

use crate::settings::Setting;
use serde::{Deserialize, Serialize};

/// The permissions of a file, as chmod(2) takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileMode(pub u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o755)
    }
}

impl Setting for FileMode {
    fn text(&self) -> Option<String> {
        Some(format!("{:04o}", self.0))
    }
}

/// A file-creation mask, as umask(2) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Umask(pub u32);

impl Umask {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Umask {
    fn default() -> Self {
        Self(0o022)
    }
}

impl Setting for Umask {
    fn text(&self) -> Option<String> {
        Some(format!("{:04o}", self.0))
    }
}
