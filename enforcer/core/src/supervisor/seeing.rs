//! What others may see of what the core knows.

use super::Supervisor;
use crate::name::WorkloadName;
use crate::spec::Manifest;
use crate::workload::{View, Workload};

impl Supervisor {
    /// Every workload, by name.
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

    /// The manifest that is in force, with what it no longer names left out.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let managed = self
            .workloads
            .iter()
            .filter(|(_, workload)| workload.managed);
        Manifest {
            host: self.host.clone(),
            workloads: managed
                .map(|(name, workload)| (name.clone(), (*workload.spec).clone()))
                .collect(),
        }
    }
}
