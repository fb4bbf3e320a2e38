//! Loads the eBPF programs, and hands out what they write. Which records mean
//! what is decided elsewhere. Needs Linux 5.8 (ring buffers), BTF, and CAP_BPF
//! with CAP_PERFMON; where one is missing, the error says which and the agent
//! goes on without.

mod btf;
mod pins;
pub(crate) mod suspects;

use crate::kernel::cgroupfs::Cgroup;
use crate::kernel::perf::cpu_clock::{CpuClock, SampleScope};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf};
use aya::pin::PinError;
use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, PerfEvent, ProgramError, ProgramInfo, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use btf::{BtfError, KernelTypes};
use enforcer_common::{EXITED, LIVES, Record, Watch};
use enforcer_core::event::{CgroupId, ExitStatus};
pub(crate) use pins::Pins;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use suspects::SuspectRing;

static OBJECT: &[u8] = include_bytes_aligned!(env!("ENFORCER_BPF_OBJECT"));

/// Which programs are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wanted {
    /// Whatever fits this kernel.
    Auto,
    /// As on kernels whose OOM tracepoint tells only a pid.
    Pid,
    /// None: counters alone.
    Off,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BpfError {
    #[error("it is switched off")]
    Off,
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

/// Attached programs; they detach when this goes, unless they are pinned.
pub(crate) struct Attached {
    ebpf: Option<Ebpf>,
    /// Where they outlive this agent; the error says why they don't.
    pub(crate) pins: Result<Pins, BpfError>,
    pub(crate) ring: Arc<EventRing>,
    /// Where threads that don't sleep are told; the error says why they are not.
    pub(crate) suspects: Result<(Arc<SuspectRing>, CpuClock), BpfError>,
    pub(crate) logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// An exit that happened while nobody waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PastExit {
    /// Whether it had executed a program by then.
    pub(crate) ran: bool,
    pub(crate) status: ExitStatus,
}

/// The ring of marks, and the two maps beside it.
pub(crate) struct EventRing {
    ring: Mutex<RingBuf<MapData>>,
    descriptor: OwnedFd,
    lost: Lost,
    watched: Mutex<HashMap<MapData, u32, [u8; 16]>>,
}

/// Records that found their ring full, by CPU, in the first slot; in the second, how
/// many of them were told, by whichever agent.
struct Lost(Mutex<PerCpuArray<MapData, u64>>);

impl Lost {
    fn newly(&self) -> u64 {
        let mut lost = lock(&self.0);
        let Ok(seen) = lost.get(&0, 0) else {
            return 0;
        };
        let Ok(told) = lost.get(&1, 0) else {
            return 0;
        };
        let mut told = told.to_vec();
        let total: u64 = seen.iter().sum();
        let newly = total.saturating_sub(told.iter().sum());
        if let (true, Some(first)) = (newly > 0, told.first_mut()) {
            *first += newly;
            let kept = PerCpuValues::try_from(told).map(|told| lost.set(1, told, 0));
            if !matches!(kept, Ok(Ok(()))) {
                tracing::debug!("lost records may be told again");
            }
        }
        newly
    }
}

impl std::fmt::Debug for EventRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRing")
            .field("descriptor", &self.descriptor)
            .finish_non_exhaustive()
    }
}

impl AsFd for EventRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding it leaves a ring or a map as good as before.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventRing {
    /// Hands every waiting record to `take`, in order, and holds the ring
    /// meanwhile: two drainers never interleave.
    pub(crate) fn drain(&self, mut take: impl FnMut(Record)) {
        let mut ring = lock(&self.ring);
        while let Some(bytes) = ring.next() {
            match Record::from_bytes(&bytes) {
                Some(record) => take(record),
                None => {
                    tracing::warn!("an eBPF record of {} bytes is not one of ours", bytes.len())
                }
            }
        }
    }

    /// Records that were lost since the last call.
    pub(crate) fn newly_lost(&self) -> u64 {
        self.lost.newly()
    }

    /// Asks for the exit of a process to be kept until it was read.
    pub(crate) fn watch(&self, pid: u32, start_ticks: u64) {
        let watch = Watch {
            start_ticks,
            ..Watch::default()
        };
        if let Err(error) = lock(&self.watched).insert(pid, watch.to_bytes(), 0) {
            tracing::debug!("the exit of {pid} will not be told by eBPF: {error}");
        }
    }

    /// The same for a process that another agent has asked for, unless none has: how it
    /// exited may be there already.
    pub(crate) fn watch_on(&self, pid: u32, start_ticks: u64) {
        let known = lock(&self.watched).get(&pid, 0).map(Watch::from_bytes);
        if known.is_ok_and(|watch| watch.start_ticks == start_ticks) {
            return;
        }
        self.watch(pid, start_ticks);
    }

