//! A manifest after it was understood: every default filled in, every value in
//! its unit, nothing left to interpret.

mod alerts;
mod attach;
mod consequence;
mod directories;
mod files;
mod host;
mod listen;
mod logs;
mod modes;
mod network;
mod ports;
mod probes;
mod promise;
mod recovery;
mod reload;
mod replicas;
mod rung;
mod sandbox;
mod schema;
mod stop;
mod watch;

pub use alerts::{Alerts, Preset, Resource, Rule, Severity, Target, When};
pub use attach::{Attach, Container};
pub use consequence::{Consequence, Denial};
pub use directories::{Directories, DirectoryKind};
pub use files::{Mount, Tmpfs};
pub use host::{Host, Portion, Reserve};
pub use listen::Listen;
pub use logs::{LogTarget, Logs};
pub use modes::{FileMode, Umask};
pub use network::{Bind, Block, Network, Peer, Protocol};
pub use ports::{OnFailure, Port, PortAddress, PortOf, Rollout};
pub use probes::{
    Check, CheckKind, DiskWatch, HostWatch, Need, Probe, ProbeName, Probes, Threshold,
};
pub use promise::{PROMISES, Promise, promises, unit};
pub use recovery::{
    Backoff, Breaker, Budget, Recovery, RestartPolicy, Strategies, Strategy, StrategyName,
};
pub use reload::Reload;
pub use replicas::{PLACE, Replicas};
pub use rung::Rung;
pub use sandbox::{
    HOMES, OUT_OF_SANDBOX, OUT_OF_STRICT, PROGRAMS, READ_ONLY, REFUSED_BY_LANDLOCK, SOCKET_FOLDERS,
    SOCKETS, Sandbox, TEMPORARY, openable_calls, refused_calls, strict_calls,
};
pub use schema::schema;
pub use stop::{Stop, StopScope};
pub use watch::{CpuLoopWatch, Watch};

use crate::limits::Limits;
use crate::name::WorkloadName;
use crate::settings::{Setting, words_are_settings};
use crate::shapes;
use crate::units::{Bytes, Limit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

words_are_settings!(
    LogTarget,
    Mode,
    Need,
    RestartPolicy,
    Sandbox,
    Severity,
    StopScope
);

/// Everything the agent was asked to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    pub host: Box<Host>,
    pub workloads: BTreeMap<WorkloadName, Arc<WorkloadSpec>>,
}

impl Manifest {
    /// Returns the host's settings with the protections that its workloads need from their parent:
    /// a child's `memory.low` counts only as far as its ancestors' reach.
    #[must_use]
    pub fn parent_host(&self) -> Host {
        let mut host = (*self.host).clone();
        let sum = |of: fn(&Limits) -> Option<Limit<Bytes>>| {
            let mut total = Bytes(0);
            for spec in self.workloads.values() {
                let limits = match spec.replicas {
                    Some(_) => &spec.limits_of_all(),
                    None => &spec.limits,
                };
                match of(limits) {
                    Some(Limit::Max) => return Some(Limit::Max),
                    Some(Limit::At(bytes)) => total.0 = total.0.saturating_add(bytes.0),
                    None => {}
                }
            }
            (total.0 > 0).then_some(Limit::At(total))
        };
        host.limits.memory_low = host
            .limits
            .memory_low
            .or_else(|| sum(|limits| limits.memory_low));
        host.limits.memory_min = host
            .limits
            .memory_min
            .or_else(|| sum(|limits| limits.memory_min));
        host
    }
}

/// Whether remedies are carried out, or only reported. Limits apply in both modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Enforce,
    Observe,
}

impl Mode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// The beginning of a file of variables that may be missing.
pub const MAY_BE_MISSING: &str = "-";

