//! The place that the runner gives a test: a cgroup root of its own, and what it says of the
//! machine.
//!
//! The runner starts each test as a process with its own network (so every test may use the
//! same ports), its own mounts (`/tmp`, `/run` and bpffs are empty) and its own slot.

use std::path::PathBuf;

/// The variable with the name of the cgroup below the hierarchy's root that the test's
/// agents own. Without it they choose the default by themselves.
pub const ROOT: &str = "ENFORCER_TEST_ROOT";
/// The variable with the measured slowness of the machine.
pub const SLOWNESS: &str = "ENFORCER_TEST_SLOWNESS";
/// The mount point of cgroup v2.
pub const HIERARCHY: &str = "/sys/fs/cgroup";
/// The root that an agent chooses by itself.
pub const DEFAULT_ROOT: &str = "enforcer";

/// Returns the name of the agent's cgroup root below the hierarchy's own.
#[must_use]
pub fn root_name() -> String {
    std::env::var(ROOT).unwrap_or_else(|_| DEFAULT_ROOT.to_owned())
}

/// Returns the agent's cgroup root.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(HIERARCHY).join(root_name())
}

/// Returns the cgroup root that an agent is started with; `None` where it chooses the default.
#[must_use]
pub fn requested_root() -> Option<PathBuf> {
    (root_name() != DEFAULT_ROOT).then(root)
}
