//! Loads the eBPF programs, and hands out what they write. Which records mean
//! what is decided elsewhere. Needs Linux 5.8 (ring buffers), BTF, and CAP_BPF
//! with CAP_PERFMON; where one is missing, the error says which and the agent
//! goes on without.

mod btf;
pub(crate) mod suspects;

use crate::kernel::cgroupfs::Cgroup;
use crate::kernel::perf::cpu_clock::{CpuClock, SampleScope};
use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, PerfEvent, ProgramError, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use btf::{BtfError, KernelTypes};
use enforcer_common::Record;
use enforcer_core::event::CgroupId;
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
}

/// Attached programs; they detach when this goes.
pub(crate) struct Attached {
    _ebpf: Ebpf,
    pub(crate) ring: Arc<EventRing>,
    /// Where threads that don't sleep are told; the error says why they are not.
    pub(crate) suspects: Result<(Arc<SuspectRing>, CpuClock), BpfError>,
    pub(crate) logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// The ring of marks and exits, and the two maps beside it.
pub(crate) struct EventRing {
    ring: Mutex<RingBuf<MapData>>,
    descriptor: OwnedFd,
    lost: Lost,
    watched: Mutex<HashMap<MapData, u32, u8>>,
}

/// Records that found their ring full, by CPU, and how many were told already.
struct Lost(Mutex<(PerCpuArray<MapData, u64>, u64)>);

impl Lost {
    fn newly(&self) -> u64 {
        let mut lost = lock(&self.0);
        let total = lost
            .0
            .get(&0, 0)
            .map(|values| values.iter().sum())
            .unwrap_or(lost.1);
        let newly = total - lost.1.min(total);
        lost.1 = total;
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

    /// Asks for the exit of a process to be told.
    pub(crate) fn watch(&self, pid: u32) {
        if let Err(error) = lock(&self.watched).insert(pid, 0, 0) {
            tracing::debug!("the exit of {pid} will not be told by eBPF: {error}");
        }
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
    let mut ebpf = loader.load(OBJECT)?;
    let types = Btf::from_sys_fs()?;
    attach_traced(&mut ebpf, "process_exit", "sched_process_exit", &types)?;
    if by_task {
        attach_traced(&mut ebpf, "mark_victim_task", "mark_victim", &types)?;
    } else {
        attach_tracepoint(&mut ebpf, "mark_victim_pid", ("oom", "mark_victim"))?;
    }
    let ring = open_ring(&mut ebpf)?;
    let suspects = attach_sampler(&mut ebpf, parent_cgroup, sampling);
    let logger = EbpfLogger::init(&mut ebpf)
        .inspect_err(|error| {
            tracing::warn!("the eBPF programs' own messages will not be seen: {error}")
        })
        .ok();
    Ok(Attached {
        _ebpf: ebpf,
        ring: Arc::new(ring),
        suspects,
        logger,
    })
}

fn attach_traced(
    ebpf: &mut Ebpf,
    program: &'static str,
    hook: &str,
    types: &Btf,
) -> Result<(), BpfError> {
    let failed = |source| BpfError::Program { program, source };
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    let traced: &mut BtfTracePoint = found.try_into().map_err(failed)?;
    traced.load(hook, types).map_err(failed)?;
    traced.attach().map_err(failed)?;
    Ok(())
}

fn attach_tracepoint(
    ebpf: &mut Ebpf,
    program: &'static str,
    hook: (&str, &str),
) -> Result<(), BpfError> {
    let failed = |source| BpfError::Program { program, source };
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    let traced: &mut TracePoint = found.try_into().map_err(failed)?;
    traced.load().map_err(failed)?;
    traced.attach(hook.0, hook.1).map_err(failed)?;
    Ok(())
}

/// aya knows no cgroup as a scope of perf events: they are opened by hand.
fn attach_sampler(
    ebpf: &mut Ebpf,
    parent: &Cgroup,
    sampling: (SampleScope, u32),
) -> Result<(Arc<SuspectRing>, CpuClock), BpfError> {
    let program = "cpu_sample";
    let failed = |source| BpfError::Program { program, source };
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    let sampler: &mut PerfEvent = found.try_into().map_err(failed)?;
    sampler.load().map_err(failed)?;
    let descriptor = sampler.fd().map_err(failed)?.as_fd();
    let clock = CpuClock::open(descriptor, parent, sampling).map_err(BpfError::CpuClock)?;
    Ok((Arc::new(SuspectRing::take(ebpf)?), clock))
}

fn open_ring(ebpf: &mut Ebpf) -> Result<EventRing, BpfError> {
    let failed = |map| move |source| BpfError::Map { map, source };
    let mut take = |map| ebpf.take_map(map).ok_or(BpfError::Missing(map));
    let ring: RingBuf<MapData> = take("EVENTS")?.try_into().map_err(failed("EVENTS"))?;
    let lost: PerCpuArray<MapData, u64> = take("LOST")?.try_into().map_err(failed("LOST"))?;
    let watched: HashMap<MapData, u32, u8> =
        take("WATCHED")?.try_into().map_err(failed("WATCHED"))?;
    Ok(EventRing {
        descriptor: ring
            .as_fd()
            .try_clone_to_owned()
            .map_err(BpfError::Duplicate)?,
        ring: Mutex::new(ring),
        lost: Lost(Mutex::new((lost, 0))),
        watched: Mutex::new(watched),
    })
}

/// Where the programs find each field; the names are those of `task.rs` there.
fn offsets(types: &KernelTypes) -> Result<Vec<(&'static str, u64)>, BtfError> {
    const FIELDS: [(&str, &str, &str); 17] = [
        ("TASK_PID", "task_struct", "pid"),
        ("TASK_NVCSW", "task_struct", "nvcsw"),
        ("TASK_TGID", "task_struct", "tgid"),
        ("TASK_COMM", "task_struct", "comm"),
        ("TASK_START_BOOTTIME", "task_struct", "start_boottime"),
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
