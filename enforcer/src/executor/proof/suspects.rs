//! The executor's part in the detection of loops: the budget of CPU time that the sampler has for each
//! cgroup, and the thread on which a suspect is examined.

use super::{Finding, investigate};
use crate::executor::Executor;
use enforcer_core::ReplicaId;
use enforcer_core::cpu_loop::{Evidence, Suspect};
use enforcer_core::event::{CgroupId, Event, WorkloadEvent};
use enforcer_core::spec::WorkloadSpec;
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::{threads, usage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

impl Executor {
    /// Returns the workloads that are watched for loops, and the CPU time that a thread of each may
    /// use between two sleeps.
    pub(crate) fn watched_for_loops(&self) -> Vec<(ReplicaId, Arc<Cgroup>, Duration)> {
        let all = self.instances.all().into_iter();
        let watched = all.filter_map(|(name, instance)| {
            Some((
                name,
                Arc::clone(instance.cgroup()),
                instance.spec.watch.loop_budget()?,
            ))
        });
        watched.collect()
    }

    /// Returns the CPU time of all workloads together so far.
    pub(crate) fn cpu_time_of_all(&self) -> Duration {
        let own = self.use_of_all.cpu().unwrap_or_default();
        // Many attached services are in one slice.
        let places = self.instances.foreign_places().into_iter();
        let used = places.map(|place| usage::cpu_of(&place));
        own + used.sum::<Duration>()
    }

    /// Has the sampler watch the threads of a cgroup as the spec says.
    pub(in crate::executor) fn watch_loops(&self, cgroup: CgroupId, spec: &WorkloadSpec) {
        if let Some(ring) = &self.suspects {
            let begins = ring.set_budget(cgroup, spec.watch.loop_budget());
            // A thread that is hot already was reported to whoever watched it before.
            if begins && let Some((_, open)) = self.instances.owner_of(cgroup) {
                let processes = open.cgroup.all_processes().into_iter();
                let threads = processes.filter_map(|process| threads::of(process).ok());
                ring.forget(threads.flatten());
            }
            self.loops_watched.notify_one();
        }
    }

    pub(in crate::executor) fn unwatch_loops(&self, id: CgroupId) {
        if let Some(ring) = &self.suspects {
            ring.set_budget(id, None);
        }
    }

    /// Looks into a suspect on a thread of its own; what is traced is let go when
    /// that thread ends, whatever becomes of it.
    pub(in crate::executor) fn begin_investigation(
        self: &Arc<Self>,
        workload: ReplicaId,
        suspect: Suspect,
    ) {
        let thread = suspect.thread;
        self.followed.pause(thread);
        let (this, name) = (Arc::clone(self), workload.clone());
        let source = suspect.source;
        let work = move || {
            let found = catch_unwind(AssertUnwindSafe(|| investigate(&suspect)));
            tracing::debug!(?thread, found = ?found.as_ref().ok(), "looked into a suspect");
            let evidence = match found {
                Ok(Some(Finding { evidence, sleeps })) => {
                    this.followed.add(name.clone(), thread, sleeps);
                    Some(evidence)
                }
                Ok(None) => None,
                Err(_) => Some(Evidence::none(source, "the proof itself failed")),
            };
            this.events.send(Event::Workload(
                name,
                WorkloadEvent::CpuEvidence {
                    thread,
                    evidence: evidence.map(Box::new),
                },
            ));
        };
        let spawned = std::thread::Builder::new()
            .name("proof".to_owned())
            .spawn(work);
        if let Err(error) = spawned {
            let why = format!("no thread to look into it: {error}");
            self.events.send(Event::Workload(
                workload,
                WorkloadEvent::CpuEvidence {
                    thread,
                    evidence: Some(Box::new(Evidence::none(source, &why))),
                },
            ));
        }
    }
}
