//! Loads the eBPF programs, and hands out what they write. Which records mean
//! what is decided elsewhere. Needs Linux 5.8 (ring buffers), BTF, and CAP_BPF
//! with CAP_PERFMON; where one is missing, the error says which and the agent
//! goes on without.

mod btf;
mod events;
mod loading;
mod pins;
pub mod suspects;

pub use events::{EventRing, PastExit};
pub use pins::Pins;

use crate::cgroupfs::Cgroup;
use crate::init::is_in_pid_namespace;
use crate::memory_info;
use crate::perf::cpu_clock::{CpuClock, SampleScope};
use crate::ready;
use aya::maps::{Map, MapError};
use aya::pin::PinError;
use aya::programs::{PerfEvent, ProgramError, ProgramInfo};
use aya::{Ebpf, include_bytes_aligned};
use aya_log::EbpfLogger;
use btf::BtfError;
use enforcer_model::ids::CgroupId;
use events::open_ring;
use loading::{keep_sampler, load, sampler};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use suspects::SuspectRing;
use tokio::io::Interest;

/// The compiled programs; empty in a debug build that was made without them.
static OBJECT: &[u8] = include_bytes_aligned!(env!("ENFORCER_BPF_OBJECT"));

/// Returns whether this build holds the eBPF programs.
pub fn is_built_in() -> bool {
    !OBJECT.is_empty()
}

/// The wanted programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever fits this kernel.
    Auto,
    /// The programs for kernels whose OOM tracepoint reports only a pid.
    Pid,
    /// No programs. The counters are read instead.
    Off,
}

