//! Values of the kernel that another process has changed.

use serde::{Deserialize, Serialize};

/// The [`Drifted::what`] of a main process that another process has moved to another cgroup.
pub const PLACE: &str = "cgroup";

/// A value that differs from the one that the agent wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drifted {
    /// The name of the cgroup's file, or [`PLACE`].
    pub what: String,
    pub expected: String,
    pub found: String,
}