/// One program, and everything that is wanted of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Setting, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// `observe` only reports restarts and other remedies. Limits apply in both modes.
    #[setting(live)]
    #[schemars(with = "shapes::Mode")]
    pub mode: Mode,
    /// A service that another program has started, and that the agent looks after. It takes the place of `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::Attach")]
    pub attach: Option<Attach>,
    /// A suspected loop of an attached service is traced, as that of a program of the agent's own is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[setting(live)]
    #[schemars(with = "shapes::Truth")]
    pub prove: bool,
    /// The program's absolute path, and its arguments.
    #[setting(restart)]
    #[schemars(with = "shapes::Command")]
    pub command: Vec<String>,
    /// The account, by name or number, or `USER:GROUP`. It is required if the agent is root, and
    /// there is no choice otherwise.
    #[setting(restart)]
    #[schemars(with = "shapes::Account")]
    pub user: Option<String>,
    /// The group, by name or number. The default is the account's own.
    #[setting(restart)]
    #[schemars(with = "shapes::Account")]
    pub group: Option<String>,
    /// Further groups, by name or number, beside those of the account.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::Accounts")]
    pub groups: Vec<String>,
    /// The permissions that new files do not get, as an octal number.
    #[serde(default, skip_serializing_if = "Umask::is_usual")]
    #[setting(restart)]
    #[schemars(with = "shapes::Octal")]
    pub umask: Umask,
    /// The scheduling priority among processes of one cgroup, from -20 for the most favourable to
    /// 19. The default is the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::Niceness")]
    pub nice: Option<i32>,
    /// The file in which a program that forks names its main process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::AbsolutePath")]
    pub main_pid_file: Option<String>,
    /// The working directory.
    #[setting(restart)]
    #[schemars(with = "shapes::AbsolutePath")]
    pub directory: Option<String>,
    /// Directories below `/run` that exist while the workload runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::Directories")]
    pub runtime_directory: Option<Directories>,
    /// Directories below `/var/lib`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::Directories")]
    pub state_directory: Option<Directories>,
    /// Directories below `/var/cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::Directories")]
    pub cache_directory: Option<Directories>,
    /// Files that only this workload sees, by the names that it finds them under. A relative path
    /// begins at the manifest's folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::Credentials")]
    pub credentials: BTreeMap<String, String>,
    /// The folder whose files are all that the workload sees. Its own `/etc/passwd` names the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    #[schemars(with = "shapes::AbsolutePath")]
    pub root: Option<String>,
    /// Files and folders of the host's that the workload sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    pub mounts: Vec<Mount>,
    /// File systems in memory, by their paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::Tmpfs")]
    pub tmpfs: Vec<Tmpfs>,
    /// The workload cannot change the files of its `root`, except those of `mounts` and `tmpfs`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[setting(restart)]
    pub read_only: bool,
    /// The host's name, as the workload sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(restart)]
    pub hostname: Option<String>,
    /// The addresses of host names, in the file `/etc/hosts` that a workload with a `root` sees.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::Variables")]
    pub hosts: BTreeMap<String, IpAddr>,
    /// Sockets that are made and kept for the workload, over its restarts, and passed to its program by
    /// sd_listen_fds(3) in the order of their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[setting(restart)]
    pub listen: BTreeMap<String, Listen>,
    /// The number of instances, or `{ min, max, cpu, memory }`. `{replica}` in a command, a variable or a
    /// probe stands for the number of the instance, from 0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(live)]
    #[schemars(with = "shapes::Replicas")]
    pub replicas: Option<Replicas>,
    /// The numbers of the replicas, as `replicas: { indexes }` has them; empty for those from 0 on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[setting(live)]
    #[schemars(skip)]
    pub replica_indexes: BTreeSet<u16>,
    /// It runs only until a deadline that a program of the host moves, by `POST /v1/workloads/NAME/deadline`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[setting(restart)]
    pub leased: bool,
    /// The user whose file of the manifest names it, and who may change it; `None` for root's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(live)]
    #[schemars(skip)]
    pub delegate: Option<String>,
    /// The limits of all replicas together. There is no `memory.oom.group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(live)]
    #[schemars(with = "Limits")]
    pub replicas_cgroup: Option<Limits>,
    /// It is a replica whose use decides how many there are to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[setting(live)]
    #[schemars(skip)]
    pub is_scaled: bool,
    /// TCP ports at which the program listens, by names of the manifest's. A new connection reaches the
    /// program only while the workload is ready.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[setting(restart)]
    pub ports: BTreeMap<String, Port>,
    /// The time for which new connections wait while the workload is not ready, or `off`. After that they
    /// are refused.
    #[serde(
        default = "ports::unready_wait",
        skip_serializing_if = "ports::is_usual_wait"
    )]
    #[setting(live, unset = "off")]
    #[schemars(with = "shapes::TimeOrOff")]
    pub unready_wait: Option<Duration>,
    /// The way in which one instance takes the place of another.
    #[serde(default, skip_serializing_if = "Rollout::is_usual")]
    #[setting(live)]
    pub rollout: Rollout,
    /// What the workload is kept from. The default is `off`, and `default` in a manifest with
    /// `version: 2` for users other than root.
    #[serde(default, skip_serializing_if = "Sandbox::is_off")]
    #[setting(restart)]
    #[schemars(with = "shapes::Sandbox")]
    pub sandbox: Sandbox,
    /// The sandbox has a `/tmp` and a `/var/tmp` of its own.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    #[setting(restart)]
    pub private_tmp: bool,
    /// Paths that the sandbox shows, although it would hide them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::AbsolutePaths")]
    pub read_only_paths: Vec<String>,
    /// Paths that the sandbox shows and lets the workload change, as far as its user may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::AbsolutePaths")]
    pub read_write_paths: Vec<String>,
    /// Devices and folders of devices that the sandbox has beside the harmless ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::Devices")]
    pub devices: Vec<String>,
    /// The workload may make namespaces in the sandbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[setting(restart)]
    pub namespaces: bool,
    /// System calls that the sandbox allows, although it would refuse them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(restart)]
    #[schemars(with = "shapes::Texts")]
    pub system_calls: Vec<String>,
    /// What the workload may bind and connect to in `sandbox: strict`.
    #[serde(default, skip_serializing_if = "Network::is_usual")]
    #[setting(restart)]
    pub network: Network,
    /// The variables of the program.
    #[setting(restart, secret)]
    #[schemars(with = "shapes::Variables")]
    pub environment: BTreeMap<String, String>,
    /// Files with variables, one `NAME=value` a line. A relative path begins at the manifest's folder.
    #[setting(restart)]
    pub environment_files: Vec<String>,
    /// The names of capabilities(7), such as `CAP_NET_BIND_SERVICE`. An empty list takes all from root.
    #[setting(restart)]
    #[schemars(with = "shapes::Capabilities")]
    pub capabilities: Vec<String>,
    /// Is true if the manifest has a `capabilities` key. An empty list takes all from root.
    #[serde(default)]
    #[setting(restart)]
    #[schemars(rename = "capabilities", skip)]
    pub capabilities_listed: Listed,
    /// The soft and hard limit of getrlimit(2), by the lower-case name of the resource.
    #[setting(restart)]
    #[schemars(with = "shapes::ResourceLimits")]
    pub rlimits: BTreeMap<String, Limit<u64>>,
    /// From 0 to 100; the kernel kills the lowest first when the host itself is out of memory.
    #[setting(restart)]
    #[schemars(with = "shapes::Whole<0, 100>")]
    pub priority: u8,
    #[setting(live)]
    #[schemars(rename = "cgroup")]
    pub limits: Limits,
    /// The workloads that must be up before this one starts.
    #[setting(live)]
    #[schemars(with = "shapes::Needs")]
    pub needs: BTreeMap<WorkloadName, Need>,
    /// The checks of the workload, by their purpose.
    #[setting(live)]
    #[schemars(with = "schema::ProbesSchema")]
    pub probes: Probes,
    /// The command that runs when the workload becomes ready.
    #[setting(live)]
    #[schemars(with = "shapes::Command")]
    pub on_ready: Option<Vec<String>>,
    /// The command that runs when the workload is no longer ready.
    #[setting(live)]
    #[schemars(with = "shapes::Command")]
    pub on_unready: Option<Vec<String>>,
    /// The way in which the program takes a new configuration without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[setting(live)]
    pub reload: Option<Reload>,
    /// Files whose change reloads the workload, or restarts it if it has no `reload`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(live)]
    #[schemars(with = "shapes::AbsolutePaths")]
    pub reload_on: Vec<String>,
    /// Commands that run one after another before each start. If one fails, the start has failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(live)]
    #[schemars(with = "shapes::Commands")]
    pub before_start: Vec<Vec<String>>,
    /// Commands that run one after another when the program has started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(live)]
    #[schemars(with = "shapes::Commands")]
    pub after_start: Vec<Vec<String>>,
    /// Commands that run one after another before the stop signal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[setting(live)]
    #[schemars(with = "shapes::Commands")]
    pub before_stop: Vec<Vec<String>>,
    #[setting(live)]
    pub watch: Watch,
    /// The answer to a failure.
    #[setting(live)]
    pub recovery: Recovery,
    /// The way in which the workload is stopped.
    #[setting(live)]
    pub stop: Stop,
    /// The time that a start may take until the program is executed.
    #[serde(default = "default_start_timeout")]
    #[setting(live)]
    #[schemars(with = "shapes::Time")]
    pub start_timeout: Duration,
    /// The destination and the bounds of the output.
    #[setting(by_field)]
    pub logs: Logs,
    #[serde(default)]
    #[setting(live)]
    pub commands: Commands,
}

