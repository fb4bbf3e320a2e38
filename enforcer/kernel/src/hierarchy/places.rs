//! The places of workloads in the tree. Replicas of a workload are in a cgroup of their own:
//!
//! ```text
//! workloads/web               a workload without replicas
//! workloads/web.replicas/0    a replica
//! ```

use super::Tree;
use crate::cgroupfs::{Cgroup, CgroupError};
use enforcer_model::ReplicaId;
use enforcer_model::ids::CgroupId;
use enforcer_model::name::REPLICAS;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Has the cgroups below this one have every controller that it has.
pub(super) fn hand_down_all(group: &Cgroup) -> Result<(), CgroupError> {
    let has = group.read("cgroup.controllers")?;
    let handed_down = group.read("cgroup.subtree_control")?;
    let is_missing = |name: &&str| !handed_down.split_whitespace().any(|one| one == *name);
    let missing: Vec<&str> = has.split_whitespace().filter(is_missing).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => group.hand_down(&missing),
    }
}

impl Tree {
    /// Opens the cgroup of a workload, and makes it if it is missing. Returns whether it was made. `note`
    /// gets the cgroup that replicas are in, before there is one in it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn make(
        &self,
        workload: &ReplicaId,
        note: impl FnOnce(CgroupId),
    ) -> Result<(Cgroup, bool), CgroupError> {
        let Some(index) = workload.index() else {
            return self.workloads.make_child(workload.workload().as_str());
        };
        let _alone = self.groups.lock();
        let name = format!("{}{REPLICAS}", workload.workload());
        let (group, _) = self.workloads.make_child(&name)?;
        note(group.id()?);
        hand_down_all(&group)?;
        group.make_child(&index.to_string())
    }

    /// Opens the cgroup of all replicas of a workload; `None` if it has none.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn group(&self, workload: &ReplicaId) -> Result<Option<Cgroup>, CgroupError> {
        let group = workload.index().map(|_| self.group_of(workload));
        group.map(|path| Cgroup::open(&path)).transpose()
    }

    /// Returns the cgroups above a workload whose limits hold for it as well.
    pub fn ancestors_of(&self, workload: &ReplicaId) -> Result<Arc<Vec<Cgroup>>, CgroupError> {
        let Some(group) = self.group(workload)? else {
            return Ok(Arc::clone(&self.ancestors));
        };
        let above = self
            .ancestors
            .iter()
            .map(|above| Cgroup::open(above.path()));
        std::iter::once(Ok(group))
            .chain(above)
            .collect::<Result<Vec<_>, _>>()
            .map(Arc::new)
    }

    /// Removes the cgroup of a workload, which must be empty, and with the last replica the one that
    /// they were in. `note` gets that one when it is gone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(
        &self,
        workload: &ReplicaId,
        note: impl FnOnce(CgroupId),
    ) -> Result<(), CgroupError> {
        let Some(index) = workload.index() else {
            return self.workloads.remove_child(workload.workload().as_str());
        };
        let _alone = self.groups.lock();
        let path = self.group_of(workload);
        if !path.exists() {
            return Ok(());
        }
        let group = Cgroup::open(&path)?;
        let id = group.id()?;
        group.remove_child(&index.to_string())?;
        // The kernel refuses for as long as another replica is in it.
        if std::fs::remove_dir(path).is_ok() {
            note(id);
        }
        Ok(())
    }

    /// Returns whether a workload has a cgroup.
    pub fn has(&self, workload: &ReplicaId) -> bool {
        self.path_of(workload).is_dir()
    }

    pub fn path_of(&self, workload: &ReplicaId) -> PathBuf {
        self.workloads.path().join(workload.cgroup_path())
    }

    fn group_of(&self, workload: &ReplicaId) -> PathBuf {
        let place = self.path_of(workload);
        place.parent().map(Path::to_owned).unwrap_or(place)
    }
}
