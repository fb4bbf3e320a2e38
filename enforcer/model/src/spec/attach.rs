//! Attached services: another program has started them, and enforcer looks after them.

use crate::settings::displayed;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A service that another program has started, by its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attach {
    /// A unit of the host's systemd, such as `nginx.service`.
    Systemd(String),
    /// A container of Docker's, by its name or its id.
    Docker(String),
    /// A container of root's Podman, by its name or its id.
    Podman(String),
    /// A cgroup, by its path below `/sys/fs/cgroup`, such as `/system.slice/nginx.service`.
    Cgroup(String),
}

displayed!(Attach);

impl Attach {
    /// The keys of the manifest.
    pub const KEYS: [&str; 4] = ["systemd", "docker", "podman", "cgroup"];

    /// Returns the service of this key; `None` if there is no such key.
    #[must_use]
    pub fn new(key: &str, name: String) -> Option<Self> {
        match key {
            "systemd" => Some(Self::Systemd(name)),
            "docker" => Some(Self::Docker(name)),
            "podman" => Some(Self::Podman(name)),
            "cgroup" => Some(Self::Cgroup(name)),
            _ => None,
        }
    }

    /// Returns the command by which the owner restarts it; `None` if it has none.
    #[must_use]
    pub fn restart(&self) -> Option<Vec<String>> {
        // A unit's stop may take longer than a command here.
        let (words, name): (&[&str], _) = match self {
            Self::Systemd(unit) if unit.ends_with(".service") => {
                (&["/usr/bin/systemctl", "--no-block", "restart"], unit)
            }
            Self::Docker(name) => (&["/usr/bin/docker", "restart"], name),
            Self::Podman(name) => (&["/usr/bin/podman", "restart"], name),
            Self::Systemd(_) | Self::Cgroup(_) => return None,
        };
        let words = words.iter().copied().chain(["--", name.as_str()]);
        Some(words.map(str::to_owned).collect())
    }

    /// Returns the command by which the owner shows its output; `None` if nobody keeps that.
    #[must_use]
    pub fn logs(&self) -> Option<String> {
        match self {
            Self::Systemd(unit) => Some(format!("journalctl -u {unit}")),
            Self::Docker(name) => Some(format!("docker logs {name}")),
            Self::Podman(name) => Some(format!("podman logs {name}")),
            Self::Cgroup(_) => None,
        }
    }

    /// Returns whether the host, or enforcer itself, depends on it: it is never restarted.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let Self::Systemd(unit) = self else {
            return false;
        };
        let stem = unit.strip_suffix(".service").unwrap_or(unit);
        let begins = ["systemd-", "dbus", "ssh", "enforcer", "user@", "getty@"];
        let names = ["docker", "containerd", "podman", "crio", "init.scope"];
        begins.iter().any(|begin| stem.starts_with(begin)) || names.contains(&stem)
    }

    /// Returns whose it is, and its name there.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Systemd(name) => ("systemd", name),
            Self::Docker(name) => ("docker", name),
            Self::Podman(name) => ("podman", name),
            Self::Cgroup(path) => ("cgroup", path),
        }
    }
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, name) = self.parts();
        write!(f, "{owner} {name}")
    }
}
