//! Probes, thresholds and needs, as the manifest means them.

use crate::settings::Setting;
use crate::units::{Bytes, Percent};
use crate::words::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

words! {
    /// The name of a probe. Each leads to another action.
    pub enum ProbeName {
        /// The other probes wait until this one has passed once.
        Startup = "startup",
        /// A failure restarts the workload.
        Liveness = "liveness",
        /// A failure keeps traffic away.
        Readiness = "readiness",
        /// A failure restarts a workload that is up and does nothing.
        Progress = "progress",
    }
}

pub type Probes = BTreeMap<ProbeName, Probe>;

/// A check that is repeated, and the number of its answers that count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting)]
#[setting(inherit)]
pub struct Probe {
    #[setting(key = "")]
    pub check: Check,
    /// The time from the instance's start to the first check.
    pub initial_delay: Duration,
    pub period: Duration,
    /// The deadline of the whole check: connecting, asking and reading.
    pub timeout: Duration,
    /// The number of failures in a row that count.
    pub failure_threshold: u32,
    pub success_threshold: u32,
}

impl Probe {
    /// Makes a probe of this check, with the default timing of Kubernetes.
    #[must_use]
    pub fn of(check: Check) -> Self {
        Self {
            check,
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }
}

words! {
    /// The kind of a check, as the manifest names it.
    pub enum CheckKind {
        Http = "http",
        Tcp = "tcp",
        Exec = "exec",
        File = "file",
        Cgroup = "cgroup",
    }
}

/// A check and its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting)]
#[setting(inherit)]
pub enum Check {
    /// 200 to 399 passes; redirects are followed on the same host.
    Http {
        host: String,
        port: u16,
        path: String,
        #[setting(secret)]
        headers: BTreeMap<String, String>,
    },
    /// A connection is accepted.
    Tcp { host: String, port: u16 },
    /// The command ends with 0.
    Exec { command: Vec<String> },
    /// The file was changed at most `fresh_within` ago, by the wall clock.
    File {
        path: String,
        fresh_within: Duration,
    },
    /// The workload did at least this much within that time.
    Cgroup {
        cpu: Option<Duration>,
        io: Option<Bytes>,
        within: Duration,
    },
}

impl Check {
    #[must_use]
    pub fn kind(&self) -> CheckKind {
        match self {
            Self::Http { .. } => CheckKind::Http,
            Self::Tcp { .. } => CheckKind::Tcp,
            Self::Exec { .. } => CheckKind::Exec,
            Self::File { .. } => CheckKind::File,
            Self::Cgroup { .. } => CheckKind::Cgroup,
        }
    }
}

/// Two levels of a use, and how long it must stay there to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Setting)]
#[setting(inherit)]
pub struct Threshold {
    #[setting(unset = "off")]
    pub warn: Option<Percent>,
    #[setting(unset = "off")]
    pub critical: Option<Percent>,
    #[setting(key = "for")]
    pub hold: Duration,
}

impl Threshold {
    pub const MEMORY: Self = Self {
        warn: Some(Percent(90)),
        critical: Some(Percent(95)),
        hold: Duration::from_secs(60),
    };
    pub const CPU: Self = Self {
        warn: Some(Percent(80)),
        ..Self::MEMORY
    };
    pub const DISK: Self = Self {
        warn: Some(Percent(85)),
        critical: Some(Percent(90)),
        ..Self::MEMORY
    };

    /// Returns the threshold for the whole host, where a level has to hold for longer.
    #[must_use]
    pub const fn of_host(self) -> Self {
        Self {
            hold: Duration::from_secs(120),
            ..self
        }
    }
}

/// The state that another workload must reach before this one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    Started,
    Ready,
}

impl Need {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ready => "ready",
        }
    }
}

/// Thresholds of the whole host; `None` where nothing is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Setting)]
#[setting(inherit)]
pub struct HostWatch {
    #[setting(unset = "off")]
    pub memory: Option<Threshold>,
    #[setting(unset = "off")]
    pub cpu: Option<Threshold>,
    #[setting(unset = "off")]
    pub disk: Option<DiskWatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Setting)]
#[setting(inherit)]
pub struct DiskWatch {
    /// A path on the watched file system.
    pub path: String,
    #[setting(key = "")]
    pub threshold: Threshold,
    /// The command that makes room, as the agent's own user. The disk is read again after it.
    pub run: Option<Vec<String>>,
}
