//! The views of the core's knowledge for the API.

use super::Supervisor;
use crate::name::ReplicaId;
use crate::spec::Manifest;
use crate::workload::{View, Workload};
use std::sync::Arc;

impl Supervisor {
    /// Returns every workload, in the order of the names.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        let shown = self
            .workloads
            .values()
            .filter(|workload| !workload.is_gone());
        shown.map(Workload::view)
    }

    #[must_use]
    pub fn view(&self, name: &ReplicaId) -> Option<View> {
        let shown = self
            .workloads
            .get(name)
            .filter(|workload| !workload.is_gone());
        shown.map(Workload::view)
    }

    /// Returns the manifest that is in force, without the workloads that it no longer names.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let alone = self.workloads.iter().filter(|(id, workload)| {
            workload.managed && id.index().is_none() && !self.is_group(id.workload())
        });
        let alone = alone.map(|(id, workload)| (id.workload(), &workload.spec));
        let groups = self.groups.iter().filter(|(_, group)| group.is_managed());
        let groups = groups.map(|(name, group)| (name, group.asked()));
        Manifest {
            host: Box::new(self.host.clone()),
            workloads: alone
                .chain(groups)
                .map(|(name, spec)| (name.clone(), Arc::clone(spec)))
                .collect(),
        }
    }
}
