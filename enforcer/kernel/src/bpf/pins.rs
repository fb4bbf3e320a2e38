//! Pins the eBPF programs below `/sys/fs/bpf`, where they run on without an agent. So the next agent
//! finds an OOM kill or an exit between the two.
//!
//! ```text
//! enforcer/v4-CGROUP/        the ABI of the maps, and the cgroup of all workloads
//!   EVENTS, LOST, …          maps: they outlive the programs that fill them
//!   programs-BUILD/          of one build, complete once `cpu_sample` is there
//!     process_exit, process_free, process_moved, mark_victim_task or mark_victim_pid, cpu_sample
//!     sched_process_exit, sched_process_free, cgroup_attach_task, mark_victim      their links
//! enforcer/gate-vABI-CGROUP/   the gate's own (`gate.rs`)
//! ```
//!
//! An agent of another build loads its own programs over the same maps, and removes the older ones
//! after that. Nothing is missed, and an event that both saw is reported once. This needs bpffs
//! (Linux 4.4) and links that can be pinned (Linux 5.8).

use super::BpfError;
use aya::maps::{Map, MapData};
use enforcer_common::ABI_VERSION;
use enforcer_model::ids::CgroupId;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Every map that is shared. What is in them is said by the ABI's version.
pub(super) const MAPS: [&str; 10] = [
    "EVENTS",
    "LOST",
    "WATCHED",
    "MOVED",
    "GROUPS",
    "ATTACHED",
    "SUSPECTS",
    "SUSPECTS_LOST",
    "BUDGETS",
    "STREAKS",
];

/// The folders of one agent's tree.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
    /// The folder of the gate's pins (`gate.rs`). The gate is loaded for the first workload with `ports`.
    gate: PathBuf,
    programs: PathBuf,
}

impl Pins {
    /// Returns the pins for workloads below this cgroup. `variant` is what programs of one build
    /// may differ in.
    pub(super) fn of(parent: CgroupId, variant: &impl std::fmt::Debug) -> io::Result<Self> {
        let base = base()?;
        let folder = base.join(format!("v{ABI_VERSION}-{}", parent.0));
        let gate = base.join(gate_name(parent));
        let mut build = DefaultHasher::new();
        (super::OBJECT, format!("{variant:?}")).hash(&mut build);
        let programs = folder.join(format!("programs-{:016x}", build.finish()));
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(&folder)?;
        Ok(Self {
            folder,
            gate,
            programs,
        })
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Returns whether this build's programs are attached.
    pub(super) fn are_complete(&self) -> bool {
        self.program("cpu_sample").exists()
    }

    /// Makes room for this build's programs.
    pub(super) fn begin(&self) -> io::Result<()> {
        remove(&self.programs);
        fs::create_dir(&self.programs)
    }

    /// Removes pins that could not be completed.
    pub(super) fn give_up(&self) {
        remove(&self.programs);
    }

    /// Takes away what older builds have attached.
    pub(super) fn replace_older(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path != self.programs {
                remove(&path);
            }
        }
    }

    /// Opens a pinned map.
    pub(super) fn open(&self, name: &'static str) -> Result<Map, BpfError> {
        let failed = |source| BpfError::Map { map: name, source };
        let data = MapData::from_pin(self.map(name)).map_err(failed)?;
        Map::from_map_data(data).map_err(failed)
    }

    /// Detaches everything, for good: no workload is left to be watched.
    pub fn remove(&self) {
        remove(&self.folder);
        remove(&self.gate);
        if let Some(base) = self.folder.parent() {
            // The pins of other agents stay.
            let _ = fs::remove_dir(base);
        }
    }
}

/// Returns the folder of all pins.
fn base() -> io::Result<PathBuf> {
    let mounted = statfs(MOUNT_POINT).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if !mounted {
        let why = format!("{MOUNT_POINT} is no bpf file system");
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(Path::new(MOUNT_POINT).join("enforcer"))
}

fn gate_name(parent: CgroupId) -> String {
    format!("gate-v{}-{}", enforcer_common::gate::ABI, parent.0)
}

/// Returns whether there are pins of the gate for workloads below this cgroup.
pub(super) fn has_gate(parent: CgroupId) -> bool {
    base().is_ok_and(|base| base.join(gate_name(parent)).exists())
}

/// Returns the folder of the gate's pins for workloads below this cgroup, and makes it.
pub(super) fn gate_folder(parent: CgroupId) -> io::Result<PathBuf> {
    let folder = base()?.join(gate_name(parent));
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Removes a folder with all pins in it.
pub(super) fn remove(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove(&path);
        } else {
            let _ = fs::remove_file(path);
        }
    }
    let _ = fs::remove_dir(folder);
}
