//! Probes, thresholds and needs, as the manifest means them.

use crate::settings::Setting;
use crate::shapes;
use crate::units::{Bytes, Percent};
use crate::words::words;
use schemars::JsonSchema;
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Probe {
    #[schemars(flatten)]
    pub check: Check,
    /// The time from the instance's start to the first check.
    #[schemars(with = "shapes::Time")]
    pub initial_delay: Duration,
    /// The time from the beginning of one check to that of the next.
    #[schemars(with = "shapes::Time")]
    pub period: Duration,
    /// The deadline of the whole check: connecting, asking and reading.
    #[schemars(with = "shapes::Time")]
    pub timeout: Duration,
    /// The number of failures in a row that count.
    #[schemars(with = "shapes::Whole<1, 1_000_000>")]
    pub failure_threshold: u32,
    /// The number of passes in a row that count.
    #[schemars(with = "shapes::Whole<1, 1_000_000>")]
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
        Https = "https",
        Grpc = "grpc",
        Notify = "notify",
        Tcp = "tcp",
        Exec = "exec",
        File = "file",
        Cgroup = "cgroup",
    }
}

/// A check and its target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(rename_all = "lowercase", deny_unknown_fields)]
pub enum Check {
    /// 200 to 399 passes; redirects are followed on the same host.
    Http {
        host: String,
        /// It is needed unless there is a `unix`.
        #[schemars(with = "shapes::Port")]
        port: Option<u16>,
        /// The Unix socket that is asked in place of a host and a port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "shapes::AbsolutePath")]
        unix: Option<String>,
        #[schemars(with = "shapes::AbsolutePath")]
        path: String,
        #[setting(secret)]
        #[schemars(with = "shapes::Variables")]
        headers: BTreeMap<String, String>,
    },
    /// As `http`, over TLS 1.2 or 1.3.
    Https {
        host: String,
        /// The default is 443.
        #[schemars(with = "shapes::Port")]
        port: u16,
        #[schemars(with = "shapes::AbsolutePath")]
        path: String,
        #[setting(secret)]
        #[schemars(with = "shapes::Variables")]
        headers: BTreeMap<String, String>,
        /// The name that the certificate must have. The default is `host`.
        server_name: Option<String>,
        /// A PEM file. The certificate must be one of its certificates, or be signed by one. The
        /// default is what the host trusts.
        #[schemars(with = "shapes::AbsolutePath")]
        ca_file: Option<String>,
        /// With `true`, any certificate is accepted.
        insecure: bool,
    },
    /// The standard health protocol of gRPC answers SERVING, without TLS.
    Grpc {
        host: String,
        #[schemars(with = "shapes::Port")]
        port: u16,
        /// The service that is asked about. The default is the whole server.
        service: Option<String>,
    },
    /// The program has said so by sd_notify(3): that it is ready, or, for `liveness`, that it was
    /// alive `within` this time.
    Notify {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "shapes::Time")]
        within: Option<Duration>,
    },
    /// A connection is accepted.
    Tcp {
        host: String,
        #[schemars(with = "shapes::Port")]
        port: u16,
    },
    /// The command ends with 0.
    Exec {
        #[schemars(with = "shapes::Command")]
        command: Vec<String>,
    },
    /// The file was changed at most `fresh_within` ago, by the wall clock.
    File {
        #[schemars(with = "shapes::AbsolutePath")]
        path: String,
        #[schemars(with = "shapes::Time")]
        fresh_within: Duration,
    },
    /// The workload did at least this much within that time.
    Cgroup {
        #[schemars(with = "shapes::Time")]
        cpu: Option<Duration>,
        #[schemars(with = "shapes::Size")]
        io: Option<Bytes>,
        #[schemars(with = "shapes::Time")]
        within: Duration,
    },
}

impl Check {
    #[must_use]
    pub fn kind(&self) -> CheckKind {
        match self {
            Self::Http { .. } => CheckKind::Http,
            Self::Https { .. } => CheckKind::Https,
            Self::Grpc { .. } => CheckKind::Grpc,
            Self::Notify { .. } => CheckKind::Notify,
            Self::Tcp { .. } => CheckKind::Tcp,
            Self::Exec { .. } => CheckKind::Exec,
            Self::File { .. } => CheckKind::File,
            Self::Cgroup { .. } => CheckKind::Cgroup,
        }
    }

    /// Returns the TCP port of this host that is asked.
    #[must_use]
    pub fn own_port(&self) -> Option<u16> {
        let (host, port) = match self {
            Self::Http { host, port, .. } => (host, (*port)?),
            Self::Https { host, port, .. }
            | Self::Grpc { host, port, .. }
            | Self::Tcp { host, port, .. } => (host, *port),
            Self::Notify { .. } | Self::Exec { .. } | Self::File { .. } | Self::Cgroup { .. } => {
                return None;
            }
        };
        let is_own = ["127.0.0.1", "::1", "localhost"].contains(&host.as_str());
        is_own.then_some(port)
    }
}

/// Two levels of a use, and how long it must stay there to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Threshold {
    /// The share at which the level is `warning`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::Share")]
    pub warn: Option<Percent>,
    /// The share at which the level is `critical`.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::Share")]
    pub critical: Option<Percent>,
    /// The time for which a level must hold before it is reported.
    #[schemars(rename = "for", with = "shapes::Time")]
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
    /// It has ended with exit code 0 since the host booted, with the spec that it has now.
    Completed,
}

impl Need {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Completed => "completed",
        }
    }
}

/// Thresholds of the whole host. What is left out is not watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct HostWatch {
    /// The levels of the host's memory.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Threshold>")]
    pub memory: Option<Threshold>,
    /// The levels of the host's CPU time.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<Threshold>")]
    pub cpu: Option<Threshold>,
    /// The levels of a file system.
    #[setting(unset = "off")]
    #[schemars(with = "shapes::OrOff<DiskWatch>")]
    pub disk: Option<DiskWatch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct DiskWatch {
    /// A path on the watched file system.
    #[schemars(with = "shapes::AbsolutePath")]
    pub path: String,
    #[schemars(flatten)]
    pub threshold: Threshold,
    /// The command that makes room, as the agent's own user. The disk is read again after it.
    #[schemars(with = "shapes::Command")]
    pub run: Option<Vec<String>>,
}
