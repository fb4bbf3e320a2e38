//! The agent's part of the cgroup tree, made ready before anything starts:
//!
//! ```text
//! ROOT/              delegated to the agent, or made by it
//!   supervisor/      the agent itself, if it was above or in ROOT before
//!   holder/          the process that keeps the workloads' outputs
//!   probes/          commands that check on a workload, each in one of its own
//!   workloads/       the ceiling of all workloads together
//!     NAME/          one workload
//!     NAME.replicas/ the replicas of one workload (`places.rs`)
//! ```
//!
//! Whatever is wrong with the host's hierarchy is refused here, with the file,
//! the error number and the cure.

mod delegation;
mod places;
mod refusal;

use super::cgroupfs::{Cgroup, CgroupError, MOUNT_POINT};
use cgroups_rs::hierarchies::is_cgroup2_unified_mode;
use enforcer_model::ReplicaId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use delegation::{end_what_is_left, enter_scope, make_room};
use delegation::{has_delegation, in_scope, is_delegated, own_cgroup};
pub use refusal::HierarchyError;
use refusal::{chain, cure, refine};

/// Enabled wherever the kernel has them; the first three are needed by every host. Another one, such as
/// `hugetlb`, is enabled if a limit asks for it: its files make every cgroup more expensive.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers, each with a file that asks for it.
pub type Asked = BTreeMap<&'static str, &'static str>;

const HOLDER: &str = "holder";
/// The holder's limits. A workload that writes much must not take CPU time from the others.
const OF_HOLDER: [(&str, &str); 2] = [("memory.max", "64M"), ("cpu.weight", "100")];
/// The longest wait for the processes that the agent itself has started.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// The state that the agent before this one has left.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The root of its tree; `None` if it left no workloads.
    pub root: Option<PathBuf>,
    /// The root that an earlier agent has made.
    pub made_root: Option<PathBuf>,
    pub workloads: BTreeSet<String>,
}

/// The agent's cgroups, ready for workloads.
#[derive(Debug)]
pub struct Tree {
    root: Cgroup,
    probes: Cgroup,
    workloads: Arc<Cgroup>,
    /// `workloads/` and everything above it whose limits also hold.
    ancestors: Arc<Vec<Cgroup>>,
    /// The cgroup of the agent before it moved to `supervisor/`; `None` if it stayed.
    origin: Option<PathBuf>,
    /// This agent or an earlier one made the root. It is removed when the agent goes.
    made_root: bool,
    /// A service manager has delegated the root, and what is above it is not ours.
    delegated: bool,
    /// The notes for the host's administrator.
    notes: Vec<String>,
    /// Held while the cgroup of a replica, or the one above it, is made or removed.
    groups: Mutex<()>,
}

impl Tree {
    pub fn workloads(&self) -> &Arc<Cgroup> {
        &self.workloads
    }

    /// Returns whether the tree still exists.
    pub fn is_there(&self) -> bool {
        self.workloads.is_there() && self.probes.is_there()
    }

    pub fn probes(&self) -> &Cgroup {
        &self.probes
    }

