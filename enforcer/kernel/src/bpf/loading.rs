//! Gets the programs into the kernel: where each field is on this one, which of them fit
//! it, and what is pinned.

use super::btf::{BtfError, KernelTypes};
use super::{BpfError, OBJECT, Pins, Wanted, pins};
use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, PerfEvent, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use enforcer_model::ids::CgroupId;

/// Loads and attaches the programs, and pins what is to outlive this agent.
pub(super) fn load(
    wanted: Wanted,
    parent: CgroupId,
    pins: Option<&Pins>,
) -> Result<Ebpf, BpfError> {
    let types = KernelTypes::of_running_kernel()?;
    let by_task = wanted == Wanted::Auto && types.tracepoint_takes_pointer("mark_victim")?;
    let offsets = offsets(&types)?;
    drop(types);
    let mut loader = EbpfLoader::new();
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    loader.override_global("PARENT_CGROUP", &parent.0, true);
    // 4 is debug. The subscriber decides what is shown.
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
    for traced in [
        ("process_exit", "sched_process_exit"),
        ("process_free", "sched_process_free"),
    ] {
        attach_traced(&mut ebpf, traced, &types, pins)?;
    }
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

/// Pins the sampler. It is the last pin, and says that the others are complete.
pub(super) fn keep_sampler(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), BpfError> {
    let program = "cpu_sample";
    sampler(ebpf)?
        .pin(pins.program(program))
        .map_err(|source| BpfError::Pin { program, source })
}

pub(super) fn sampler(ebpf: &mut Ebpf) -> Result<&mut PerfEvent, BpfError> {
    let program = "cpu_sample";
    let found = ebpf
        .program_mut(program)
        .ok_or(BpfError::Missing(program))?;
    found
        .try_into()
        .map_err(|source| BpfError::Program { program, source })
}

/// Returns the offsets of the fields that the programs read. The names are those in
/// `enforcer-ebpf/src/task.rs`.
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