/// Is true if a list was given, even an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Listed(pub bool);

impl Setting for Listed {
    fn text(&self) -> Option<String> {
        self.0.then(|| "none but those listed".to_owned())
    }
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_yes(value: &bool) -> bool {
    *value
}

/// Returns the default of `start_timeout`. Checkpoints of older agents do not have it.
fn default_start_timeout() -> Duration {
    Duration::from_secs(30)
}

impl WorkloadSpec {
    /// Returns the directories of one kind that the workload needs.
    #[must_use]
    pub fn directories(&self, kind: DirectoryKind) -> Option<&Directories> {
        match kind {
            DirectoryKind::Runtime => self.runtime_directory.as_ref(),
            DirectoryKind::State => self.state_directory.as_ref(),
            DirectoryKind::Cache => self.cache_directory.as_ref(),
        }
    }

    /// Returns the ports behind the gate by their names: those of `ports`, and those at which each replica
    /// has a socket of `listen`. Sockets at several addresses share the port of the first one.
    #[must_use]
    pub fn gated_ports(&self) -> BTreeMap<&str, Port> {
        let ports = self.ports.iter();
        let mut all: BTreeMap<&str, Port> = ports
            .map(|(name, port)| (name.as_str(), port.clone()))
            .collect();
        for (name, listen) in &self.listen {
            let Some(number) = listen.gated().map(|address| address.port()) else {
                continue;
            };
            if all.values().all(|other| other.port != number) {
                all.insert(name, Port::plain(number));
            }
        }
        all
    }

