//! Loads the eBPF programs, and hands out what they write. Which records mean
//! what is decided elsewhere. Needs Linux 5.8 (ring buffers), BTF, and CAP_BPF
//! with CAP_PERFMON; where one is missing, the error says which and the agent
//! goes on without.

mod assembly;
mod btf;
mod calls;
mod events;
pub mod gate;
pub mod learning;
mod loading;
pub mod network;
mod pins;
pub mod suspects;

pub use events::{EventRing, PastExit};
pub use pins::Pins;

use crate::cgroupfs::Cgroup;
use crate::init::is_in_pid_namespace;
use crate::memory_info;
use crate::perf::cpu_clock::{CpuClock, SampleScope};
use crate::ready;
use aya::include_bytes_aligned;
use aya::maps::{Map, MapData, MapError};
use aya_log::EbpfLogger;
use btf::BtfError;
use enforcer_model::ids::CgroupId;
use events::open_ring;
use loading::{Loaded, SAMPLER, load};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use suspects::SuspectRing;
use tokio::io::Interest;

/// The compiled programs; empty in a debug build that was made without them.
static OBJECT: &[u8] = include_bytes_aligned!(env!("ENFORCER_BPF_OBJECT"));
/// The programs of the gate.
static GATE_OBJECT: &[u8] = include_bytes_aligned!(env!("ENFORCER_GATE_OBJECT"));

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
    #[error("read the eBPF object: {0}")]
    Object(String),
    #[error("open or create the map `{map}`")]
    CreateMap { map: String, source: io::Error },
    #[error("load `{program}`")]
    Program {
        program: &'static str,
        source: calls::Refused,
    },
    #[error("attach `{program}`")]
    Attach {
        program: &'static str,
        source: io::Error,
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
    #[error("pin `{object}`")]
    Pin {
        object: &'static str,
        source: io::Error,
    },
    #[error("open the program `{program}`")]
    Open {
        program: &'static str,
        source: io::Error,
    },
}

impl BpfError {
    /// Returns the error for an object that cannot be read or put together.
    fn object(error: impl std::fmt::Display) -> Self {
        Self::Object(error.to_string())
    }
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
    /// The objects that this agent has loaded; `None` if an earlier agent has pinned them.
    loaded: Option<Loaded>,
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
    // The kernel's types took several megabytes, which are free again.
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
    let loaded = match &pins {
        // The pinned programs are of this build, so nothing is loaded.
        Ok(pins) if pins.are_complete() => {
            pins.replace_older();
            None
        }
        Ok(pins) => {
            pins.begin().map_err(BpfError::NoPlace)?;
            // Half of them would be neither attached nor gone.
            let loaded = load(wanted, parent, Some(pins)).inspect_err(|_| pins.give_up());
            pins.replace_older();
            Some(loaded?)
        }
        Err(_) => Some(load(wanted, parent, None)?),
    };
    let mut attached = open(loaded, pins)?;
    attached.suspects = attached
        .open_sampler(parent_cgroup, sampling)
        .and_then(|clock| Ok((Arc::new(SuspectRing::take(&mut attached)?), clock)));
    Ok(attached)
}

/// Opens the maps of the attached programs.
fn open(mut loaded: Option<Loaded>, pins: Result<Pins, BpfError>) -> Result<Attached, BpfError> {
    let ring = open_ring(&mut |map| take_map(loaded.as_mut(), &pins, map))?;
    // Either of the two that have something to say.
    let mut marking = ["mark_victim_task", "mark_victim_pid"].into_iter();
    let logger = marking.find_map(|name| {
        let program = open_program(loaded.as_ref(), &pins, name).ok()?;
        let id = calls::program_info(program.as_fd()).ok()?.id;
        EbpfLogger::init_from_id(id).ok()
    });
    if logger.is_none() {
        tracing::warn!("the eBPF programs' own messages will not be seen");
    }
    Ok(Attached {
        loaded,
        pins,
        ring: Arc::new(ring),
        suspects: Err(BpfError::Off),
        messages: logger.map(Messages),
    })
}

/// Takes a map, by its pin if it has one.
fn take_map(
    loaded: Option<&mut Loaded>,
    pins: &Result<Pins, BpfError>,
    name: &'static str,
) -> Result<Map, BpfError> {
    if let Ok(pins) = pins {
        return pins.open(name);
    }
    let map = loaded.and_then(|loaded| loaded.take_map(name));
    let map = map.ok_or(BpfError::Missing(name))?;
    let failed = |source| BpfError::Map { map: name, source };
    Map::from_map_data(MapData::from_fd(map).map_err(failed)?).map_err(failed)
}

/// Opens a program, by its pin if it has one.
fn open_program(
    loaded: Option<&Loaded>,
    pins: &Result<Pins, BpfError>,
    program: &'static str,
) -> Result<OwnedFd, BpfError> {
    let opened = match (pins, loaded.and_then(|loaded| loaded.program(program))) {
        (Ok(pins), _) => calls::pinned(&pins.program(program)),
        (Err(_), Some(loaded)) => loaded.try_clone_to_owned(),
        (Err(_), None) => return Err(BpfError::Missing(program)),
    };
    opened.map_err(|source| BpfError::Open { program, source })
}

impl Attached {
    /// Opens the clock with the sampler behind it.
    fn open_sampler(
        &self,
        parent: &Cgroup,
        sampling: (SampleScope, u32),
    ) -> Result<CpuClock, BpfError> {
        let program = open_program(self.loaded.as_ref(), &self.pins, SAMPLER)?;
        CpuClock::open(program.as_fd(), parent, sampling).map_err(BpfError::CpuClock)
    }

    pub(super) fn take_map(&mut self, name: &'static str) -> Result<Map, BpfError> {
        take_map(self.loaded.as_mut(), &self.pins, name)
    }
}
