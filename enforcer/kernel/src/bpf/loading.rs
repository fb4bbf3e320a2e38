//! Gets the programs into the kernel: where each field is on this one, which of them fit
//! it, and what is pinned.
//!
//! aya's own loader begins by reading all of the kernel's types into a tree (docs/decisions/0018 has the
//! cost). Our programs do not need the tree, because the offsets of the fields that they read are
//! globals. So aya's parser reads the object, and bare calls do the rest.

use super::btf::{BtfError, KernelTypes};
use super::calls::{self, Kind, Shape};
use super::{BpfError, OBJECT, Pins, Wanted, pins};
use crate::perf;
use aya_obj::{EbpfSectionKind, Object};
use enforcer_model::ids::CgroupId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The maps, programs and links that this agent has loaded. Those that are not pinned end when this is dropped.
pub(super) struct Loaded {
    maps: BTreeMap<String, OwnedFd>,
    programs: BTreeMap<&'static str, OwnedFd>,
    links: Vec<OwnedFd>,
}

impl Loaded {
    /// Takes a map out.
    pub(super) fn take_map(&mut self, name: &str) -> Option<OwnedFd> {
        self.maps.remove(name)
    }

    /// Returns a program.
    pub(super) fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.programs.get(name).map(OwnedFd::as_fd)
    }
}

/// Loads and attaches the programs, and pins what is to outlive this agent.
pub(super) fn load(
    wanted: Wanted,
    parent: CgroupId,
    pins: Option<&Pins>,
) -> Result<Loaded, BpfError> {
    let types = KernelTypes::of_running_kernel()?;
    let by_task = wanted == Wanted::Auto && types.tracepoint_takes_pointer("mark_victim")?;
    let offsets = offsets(&types)?;
    drop(types);
    let mut loader = Loader::of(&offsets, parent, pins)?;
    for (program, tracepoint) in [
        ("process_exit", "sched_process_exit"),
        ("process_free", "sched_process_free"),
        ("process_moved", "cgroup_attach_task"),
    ] {
        loader.attach_raw(program, tracepoint)?;
    }
    if by_task {
        loader.attach_raw("mark_victim_task", "mark_victim")?;
    } else {
        loader.attach_tracepoint("mark_victim_pid", ("oom", "mark_victim"))?;
    }
    loader.load(SAMPLER, Kind::PerfEvent)?;
    if let Some(pins) = pins {
        // The last pin, which says that the others are complete.
        loader.keep(SAMPLER, pins)?;
    }
    Ok(loader.loaded)
}

/// The program behind the CPU clock.
pub(super) const SAMPLER: &str = "cpu_sample";

/// The object, whose programs are loaded one by one.
struct Loader<'a> {
    object: Object,
    pins: Option<&'a Pins>,
    loaded: Loaded,
}