    /// Returns whether a suspected loop is traced to prove it.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.attach.is_none() || self.prove
    }

    /// Returns whether the gate stands before a port of the workload.
    #[must_use]
    pub fn has_gate(&self) -> bool {
        !self.ports.is_empty() || self.listen.values().any(|one| one.gated().is_some())
    }

    /// Returns whether the manifest names root as the user.
    #[must_use]
    pub fn is_root(&self) -> bool {
        matches!(self.user.as_deref(), Some("root" | "0"))
    }

    /// Returns a value from -500 for the most important workload to 500. The kernel kills the
    /// highest first when the host itself runs out of memory.
    #[must_use]
    pub fn oom_score_adj(&self) -> i32 {
        (50 - i32::from(self.priority)) * 10
    }
}

/// The limits of a workload's commands together: its exec probes, hooks and remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Commands {
    /// The memory of all probes, hooks and remedies of the workload together.
    #[schemars(rename = "memory.max", with = "shapes::SizeOrMax")]
    pub memory_max: Limit<Bytes>,
    /// The most processes of all of them together.
    #[schemars(rename = "pids.max", with = "shapes::CountOrMax")]
    pub pids_max: Limit<u64>,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            memory_max: Limit::At(Bytes(128 << 20)),
            pids_max: Limit::At(64),
        }
    }
}

impl Default for WorkloadSpec {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            attach: None,
            prove: false,
            command: Vec::new(),
            user: None,
            group: None,
            groups: Vec::new(),
            umask: Umask::default(),
            nice: None,
            main_pid_file: None,
            directory: None,
            runtime_directory: None,
            state_directory: None,
            cache_directory: None,
            credentials: BTreeMap::new(),
            hosts: BTreeMap::new(),
            listen: BTreeMap::new(),
            replicas: None,
            replicas_cgroup: None,
            replica_indexes: BTreeSet::new(),
            leased: false,
            delegate: None,
            is_scaled: false,
            ports: BTreeMap::new(),
            unready_wait: ports::unready_wait(),
            rollout: Rollout::default(),
            root: None,
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            read_only: false,
            hostname: None,
            sandbox: Sandbox::Off,
            private_tmp: true,
            read_only_paths: Vec::new(),
            read_write_paths: Vec::new(),
            devices: Vec::new(),
            namespaces: false,
            system_calls: Vec::new(),
            network: Network::default(),
            environment: BTreeMap::new(),
            environment_files: Vec::new(),
            capabilities: Vec::new(),
            capabilities_listed: Listed(false),
            rlimits: BTreeMap::new(),
            priority: 50,
            limits: Limits {
                memory_oom_group: Some(true),
                ..Limits::default()
            },
            needs: BTreeMap::new(),
            probes: Probes::new(),
            on_ready: None,
            on_unready: None,
            reload: None,
            reload_on: Vec::new(),
            before_start: Vec::new(),
            after_start: Vec::new(),
            before_stop: Vec::new(),
            watch: Watch::default(),
            recovery: Recovery::default(),
            stop: Stop::default(),
            start_timeout: default_start_timeout(),
            logs: Logs::default(),
            commands: Commands::default(),
        }
    }
}