#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("it is switched off")]
    Off,
    #[error("eBPF was not built in; run cargo xtask build-ebpf")]
    NotBuiltIn,
    #[error(
        "the agent runs in a PID namespace, and eBPF programs get the host's process ids; \
         start it in the host's (for a container, `--pid=host`)"
    )]
    PidNamespace,
    #[error(transparent)]
    Types(#[from] BtfError),
    #[error("read the kernel's BTF for loading")]
    Btf(#[from] aya::BtfError),
    #[error("load the eBPF object")]
    Load(#[from] aya::EbpfError),
    #[error("load or attach `{program}`")]
    Program {
        program: &'static str,
        source: ProgramError,
    },
    #[error("open the map `{map}`")]
    Map { map: &'static str, source: MapError },
    #[error("duplicate the ring's descriptor")]
    Duplicate(#[source] std::io::Error),
    #[error("open the CPU clock")]
    CpuClock(#[source] std::io::Error),
    #[error("find `{0}` in the eBPF object")]
    Missing(&'static str),
    #[error("find a place for pins")]
    NoPlace(#[source] std::io::Error),
    #[error("pin `{program}`")]
    Pin {
        program: &'static str,
        source: PinError,
    },
    #[error("take the link of `{program}`, which this kernel doesn't let be pinned")]
    Link {
        program: &'static str,
        source: aya::programs::links::LinkError,
    },
}

/// The messages that the eBPF programs log.
pub struct Messages(EbpfLogger<&'static dyn log::Log>);

impl Messages {
    /// Passes the messages on to the agent's log, for as long as the agent lives.
    pub async fn relay(mut self) {
        let Ok(polled) = ready::watch(&self.0, Interest::READABLE) else {
            return;
        };
        loop {
            let Ok(mut readable) = polled.readable().await else {
                return;
            };
            self.0.flush();
            readable.clear_ready();
        }
    }
}

/// Attached programs; they detach when this goes, unless they are pinned.
pub struct Attached {
    ebpf: Option<Ebpf>,
    /// The pins that outlive this agent, or the reason why there are none.
    pub pins: Result<Pins, BpfError>,
    pub ring: Arc<EventRing>,
    /// The ring of threads that do not sleep, or the reason why there is none.
    pub suspects: Result<(Arc<SuspectRing>, CpuClock), BpfError>,
    /// The messages of the programs; `None` if they cannot be read.
    pub messages: Option<Messages>,
}

/// Loads and attaches what fits this kernel, for workloads below `parent`.
pub fn attach(
    wanted: Wanted,
    parent: (CgroupId, &Cgroup),
    sampling: (SampleScope, u32),
) -> Result<Attached, BpfError> {
    let attached = load_and_attach(wanted, parent, sampling);
    // Parsing the kernel's types took tens of megabytes that are free again.
    memory_info::give_back();
    attached
}

fn load_and_attach(
    wanted: Wanted,
    (parent, parent_cgroup): (CgroupId, &Cgroup),
    sampling: (SampleScope, u32),
) -> Result<Attached, BpfError> {
    if wanted == Wanted::Off {
        return Err(BpfError::Off);
    }
    if !is_built_in() {
        return Err(BpfError::NotBuiltIn);
    }
    if is_in_pid_namespace() {
        return Err(BpfError::PidNamespace);
    }
    let pins = Pins::of(parent, &wanted).map_err(BpfError::NoPlace);
    let ebpf = match &pins {
        // The pinned programs are of this build, so nothing is loaded.
        Ok(pins) if pins.are_complete() => {
            pins.replace_older();
            None
        }
        Ok(pins) => {
            pins.begin().map_err(BpfError::NoPlace)?;
            let loaded = load(wanted, parent, Some(pins)).and_then(|mut ebpf| {
                keep_sampler(&mut ebpf, pins)?;
                Ok(ebpf)
            });
            // Half of them would be neither attached nor gone.
            let loaded = loaded.inspect_err(|_| pins.give_up());
            pins.replace_older();
            Some(loaded?)
        }
        Err(_) => Some(load(wanted, parent, None)?),
    };
    let mut attached = open(ebpf, pins)?;
    attached.suspects = attached
        .open_sampler(parent_cgroup, sampling)
        .and_then(|clock| Ok((Arc::new(SuspectRing::take(&mut attached)?), clock)));
    Ok(attached)
}

/// Opens the maps of the attached programs.
fn open(mut ebpf: Option<Ebpf>, pins: Result<Pins, BpfError>) -> Result<Attached, BpfError> {
    let ring = open_ring(&mut |map| take_map(ebpf.as_mut(), &pins, map))?;
    let logger = match (&pins, ebpf.as_mut()) {
        (Ok(pins), _) => {
            // Either of the two that have something to say.
            let mut marking = ["mark_victim_task", "mark_victim_pid"].into_iter();
            marking.find_map(|program| {
                let info = ProgramInfo::from_pin(pins.program(program)).ok()?;
                EbpfLogger::init_from_id(info.id()).ok()
            })
        }
        (Err(_), Some(ebpf)) => EbpfLogger::init(ebpf).ok(),
        (Err(_), None) => None,
    };
    if logger.is_none() {
        tracing::warn!("the eBPF programs' own messages will not be seen");
    }
    Ok(Attached {
        ebpf,
        pins,
        ring: Arc::new(ring),
        suspects: Err(BpfError::Off),
        messages: logger.map(Messages),
    })
}

/// Takes a map, by its pin if it has one.
fn take_map(
    ebpf: Option<&mut Ebpf>,
    pins: &Result<Pins, BpfError>,
    name: &'static str,
) -> Result<Map, BpfError> {
    match (pins, ebpf) {
        (Ok(pins), _) => pins.open(name),
        (Err(_), Some(ebpf)) => ebpf.take_map(name).ok_or(BpfError::Missing(name)),
        (Err(_), None) => Err(BpfError::Missing(name)),
    }
}

impl Attached {
    /// Opens the sampler. aya has no cgroup as a scope of perf events, so the events are opened by
    /// hand.
    fn open_sampler(
        &mut self,
        parent: &Cgroup,
        sampling: (SampleScope, u32),
    ) -> Result<CpuClock, BpfError> {
        let program = "cpu_sample";
        let failed = |source| BpfError::Program { program, source };
        let pinned = match &self.pins {
            Ok(pins) => Some(PerfEvent::from_pin(pins.program(program)).map_err(failed)?),
            Err(_) => None,
        };
        let sampler = match (&pinned, self.ebpf.as_mut()) {
            (Some(sampler), _) => sampler,
            (None, Some(ebpf)) => sampler(ebpf)?,
            (None, None) => return Err(BpfError::Missing(program)),
        };
        let descriptor = sampler.fd().map_err(failed)?.as_fd();
        CpuClock::open(descriptor, parent, sampling).map_err(BpfError::CpuClock)
    }

    pub(super) fn take_map(&mut self, name: &'static str) -> Result<Map, BpfError> {
        take_map(self.ebpf.as_mut(), &self.pins, name)
    }
}
