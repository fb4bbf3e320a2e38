//! The thin top of the core: finds the workload an event is about, and collects
//! when to wake up next. It knows no lifecycle.

use crate::admission::{self, PROOFS_AT_ONCE, Waiting};
use crate::event::{
    Action, ActionKind, Cause, ConfigChange, Decision, Detail, Event, InstanceId, LimitChange,
    Moment, Reason, Seq, Transition,
};
use crate::name::WorkloadName;
use crate::oom::Ancestors;
use crate::plan::{Change, Plan};
use crate::spec::{Host, Manifest, WorkloadSpec};
use crate::workload::{Context, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use crate::workload::{LastExit, View};

/// Everything the agent knows and decides. One task owns it.
#[derive(Debug, Default)]
pub struct Supervisor {
    host: Host,
    workloads: BTreeMap<WorkloadName, Workload>,
    ancestors: Ancestors,
    ebpf: bool,
    shutting_down: bool,
    next_seq: u64,
    next_instance: u64,
}

impl Supervisor {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What follows from an event. The same events with the same moments always
    /// give the same decisions.
    pub fn handle(&mut self, moment: Moment, event: Event) -> Decision {
        let mut decision = Decision::default();
        self.dispatch(moment, event, &mut decision);
        self.admit_proofs(moment, &mut decision);
        self.workloads.retain(|_, workload| !workload.is_gone());
        decision.wake = self
            .workloads
            .values()
            .filter_map(|workload| workload.deadline(self.ebpf))
            .min();
        decision.finished = self.shutting_down && self.workloads.values().all(Workload::is_at_rest);
        decision
    }

    /// Every workload, by name.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        self.workloads.values().map(Workload::view)
    }

    #[must_use]
    pub fn view(&self, name: &WorkloadName) -> Option<View> {
        self.workloads.get(name).map(Workload::view)
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

    fn dispatch(&mut self, moment: Moment, event: Event, decision: &mut Decision) {
        match event {
            // Whoever is going away takes up nothing new.
            Event::Configure { .. } if self.shutting_down => {}
            Event::Configure { manifest, prune } => {
                self.configure(moment, manifest, prune, decision)
            }
            Event::Request { workload, request } => {
                if !self.shutting_down {
                    self.with(moment, &workload, decision, |workload, context| {
                        workload.request(context, request)
                    });
                }
            }
            Event::Prepared {
                workload,
                instance,
                cgroup,
                counters,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.prepared(context, instance, cgroup, counters);
                });
            }
            Event::Started {
                workload,
                instance,
                pid,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.started(context, instance, pid)
                });
            }
            Event::StartFailed {
                workload,
                instance,
                error,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.start_failed(context, instance, error);
                });
            }
            Event::MainExited { workload, instance } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.main_exited(context, instance)
                });
            }
            Event::Reaped {
                workload,
                instance,
                status,
                counters,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.reaped(context, instance, status, counters);
                });
            }
            Event::LimitsWritten {
                workload,
                changed,
                error,
            } => {
                self.limits_written(moment, workload, (changed, error), decision);
            }
            Event::OomMark {
                workload,
                victim,
                counters,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.oom_mark(context, victim, counters);
                });
            }
            Event::CountersRead { workload, counters } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.counters_read(context, counters)
                });
            }
            Event::CpuSuspect { workload, suspect } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.cpu_suspect(context, suspect)
                });
            }
            Event::CpuEvidence {
                workload,
                thread,
                evidence,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.cpu_evidence(context, thread, evidence);
                });
            }
            Event::CpuStreakEnded { workload, thread } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.cpu_streak_ended(context, thread)
                });
            }
            Event::EbpfAttached(attached) => self.ebpf = attached,
            Event::EventsLost(records) => self.tell(decision, None, Detail::Lost { records }),
            Event::Degraded { what, why } => {
                self.tell(decision, None, Detail::Degraded { what, why })
            }
            Event::Shutdown => {
                if !self.shutting_down {
                    self.shutting_down = true;
                    self.tell(
                        decision,
                        Some(Cause::Agent),
                        Detail::Agent { state: "stopping" },
                    );
                    self.with_all(moment, decision, |workload, context| {
                        workload.leave(context, Cause::Agent)
                    });
                }
            }
            Event::Wake => self.with_all(moment, decision, Workload::wake),
        }
    }

    /// Lets the next suspects be looked into.
    fn admit_proofs(&mut self, moment: Moment, decision: &mut Decision) {
        let running = |workload: &Workload| workload.proofs_running();
        let mut running: usize = self.workloads.values().map(running).sum();
        while running < PROOFS_AT_ONCE {
            let waiting = self
                .workloads
                .values()
                .flat_map(Workload::waiting_for_proof);
            let Some(Waiting {
                workload, thread, ..
            }) = admission::next(waiting)
            else {
                return;
            };
            self.with(moment, &workload, decision, |workload, context| {
                workload.begin_proof(context, thread)
            });
            running += 1;
        }
    }

    fn with(
        &mut self,
        moment: Moment,
        name: &WorkloadName,
        decision: &mut Decision,
        act: impl FnOnce(&mut Workload, &mut Context<'_>),
    ) {
        if let Some(workload) = self.workloads.get_mut(name) {
            let mut context = Context {
                moment,
                ebpf: self.ebpf,
                ancestors: &mut self.ancestors,
                next_seq: &mut self.next_seq,
                next_instance: &mut self.next_instance,
                decision,
            };
            act(workload, &mut context);
        }
    }

    fn with_all(
        &mut self,
        moment: Moment,
        decision: &mut Decision,
        act: impl Fn(&mut Workload, &mut Context<'_>),
    ) {
        let names: Vec<WorkloadName> = self.workloads.keys().cloned().collect();
        for name in names {
            self.with(moment, &name, decision, &act);
        }
    }

    fn tell(&mut self, decision: &mut Decision, reason: Option<Cause>, detail: Detail) {
        self.next_seq += 1;
        let seq = Seq(self.next_seq);
        decision.transitions.push(Transition {
            seq,
            workload: None,
            instance: None,
            reason,
            caused_by: None,
            detail,
        });
    }

    fn configure(
        &mut self,
        moment: Moment,
        manifest: Manifest,
        prune: bool,
        decision: &mut Decision,
    ) {
        let plan = Plan::between(&self.manifest(), &manifest);
        let protections = |manifest: &Manifest| manifest.parent_host().limits;
        let host = manifest.parent_host();
        let host_changed = !plan.host.is_empty() || protections(&self.manifest()) != host.limits;
        if !plan.host.is_empty() {
            let change = ConfigChange::Changed(plan.host);
            self.tell(decision, Some(Cause::Config), Detail::Config(change));
        }
        self.host = manifest.host;
        let mut specs = manifest.workloads;
        let unnamed: Vec<WorkloadName> = self
            .workloads
            .keys()
            .filter(|name| !specs.contains_key(*name))
            .cloned()
            .collect();
        for (name, change) in plan.workloads {
            match (change, specs.remove(&name)) {
                (Change::Add, Some(spec)) => self.add(moment, name, spec, decision),
                (Change::Update(changes), Some(spec)) => {
                    self.with(moment, &name, decision, |workload, context| {
                        workload.configure(context, Arc::new(spec), changes);
                    });
                }
                (Change::Remove, _) if !prune => {
                    self.with(moment, &name, decision, Workload::disown)
                }
                (Change::Add | Change::Update(_) | Change::Remove, _) => {}
            }
        }
        if prune {
            for name in unnamed {
                self.with(moment, &name, decision, |workload, context| {
                    workload.leave(context, Cause::Config)
                });
            }
        }
        self.with_all(moment, decision, Workload::write_refused_limits);
        if host_changed {
            // Last, so that the reason is the last record of what led to it.
            decision.actions.push(Action {
                workload: None,
                instance: InstanceId(0),
                reason: Reason {
                    cause: Cause::Config,
                    seq: Seq(self.next_seq),
                },
                kind: ActionKind::WriteHostLimits { host },
            });
        }
    }

    /// A name that is new, or that was disowned and is back.
    fn add(
        &mut self,
        moment: Moment,
        name: WorkloadName,
        spec: WorkloadSpec,
        decision: &mut Decision,
    ) {
        if let Some(present) = self.workloads.get(&name) {
            let changes = crate::plan::spec_changes(&present.spec, &spec);
            self.with(moment, &name, decision, |workload, context| {
                workload.configure(context, Arc::new(spec), changes);
            });
            return;
        }
        let workload = Workload::new(name.clone(), Arc::new(spec), moment.now);
        self.workloads.insert(name.clone(), workload);
        self.with(moment, &name, decision, |workload, context| {
            workload.record(context, Cause::Config, Detail::Config(ConfigChange::Added));
            let reason = Reason {
                cause: Cause::Config,
                seq: Seq(*context.next_seq),
            };
            workload.start(context, reason);
        });
    }

    fn limits_written(
        &mut self,
        moment: Moment,
        workload: Option<WorkloadName>,
        (changed, error): (Vec<LimitChange>, Option<String>),
        decision: &mut Decision,
    ) {
        let change = match error {
            Some(error) => Some(ConfigChange::LimitsRefused(error)),
            None if changed.is_empty() => None,
            None => Some(ConfigChange::Limits(changed)),
        };
        match (workload, change) {
            (None, None) => {}
            (None, Some(change)) => {
                self.tell(decision, Some(Cause::Config), Detail::Config(change))
            }
            (Some(name), change) => {
                self.with(moment, &name, decision, |workload, context| {
                    workload.limits_written(context, change);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