    pub fn ancestors(&self) -> &Arc<Vec<Cgroup>> {
        &self.ancestors
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the root, if the agent may set its protection. The protections of its children
    /// depend on it.
    pub fn own_root(&self) -> Option<&Cgroup> {
        self.made_root.then_some(&self.root)
    }

    /// Returns the path of the root, and whether an agent has made it.
    pub fn root(&self) -> (&Path, bool) {
        (self.root.path(), self.made_root)
    }

    /// Returns the holder's cgroup.
    pub fn holder(&self) -> PathBuf {
        self.root.path().join(HOLDER)
    }

    /// Prepares the tree for workloads that need these controllers, each with the
    /// file that asks for it.
    pub fn prepare(
        requested: Option<&Path>,
        asked: &Asked,
        inherited: &Inherited,
    ) -> Result<Self, HierarchyError> {
        let requested = inherited.root.as_deref().or(requested);
        check_mount()?;
        let origin = own_cgroup()?;
        let mut notes = Vec::new();
        let (path, delegated) = match requested {
            Some(path) => (path.to_owned(), has_delegation(path)),
            None if is_delegated(&origin) => (origin.clone(), true),
            None => (Path::new(MOUNT_POINT).join("enforcer"), false),
        };
        let inherited_root = inherited.made_root.as_deref() == Some(path.as_path());
        let made_root = inherited_root || !path.exists() && !delegated;
        // An agent outside the root stays where its service manager has put it. An agent in a scope
        // moves: a scope ends with its last process, so one that an earlier agent left needs this
        // one.
        let moves = path.starts_with(&origin) || in_scope();
        let prepared = (|| {
            if !delegated {
                make_way(&path, asked, &mut notes)?;
            }
            populate(&path, moves, asked, &inherited.workloads)
        })();
        let (root, probes, workloads) = prepared.inspect_err(|_| {
            if made_root {
                // A part that was made for nothing is removed. A part that is in use stays.
                let _ = std::fs::remove_dir(&path);
            }
        })?;
        Ok(Self {
            ancestors: Arc::new(ancestors_of(workloads.path())?),
            root,
            probes,
            workloads: Arc::new(workloads),
            origin: moves.then_some(origin),
            made_root,
            delegated,
            notes,
            groups: Mutex::default(),
        })
    }

    /// Enables the controllers that limits of a workload ask for after [`Self::prepare`]. If one cannot be
    /// enabled, the write of the limit fails and says so.
    pub fn enable(&self, workload: &ReplicaId, asked: &Asked) {
        if asked
            .keys()
            .all(|controller| CONTROLLERS.contains(controller))
        {
            return;
        }
        let mut notes = Vec::new();
        let enabled = (|| {
            if !self.delegated {
                make_way(self.root.path(), asked, &mut notes)?;
            }
            enable(&self.root, asked)?;
            enable(&self.workloads, asked)?;
            match self.group(workload).map_err(refine)? {
                Some(group) => places::hand_down_all(&group).map_err(refine),
                None => Ok(()),
            }
        })();
        for note in notes {
            tracing::info!("{note}");
        }
        if let Err(error) = enabled {
            tracing::debug!("failed to enable controllers: {error}");
        }
    }

    /// Leaves the host as it was found, as far as the host lets us. A holder that a service
    /// manager has started stays.
    pub fn dissolve(&self, holder_has_ended: bool) {
        let own = std::process::id().to_string();
        let clear = || {
            let emptied = self.probes.kill_and_wait(LEFT_BEHIND);
            emptied.and_then(|()| self.root.remove_child("probes"))
        };
        // A process that was just starting may come between the two.
        let probes = clear().or_else(|_| clear());
        let back = probes.and_then(|()| self.root.remove_child("workloads"));
        let back = back.and_then(|()| match holder_has_ended {
            true => {
                Cgroup::open(&self.holder())?.kill_and_wait(LEFT_BEHIND)?;
                self.root.remove_child(HOLDER)
            }
            false => Ok(()),
        });
        let back = back.and_then(|()| {
            let Some(origin) = self.origin.as_ref().filter(|origin| origin.exists()) else {
                return Ok(());
            };
            // A delegated root takes its process back only without controllers.
            let handed_down = self.root.read("cgroup.subtree_control")?;
            for controller in handed_down.split_whitespace() {
                let _ = self
                    .root
                    .write("cgroup.subtree_control", &format!("-{controller}"));
            }
            Cgroup::open(origin)?.write("cgroup.procs", &own)?;
            // A child that still looks up names would keep it from going.
            let supervisor = Cgroup::open(&self.root.path().join("supervisor"))?;
            supervisor.kill_and_wait(LEFT_BEHIND)?;
            self.root.remove_child("supervisor")
        });
        if let Err(error) = back {
            tracing::warn!("cgroups are left behind: failed to {}", chain(&error));
            return;
        }
        if self.made_root {
            let removed = std::fs::remove_dir(self.root.path());
            if let Err(error) = removed {
                tracing::warn!("{} is left behind: {error}", self.root.path().display());
            }
        }
    }
}

/// Makes the root's branches, and moves this process into the one where it must.
fn populate(
    path: &Path,
    moves: bool,
    asked: &Asked,
    inherited: &BTreeSet<String>,
) -> Result<(Cgroup, Cgroup, Cgroup), HierarchyError> {
    let root = Cgroup::open(path)?;
    check_controllers(&root, asked)?;
    if moves {
        retreat(&root, "supervisor")?;
    }
    enable(&root, asked)?;
    let workloads = root.ensure_child("workloads").map_err(refine)?;
    refuse_occupied(&workloads, inherited)?;
    enable(&workloads, asked)?;
    // The commands of a dead agent are ended: no agent waits for their answers.
    if let Ok(left) = Cgroup::open(&path.join("probes")) {
        let removed = left.kill_and_wait(LEFT_BEHIND);
        if let Err(error) = removed.and_then(|()| root.remove_child("probes")) {
            // A process that hangs in the kernel must not delay the workloads.
            tracing::warn!("failed to {}; it stays", chain(&error));
        }
    }
    let probes = root.ensure_child("probes").map_err(refine)?;
    enable(&probes, &Asked::new())?;
    let holder = root.ensure_child(HOLDER).map_err(refine)?;
    for (file, value) in OF_HOLDER {
        if let Err(error) = holder.write(file, value) {
            tracing::warn!("the holder is not limited: failed to {}", chain(&error));
        }
    }
    Ok((root, probes, workloads))
}

/// Moves this process into a leaf: a cgroup with processes can't hand controllers down.
fn retreat(root: &Cgroup, leaf: &str) -> Result<(), HierarchyError> {
    let leaf = root.ensure_child(leaf).map_err(refine)?;
    let own = std::process::id().to_string();
    leaf.write("cgroup.procs", &own).map_err(refine)
}

fn check_mount() -> Result<(), HierarchyError> {
    if is_cgroup2_unified_mode() {
        return Ok(());
    }
    let mount = Path::new(MOUNT_POINT);
    let found = if mount.join("unified").is_dir() {
        "a hybrid of v1 and v2"
    } else if mount.join("memory").is_dir() {
        "v1"
    } else if mount.is_dir() {
        "no cgroup file system"
    } else {
        "nothing"
    };
    Err(HierarchyError::NotV2 {
        path: MOUNT_POINT.to_owned(),
        found,
    })
}

/// Makes the root below the mount point, with every controller on the way.
fn make_way(path: &Path, asked: &Asked, notes: &mut Vec<String>) -> Result<(), HierarchyError> {
    let Ok(relative) = path.strip_prefix(MOUNT_POINT) else {
        return Err(HierarchyError::NotV2 {
            path: path.display().to_string(),
            found: "a path outside the mount point",
        });
    };
    let mut cgroup = Cgroup::open(Path::new(MOUNT_POINT))?;
    for part in relative.components() {
        let enabled = enable(&cgroup, asked)?;
        if !enabled.is_empty() && cgroup.path() == Path::new(MOUNT_POINT) {
            notes.push(format!(
                "enabled {} in {MOUNT_POINT}/cgroup.subtree_control",
                enabled.join(", ")
            ));
        }
        cgroup = cgroup
            .ensure_child(&part.as_os_str().to_string_lossy())
            .map_err(refine)?;
    }
    Ok(())
}

/// Hands the usual controllers, and those that are asked for, down to the children.
fn enable(cgroup: &Cgroup, asked: &Asked) -> Result<Vec<&'static str>, HierarchyError> {
    let available = cgroup.read("cgroup.controllers")?;
    let present = cgroup.read("cgroup.subtree_control")?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    let mut enabled = Vec::new();
    let more = asked.keys().copied();
    let more = more.filter(|controller| !CONTROLLERS.contains(controller));
    for controller in CONTROLLERS.into_iter().chain(more) {
        if has(&available, controller) && !has(&present, controller) {
            match cgroup.write("cgroup.subtree_control", &format!("+{controller}")) {
                Ok(()) => enabled.push(controller),
                Err(error) if NEEDED.contains(&controller) => return Err(refine(error)),
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }
    Ok(enabled)
}

fn check_controllers(root: &Cgroup, asked: &Asked) -> Result<(), HierarchyError> {
    let available = root.read("cgroup.controllers")?;
    let needed = NEEDED
        .iter()
        .map(|controller| (*controller, asked.get(controller).copied()));
    let more = asked
        .iter()
        .map(|(controller, file)| (*controller, Some(*file)));
    for (controller, file) in needed.chain(more) {
        if !available.split_whitespace().any(|word| word == controller) {
            return Err(HierarchyError::NoController {
                path: root.path().join("cgroup.controllers"),
                controller: controller.to_owned(),
                available: available.trim().to_owned(),
                file: file.map(str::to_owned),
                cure: cure(controller),
            });
        }
    }
    Ok(())
}

/// Refuses cgroups that no earlier agent of ours has left.
fn refuse_occupied(workloads: &Cgroup, inherited: &BTreeSet<String>) -> Result<(), HierarchyError> {
    let mut processes = 0;
    for entry in folders(workloads.path()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let replicas = format!("{name}/");
        let has_replicas = inherited.iter().any(|known| known.starts_with(&replicas));
        if has_replicas {
            let group = Cgroup::open(&entry.path())?;
            for entry in folders(group.path()) {
                let index = entry.file_name().to_string_lossy().into_owned();
                if !inherited.contains(&format!("{name}/{index}")) {
                    processes += occupants(&group, &index)?;
                }
            }
        } else if !inherited.contains(&name) {
            processes += occupants(workloads, &name)?;
        }
    }
    if processes == 0 {
        return Ok(());
    }
    Err(HierarchyError::Occupied {
        path: workloads.path().to_owned(),
        processes,
    })
}

fn folders(path: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir())
}

/// Returns the number of processes in a child. One that is empty is only in the way, and is removed.
fn occupants(parent: &Cgroup, name: &str) -> Result<usize, HierarchyError> {
    let cgroup = Cgroup::open(&parent.path().join(name))?;
    if cgroup.is_populated()? {
        let listed = cgroup.read("cgroup.procs").unwrap_or_default();
        return Ok(listed.lines().count().max(1));
    }
    parent.remove_child(name)?;
    Ok(0)
}

fn ancestors_of(workloads: &Path) -> Result<Vec<Cgroup>, CgroupError> {
    workloads
        .ancestors()
        .take_while(|path| *path != Path::new(MOUNT_POINT))
        .filter(|path| path.join("memory.events.local").exists())
        .map(Cgroup::open)
        .collect()
}
