//! The views of the core's knowledge for the API.

use super::Supervisor;
use crate::name::WorkloadName;
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
    pub fn view(&self, name: &WorkloadName) -> Option<View> {
        let shown = self
            .workloads
            .get(name)
            .filter(|workload| !workload.is_gone());
        shown.map(Workload::view)
    }

    /// Returns the manifest that is in force, without the workloads that it no longer names.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let managed = self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.managed);
        Manifest {
            host: Box::new(self.host.clone()),
            workloads: managed
                .map(|(name, workload)| (name.clone(), Arc::clone(&workload.spec)))
                .collect(),
        }
    }
}
