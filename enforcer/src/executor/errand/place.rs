//! Where short commands run: a cgroup for each name below `probes/`, with a ceiling,
//! one command at a time.

use crate::executor::{Executor, error_chain, lock};
use crate::kernel::cgroupfs::Cgroup;
use crate::kernel::{counters, limits};
use crate::service;
use enforcer_core::WorkloadName;
use enforcer_core::limits::Limits;
use enforcer_core::spec::ProbeName;
use enforcer_core::units::{Bytes, CpuWeight, Limit};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Of one command: more is no check but a program of its own.
const MEMORY: Bytes = Bytes(128 << 20);
const PIDS: u64 = 64;
/// Of all of them together, and half of what a workload weighs.
const MEMORY_OF_ALL: Bytes = Bytes(512 << 20);
const WEIGHT_OF_ALL: CpuWeight = CpuWeight::Of(50);
/// How long what was killed may take to be gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Places {
    known: HashMap<String, Arc<Place>>,
    /// The agent is going: nothing begins any more.
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) cgroup: Cgroup,
    /// Held by the command that runs there: the end of one kills all that is in it.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Place {
    /// The OOM kills of processes in it, whoever's limit it was; 0 where that cannot be read.
    pub(super) fn oom_kills(&self) -> u64 {
        counters::oom_kills(&self.cgroup)
    }
}

/// A workload's name has no dot, so that no two commands are called alike.
pub(super) fn name_of(workload: Option<&WorkloadName>, what: &str) -> String {
    // No workload is called so.
    let owner = workload.map_or("_host", WorkloadName::as_str);
    format!("{owner}.{what}")
}

impl Executor {
    pub(super) fn errand_place(
        &self,
        workload: Option<&WorkloadName>,
        what: &str,
    ) -> Result<Arc<Place>, String> {
        let failed = |error: &dyn std::error::Error| format!("failed to {}", error_chain(error));
        let is_probe = ProbeName::ALL.iter().any(|name| name.word() == what);
        if let Some(workload) = workload.filter(|_| is_probe)
            && !self.registry().contains_key(workload)
        {
            return Err("there is nothing to ask any more".to_owned());
        }
        let name = name_of(workload, what);
        let mut places = lock(&self.places);
        if places.closed {
            return Err("the agent is going".to_owned());
        }
        if let Some(known) = places.known.get(&name) {
            return Ok(Arc::clone(known));
        }
        let probes = self.tree.probes();
        if places.known.is_empty() {
            let ceiling = Limits {
                memory_max: Some(Limit::At(MEMORY_OF_ALL)),
                cpu_weight: Some(WEIGHT_OF_ALL),
                ..Limits::default()
            };
            limits::apply(probes, &ceiling).map_err(|error| failed(&error))?;
        }
        let cgroup = probes.ensure_child(&name).map_err(|error| failed(&error))?;
        let swap = limits::knows_swap(&cgroup);
        let ceiling = Limits {
            memory_max: Some(Limit::At(MEMORY)),
            memory_swap_max: swap.then_some(Limit::At(Bytes(0))),
            memory_oom_group: Some(true),
            pids_max: Some(Limit::At(PIDS)),
            ..Limits::default()
        };
        limits::apply(&cgroup, &ceiling).map_err(|error| failed(&error))?;
        let place = Arc::new(Place {
            cgroup,
            turn: Arc::default(),
        });
        places.known.insert(name, Arc::clone(&place));
        Ok(place)
    }

    /// Ends what asks an instance that is gone: its answer would count for nothing, and
    /// the next instance's would have to wait.
    pub(in crate::executor) fn end_probes_of(&self, workload: &WorkloadName) {
        for name in ProbeName::ALL {
            let place = lock(&self.places)
                .known
                .get(&name_of(Some(workload), name.word()))
                .cloned();
            if let Some(place) = place
                && place.cgroup.is_populated().unwrap_or(false)
                && let Err(error) = limits::kill_cgroup(&place.cgroup)
            {
                tracing::warn!("{workload}: failed to {}", error_chain(&error));
            }
        }
    }

    /// A workload that goes takes these with it. A hook goes by itself: it may be
    /// telling just that.
    pub(in crate::executor) fn forget_errands(&self, workload: &WorkloadName) {
        for name in ProbeName::ALL {
            self.forget_place(&name_of(Some(workload), name.word()));
        }
        self.forget_place(&name_of(Some(workload), "recovery"));
    }

    pub(super) fn forget_place(&self, name: &str) {
        let Some(place) = lock(&self.places).known.remove(name) else {
            return;
        };
        let gone = place
            .cgroup
            .kill_and_wait(PATIENCE)
            .and_then(|()| self.tree.probes().remove_child(name));
        if let Err(error) = gone {
            tracing::warn!("{name}: failed to {}", error_chain(&error));
        }
    }

    /// Ends the agent where its cgroups were removed: systemd clears a unit whose own
    /// process has gone. Another agent makes what is missing, and takes over what runs;
    /// this one could start nothing. Where nobody would start another, it goes on.
    pub(in crate::executor) fn end_without_tree(&self) {
        let gone = !self.tree.is_there() && !lock(&self.places).closed;
        if gone && service::is_managed() {
            tracing::error!("the agent's cgroups were removed; the next agent makes them again");
            std::process::exit(1);
        }
    }

    pub(in crate::executor) fn close_places(&self) {
        lock(&self.places).closed = true;
    }
}