    /// How a process exited that was watched since it started then.
    pub(crate) fn exit_of(&self, pid: u32, start_ticks: u64) -> Option<PastExit> {
        let bytes = lock(&self.watched).get(&pid, 0).ok()?;
        let watch = Watch::from_bytes(bytes);
        if watch.start_ticks != start_ticks || watch.state == LIVES {
            return None;
        }
        // As waitpid(2) has it: a signal in the low bits, or a code above them.
        let signal = i32::try_from(watch.status & 0x7f).unwrap_or(0);
        let code = i32::try_from(watch.status >> 8 & 0xff).unwrap_or(0);
        Some(PastExit {
            ran: watch.state == EXITED,
            status: match signal {
                0 => ExitStatus::Code(code),
                signal => ExitStatus::Signal(signal),
            },
        })
    }

    /// It was read, or never will be.
    pub(crate) fn forget(&self, pid: u32) {
        let _ = lock(&self.watched).remove(&pid);
    }
}

/// Loads and attaches what fits this kernel, for workloads below `parent`.
pub(crate) fn attach(
    wanted: Wanted,
    parent: (CgroupId, &Cgroup),
    sampling: (SampleScope, u32),
) -> Result<Attached, BpfError> {
    let attached = load_and_attach(wanted, parent, sampling);
    // Parsing the kernel's types took tens of megabytes that are free again: an
    // agent that held them would also pay for them at each fork.
    // SAFETY: no preconditions; it only returns free memory to the system.
    unsafe { libc::malloc_trim(0) };
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
    let pins = Pins::of(parent, &wanted).map_err(BpfError::NoPlace);
    let ebpf = match &pins {
        // Of this build, and as good as on the first day.
        Ok(pins) if pins.are_complete() => None,
        Ok(pins) => {
            pins.begin().map_err(BpfError::NoPlace)?;
            let mut ebpf = load(wanted, parent, Some(pins))?;
            keep_sampler(&mut ebpf, pins)?;
            pins.replace_older();
            Some(ebpf)
        }
        Err(_) => Some(load(wanted, parent, None)?),
    };
    let mut attached = open(ebpf, pins)?;
    attached.suspects = attached
        .open_sampler(parent_cgroup, sampling)
        .and_then(|clock| Ok((Arc::new(SuspectRing::take(&mut attached)?), clock)));
    Ok(attached)
}

/// Loads and attaches the programs, and pins what is to outlive this agent.
fn load(wanted: Wanted, parent: CgroupId, pins: Option<&Pins>) -> Result<Ebpf, BpfError> {
    let types = KernelTypes::of_running_kernel()?;
    let by_task = wanted == Wanted::Auto && types.tracepoint_takes_pointer("mark_victim")?;
    let offsets = offsets(&types)?;
    drop(types);
    let mut loader = EbpfLoader::new();
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    loader.override_global("PARENT_CGROUP", &parent.0, true);
    // 4 is debug: what is shown of it is the subscriber's affair.
    let level: u8 = if tracing::enabled!(tracing::Level::DEBUG) {
        4
    } else {
        3
    };
    loader.override_global("AYA_LOG_LEVEL", &level, true);
    for map in pins::MAPS {
        if let Some(pins) = pins {
            loader.map_pin_path(map, pins.map(map));
        }
    }
    let mut ebpf = loader.load(OBJECT)?;
    let types = Btf::from_sys_fs()?;
    attach_traced(
        &mut ebpf,
        ("process_exit", "sched_process_exit"),
        &types,
        pins,
    )?;
    if by_task {
        attach_traced(&mut ebpf, ("mark_victim_task", "mark_victim"), &types, pins)?;
    } else {
        attach_tracepoint(&mut ebpf, "mark_victim_pid", ("oom", "mark_victim"), pins)?;
    }
    let program = "cpu_sample";
    let failed = |source| BpfError::Program { program, source };
    sampler(&mut ebpf)?.load().map_err(failed)?;
    Ok(ebpf)
}

fn attach_traced(
    ebpf: &mut Ebpf,
    (program, hook): (&'static str, &'static str),
    types: &Btf,
    pins: Option<&Pins>,
) -> Result<(), BpfError> {
    let failed = |source| BpfError::Program { program, source };
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    let traced: &mut BtfTracePoint = found.try_into().map_err(failed)?;
    traced.load(hook, types).map_err(failed)?;
    let link = traced.attach().map_err(failed)?;
    if let Some(pins) = pins {
        let link: FdLink = traced.take_link(link).map_err(failed)?.into();
        keep_link(link, hook, pins)?;
        traced
            .pin(pins.program(program))
            .map_err(|source| BpfError::Pin { program, source })?;
    }
    Ok(())
}

