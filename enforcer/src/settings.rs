//! The options that every command takes: flags, environment variables and defaults.

use crate::configuration::delegates::Delegates;
use crate::store::database::Retention;
use enforcer_kernel::bpf::Wanted;
use enforcer_kernel::perf::cpu_clock::SampleScope;
use std::path::PathBuf;

/// The options that any command takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// The agent's Unix socket [default: RUNTIME_DIR/enforcer.sock]
    #[arg(long, global = true, env = "ENFORCER_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The folder for logs and history [default: /var/lib/enforcer]
    #[arg(long, global = true, env = "ENFORCER_STATE_DIR", value_name = "PATH")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The TCP address for health and metrics, or `off`
    #[arg(
        long,
        global = true,
        env = "ENFORCER_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9988"
    )]
    pub(crate) listen: Listen,
    /// The time for which events are kept, in days
    #[arg(
        long,
        global = true,
        env = "ENFORCER_HISTORY_DAYS",
        value_name = "DAYS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..=36_500)
    )]
    pub(crate) history_days: u32,
    /// The largest size of the events' database, in MiB; the oldest events go first
    #[arg(
        long,
        global = true,
        env = "ENFORCER_HISTORY_MIB",
        value_name = "MIB",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) history_mib: u32,
    /// The folder for files of this boot [default: /run/enforcer]
    #[arg(long, global = true, env = "ENFORCER_RUNTIME_DIR", value_name = "PATH")]
    pub(crate) runtime_dir: Option<PathBuf>,
    /// The agent's cgroup [default: the delegated one, else /sys/fs/cgroup/enforcer]
    #[arg(long, global = true, env = "ENFORCER_CGROUP_ROOT", value_name = "PATH")]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// Users who may change the workloads of one file in the manifest's folder each, as
    /// `shop=shop.yaml`, within the rules of another file, as `shop=shop.yaml:/etc/shop-rules.yaml`;
    /// several are separated by commas
    #[arg(
        long,
        global = true,
        env = "ENFORCER_DELEGATE",
        value_name = "USER=FILE[:RULES]",
        default_value = ""
    )]
    pub(crate) delegate: Delegates,
    /// The eBPF programs: those that fit the kernel, those for kernels that report only a pid, or
    /// none
    #[arg(
        long,
        global = true,
        env = "ENFORCER_EBPF",
        value_name = "WHICH",
        default_value = "auto"
    )]
    pub(crate) ebpf: Ebpf,
    /// The number of CPU samples a second on each CPU
    #[arg(
        long,
        global = true,
        env = "ENFORCER_SAMPLE_HZ",
        value_name = "HZ",
        default_value_t = 49,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    pub(crate) sample_hz: u32,
    /// Sample every CPU while workloads are busy, or only a CPU that runs one
    #[arg(
        long,
        global = true,
        env = "ENFORCER_SAMPLE_SCOPE",
        value_name = "SCOPE",
        default_value = "cpu"
    )]
    pub(crate) sample_scope: Sampled,
    /// Colours on the terminal
    #[arg(
        long,
        global = true,
        env = "ENFORCER_COLOR",
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub(crate) color: Color,
}

/// The eBPF programs that are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ebpf {
    /// Whatever fits this kernel.
    Auto,
    /// Programs for kernels whose OOM tracepoint reports only a pid.
    Pid,
    /// No programs. The counters are read instead.
    Off,
}

impl From<Ebpf> for Wanted {
    fn from(ebpf: Ebpf) -> Self {
        match ebpf {
            Ebpf::Auto => Self::Auto,
            Ebpf::Pid => Self::Pid,
            Ebpf::Off => Self::Off,
        }
    }
}

/// The CPU time that is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sampled {
    /// Every CPU, while the workloads are busy.
    Cpu,
    /// The workloads' cgroup alone. A CPU without a workload is never woken, but each switch
    /// between a workload and anything else, idling included, sets or clears a timer.
    Cgroup,
}

impl From<Sampled> for SampleScope {
    fn from(sampled: Sampled) -> Self {
        match sampled {
            Sampled::Cpu => Self::Cpu,
            Sampled::Cgroup => Self::Cgroup,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

/// An address, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) Option<std::net::SocketAddr>);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let parsed = text.parse().map(|address| Self(Some(address)));
        parsed.map_err(|_| {
            "expected an address with a port, like 127.0.0.1:9988, or `off`".to_owned()
        })
    }
}

impl Settings {
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        enforcer_client::runtime_dir(self.runtime_dir.clone())
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| {
            let user = std::env::var_os("HOME")
                .map(|folder| PathBuf::from(folder).join(".local/state/enforcer"));
            let root = nix::unistd::geteuid().is_root();
            user.filter(|_| !root)
                .unwrap_or_else(|| PathBuf::from("/var/lib/enforcer"))
        })
    }

    pub(crate) fn retention(&self) -> Retention {
        const DAY: u64 = 24 * 60 * 60;
        Retention {
            age: std::time::Duration::from_secs(u64::from(self.history_days) * DAY),
            size: u64::from(self.history_mib) << 20,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| enforcer_client::socket_in(&self.runtime_dir()))
    }
}