impl<'a> Loader<'a> {
    /// Reads the object, sets its globals and makes its maps.
    fn of(
        offsets: &[(&'static str, u64)],
        parent: CgroupId,
        pins: Option<&'a Pins>,
    ) -> Result<Self, BpfError> {
        let mut object = Object::parse(OBJECT).map_err(BpfError::object)?;
        let bytes: Vec<_> = offsets
            .iter()
            .map(|(name, offset)| (*name, offset.to_ne_bytes()))
            .chain([("PARENT_CGROUP", parent.0.to_ne_bytes())])
            .collect();
        let mut globals: HashMap<&str, (&[u8], bool)> = bytes
            .iter()
            .map(|(name, bytes)| (*name, (bytes.as_slice(), true)))
            .collect();
        // 4 is debug. The subscriber decides what is shown.
        let level: &[u8] = if tracing::enabled!(tracing::Level::DEBUG) {
            &[4]
        } else {
            &[3]
        };
        globals.insert("AYA_LOG_LEVEL", (level, true));
        object.patch_map_data(globals).map_err(BpfError::object)?;
        let place = |name: &str| {
            let pins = pins.filter(|_| pins::MAPS.contains(&name));
            pins.map(|pins| pins.map(name))
        };
        let (object, maps) = with_maps(object, &place)?;
        Ok(Self {
            object,
            pins,
            loaded: Loaded {
                maps,
                programs: BTreeMap::new(),
                links: Vec::new(),
            },
        })
    }

    fn load(&mut self, name: &'static str, kind: Kind) -> Result<(), BpfError> {
        let loaded = load_program(&self.object, name, kind)?;
        self.loaded.programs.insert(name, loaded);
        Ok(())
    }

    /// Attaches a program to a tracepoint whose arguments it takes as they are.
    fn attach_raw(
        &mut self,
        program: &'static str,
        tracepoint: &'static str,
    ) -> Result<(), BpfError> {
        self.load(program, Kind::RawTracepoint)?;
        let link = calls::attach_raw(self.program(program)?, tracepoint);
        self.attached(program, tracepoint, link)
    }

    /// Attaches a program to a tracepoint whose record it reads.
    fn attach_tracepoint(
        &mut self,
        program: &'static str,
        (category, tracepoint): (&str, &'static str),
    ) -> Result<(), BpfError> {
        self.load(program, Kind::Tracepoint)?;
        let loaded = self.program(program)?;
        // The link keeps the event.
        let link = perf::tracepoint(category, tracepoint)
            .and_then(|event| calls::attach_event(loaded, event.as_fd()));
        self.attached(program, tracepoint, link)
    }

    fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, BpfError> {
        self.loaded.program(name).ok_or(BpfError::Missing(name))
    }

    /// Keeps a link, and pins it with its program.
    fn attached(
        &mut self,
        program: &'static str,
        tracepoint: &'static str,
        link: std::io::Result<OwnedFd>,
    ) -> Result<(), BpfError> {
        let link = link.map_err(|source| BpfError::Attach { program, source })?;
        if let Some(pins) = self.pins {
            let pinned = calls::pin(link.as_fd(), &pins.program(tracepoint));
            pinned.map_err(|source| BpfError::Pin {
                object: tracepoint,
                source,
            })?;
            self.keep(program, pins)?;
        }
        self.loaded.links.push(link);
        Ok(())
    }

    fn keep(&self, program: &'static str, pins: &Pins) -> Result<(), BpfError> {
        let pinned = calls::pin(self.program(program)?, &pins.program(program));
        pinned.map_err(|source| BpfError::Pin {
            object: program,
            source,
        })
    }
}

/// Makes the maps of an object, and puts them into its programs. `place` says where a map is pinned.
pub(super) fn with_maps(
    mut object: Object,
    place: &dyn Fn(&str) -> Option<PathBuf>,
) -> Result<(Object, BTreeMap<String, OwnedFd>), BpfError> {
    let mut maps = BTreeMap::new();
    for (name, map) in &object.maps {
        maps.insert(name.clone(), open_map(name, map, place(name).as_deref())?);
    }
    let sections: HashSet<usize> = object.functions.keys().map(|(index, _)| *index).collect();
    let definitions = object.maps.clone();
    let found = maps.iter().filter_map(|(name, descriptor)| {
        let definition = definitions.get(name)?;
        Some((name.as_str(), descriptor.as_raw_fd(), definition))
    });
    object
        .relocate_maps(found, &sections)
        .map_err(BpfError::object)?;
    object.relocate_calls(&sections).map_err(BpfError::object)?;
    Ok((object, maps))
}

/// Loads a program of an object whose maps are made.
pub(super) fn load_program(
    object: &Object,
    name: &'static str,
    kind: Kind,
) -> Result<OwnedFd, BpfError> {
    let found = object.programs.get(name);
    let program = found.ok_or(BpfError::Missing(name))?;
    let function = object.functions.get(&program.function_key());
    let instructions = &function.ok_or(BpfError::Missing(name))?.instructions;
    let loaded = calls::load_program(name, kind, instructions, &program.license);
    loaded.map_err(|source| BpfError::Program {
        program: name,
        source,
    })
}

/// Opens a map that an agent before has pinned at this place, or creates it.
fn open_map(name: &str, map: &aya_obj::Map, path: Option<&Path>) -> Result<OwnedFd, BpfError> {
    let failed = |source| BpfError::CreateMap {
        map: name.to_owned(),
        source,
    };
    if let Some(path) = path {
        match calls::pinned(path) {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let shape = Shape {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
        flags: map.map_flags(),
    };
    let created = calls::create_map(name, shape).map_err(failed)?;
    if map.section_kind() == EbpfSectionKind::Rodata {
        calls::fill_and_freeze(created.as_fd(), map.data()).map_err(failed)?;
    }
    if let Some(path) = path {
        calls::pin(created.as_fd(), path).map_err(failed)?;
    }
    Ok(created)
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