fn attach_tracepoint(
    ebpf: &mut Ebpf,
    program: &'static str,
    hook: (&str, &'static str),
    pins: Option<&Pins>,
) -> Result<(), BpfError> {
    let failed = |source| BpfError::Program { program, source };
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    let traced: &mut TracePoint = found.try_into().map_err(failed)?;
    traced.load().map_err(failed)?;
    let link = traced.attach(hook.0, hook.1).map_err(failed)?;
    if let Some(pins) = pins {
        let link = traced.take_link(link).map_err(failed)?;
        let link = FdLink::try_from(link).map_err(|source| BpfError::Link { program, source })?;
        keep_link(link, hook.1, pins)?;
        traced
            .pin(pins.program(program))
            .map_err(|source| BpfError::Pin { program, source })?;
    }
    Ok(())
}

fn keep_link(link: FdLink, hook: &'static str, pins: &Pins) -> Result<(), BpfError> {
    let pinned = link.pin(pins.program(hook));
    let failed = |source| BpfError::Pin {
        program: hook,
        source,
    };
    pinned.map(drop).map_err(failed)
}

/// Last of all: it says that the others are there.
fn keep_sampler(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), BpfError> {
    let program = "cpu_sample";
    sampler(ebpf)?
        .pin(pins.program(program))
        .map_err(|source| BpfError::Pin { program, source })
}

fn sampler(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, BpfError> {
    let program = "cpu_sample";
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    found
        .try_into()
        .map_err(|source| BpfError::Program { program, source })
}

/// The maps of programs that are attached, by whomever.
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
        ebpf: ebpf,
        pins,
        ring: Arc::new(ring),
        suspects: Err(BpfError::Off),
        logger,
    })
}

/// A map, by its pin where it has one.
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
    /// aya knows no cgroup as a scope of perf events: they are opened by hand.
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

fn open_ring(
    take: &mut impl FnMut(&'static str) -> Result<Map, BpfError>,
) -> Result<EventRing, BpfError> {
    let failed = |map| move |source| BpfError::Map { map, source };
    let ring: RingBuf<MapData> = take("EVENTS")?.try_into().map_err(failed("EVENTS"))?;
    let lost: PerCpuArray<MapData, u64> = take("LOST")?.try_into().map_err(failed("LOST"))?;
    let watched: HashMap<MapData, u32, [u8; 16]> =
        take("WATCHED")?.try_into().map_err(failed("WATCHED"))?;
    Ok(EventRing {
        descriptor: ring
            .as_fd()
            .try_clone_to_owned()
            .map_err(BpfError::Duplicate)?,
        ring: Mutex::new(ring),
        lost: Lost(Mutex::new(lost)),
        watched: Mutex::new(watched),
    })
}

/// Where the programs find each field; the names are those of `task.rs` there.
fn offsets(types: &KernelTypes) -> Result<Vec<(&'static str, u64)>, BtfError> {
    const FIELDS: [(&str, &str, &str); 19] = [
        ("TASK_PID", "task_struct", "pid"),
        ("TASK_NVCSW", "task_struct", "nvcsw"),
        ("TASK_TGID", "task_struct", "tgid"),
        ("TASK_COMM", "task_struct", "comm"),
        ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
        ("TASK_FLAGS", "task_struct", "flags"),
        ("TASK_GROUP_LEADER", "task_struct", "group_leader"),
        ("TASK_EXIT_CODE", "task_struct", "exit_code"),
        ("TASK_SIGNAL", "task_struct", "signal"),
        ("TASK_MM", "task_struct", "mm"),
        ("TASK_CGROUPS", "task_struct", "cgroups"),
        ("SIGNAL_LIVE", "signal_struct", "live"),
        ("SIGNAL_GROUP_EXIT_CODE", "signal_struct", "group_exit_code"),
        ("CSS_SET_DFL_CGRP", "css_set", "dfl_cgrp"),
        ("CGROUP_KN", "cgroup", "kn"),
        ("CGROUP_LEVEL", "cgroup", "level"),
        ("CGROUP_ANCESTORS", "cgroup", "ancestors"),
        ("KERNFS_NODE_ID", "kernfs_node", "id"),
        ("MM_PGTABLES_BYTES", "mm_struct", "pgtables_bytes"),
    ];
    let mut offsets = Vec::new();
    for (name, structure, member) in FIELDS {
        offsets.push((name, types.member(structure, member)?.offset));
    }
    let entity = types.member("task_struct", "se")?.offset;
    let runtime = types.member("sched_entity", "sum_exec_runtime")?.offset;
    offsets.push(("TASK_SUM_EXEC_RUNTIME", entity + runtime));
    // An array of long since ever; since 6.2 one of percpu_counter.
    let counters = types.member("mm_struct", "rss_stat")?;
    let (first, stride) = match types.element_size(counters) {
        Some(size) => (
            counters.offset + types.member("percpu_counter", "count")?.offset,
            size,
        ),
        None => (counters.offset, 8),
    };
    offsets.extend([("MM_RSS_STAT", first), ("MM_RSS_STRIDE", stride)]);
    Ok(offsets)
}
