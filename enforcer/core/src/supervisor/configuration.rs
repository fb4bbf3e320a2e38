//! The answer to another manifest: the workloads that it adds, changes and no longer names.

use super::Supervisor;
use crate::event::{
    Action, Cause, ConfigChange, Decision, Detail, HostAction, HostChange, Moment, Prune, Reason,
    Seq,
};
use crate::name::ReplicaId;
use crate::plan::{self, Change};
use crate::spec::{Manifest, WorkloadSpec};
use crate::workload::Workload;
use enforcer_model::requests::UnwrittenLimits;
use enforcer_model::settings::differences;
use std::sync::Arc;

impl Supervisor {
    pub(super) fn configure(
        &mut self,
        moment: Moment,
        manifest: Manifest,
        (prune, writes_ceiling): (&Prune, bool),
        decision: &mut Decision,
    ) {
        let current = self.manifest();
        let plan = plan::between(&current, &manifest);
        let protections = |manifest: &Manifest| manifest.parent_host().limits;
        let host = Box::new(manifest.parent_host());
        let host_changed = !plan.host.is_empty()
            || self.host_limits.refused.is_some()
            || self.host_limits.are_inherited
            || protections(&current) != host.limits;
        decision.plan = Some(self.with_rolled_back(plan.clone()));
        if !plan.host.is_empty() {
            let change = ConfigChange::Changed(plan.host);
            self.report(decision, Some(Cause::Config), Detail::Config(change));
        }
        if self.host.watch != manifest.host.watch {
            self.host_state.rewatched();
        }
        self.host = *manifest.host;
        self.host_limits.are_inherited = !writes_ceiling;
        // Other needs, and another number of places.
        self.turns_changed = true;
        let mut specs = manifest.workloads;
        let unnamed: Vec<ReplicaId> = self
            .workloads
            .iter()
            .filter(|(id, one)| !specs.contains_key(id.workload()) && prune.takes(&one.spec))
            .map(|(id, _)| id.clone())
            .collect();
        for (name, change) in plan.workloads {
            let spec = specs.remove(&name);
            if let Some(spec) = &spec
                && (spec.replicas.is_some() || self.is_group(&name))
            {
                self.configure_group(moment, &name, spec, decision);
                continue;
            }
            if self.is_group(&name) {
                self.drop_group(moment, &name, prune, decision);
                continue;
            }
            let id = ReplicaId::from(name);
            match (change, spec) {
                (Change::Add, Some(spec)) => self.add(moment, id, spec, decision),
                (Change::Update(changes), Some(spec)) => {
                    self.with(moment, &id, decision, |workload, context| {
                        workload.configure(context, spec, changes);
                    });
                }
                (Change::Remove, _) if !unnamed.contains(&id) => {
                    self.with(moment, &id, decision, Workload::disown);
                }
                (Change::Add | Change::Update(_) | Change::Remove, _) => {}
            }
        }
        for id in unnamed {
            self.drop_group(moment, id.workload(), prune, decision);
            self.with(moment, &id, decision, |workload, context| {
                workload.leave(context, Cause::Config)
            });
        }
        self.with_all(moment, decision, Workload::write_refused_limits);
        if host_changed && writes_ceiling {
            self.host_limits.under_way += 1;
            // Last, so that the reason is the last record of what led to it.
            decision.actions.push(Action::Host(HostAction {
                reason: Reason {
                    cause: Cause::Config,
                    seq: Seq(self.next_seq),
                },
                change: HostChange::WriteLimits { host },
            }));
        }
    }

    /// Handles the kernel's answer to new limits of all workloads together.
    pub(super) fn host_limits_written(
        &mut self,
        change: Option<ConfigChange>,
        decision: &mut Decision,
    ) {
        self.host_limits.under_way = self.host_limits.under_way.saturating_sub(1);
        self.host_limits.refused = match &change {
            Some(ConfigChange::LimitsRefused(why)) => Some(why.clone()),
            _ => None,
        };
        if let Some(change) = change {
            self.report(decision, Some(Cause::Config), Detail::Config(change));
        }
    }

    /// Returns the limits of the manifest that the kernel does not have: those that are still being
    /// written, and those that it has refused. A workload that does not run gets its limits with
    /// its next start, so it is not among them.
    #[must_use]
    pub fn unwritten_limits(&self) -> Vec<UnwrittenLimits> {
        let of_host = (
            None,
            self.host_limits.under_way > 0,
            self.host_limits.refused.as_deref(),
        );
        let unwritten = self.unwritten.iter();
        let of_workloads = unwritten.filter_map(|name| {
            let (under_way, refused) = self.workloads.get(name)?.written_limits();
            Some((Some(name.clone()), under_way, refused))
        });
        std::iter::once(of_host)
            .chain(of_workloads)
            .filter(|(_, under_way, refused)| *under_way || refused.is_some())
            .map(|(workload, under_way, refused)| UnwrittenLimits {
                workload,
                refused: refused.filter(|_| !under_way).map(str::to_owned),
            })
            .collect()
    }

    /// Adds a workload whose name is new, or was disowned and is back.
    pub(super) fn add(
        &mut self,
        moment: Moment,
        name: ReplicaId,
        spec: Arc<WorkloadSpec>,
        decision: &mut Decision,
    ) {
        let mut workload = Workload::new(name.clone(), Arc::clone(&spec), moment.now);
        if let Some(gone) = self
            .workloads
            .get(&name)
            .filter(|present| present.is_gone())
        {
            workload.succeed(gone);
        } else if let Some(present) = self.workloads.get(&name) {
            let changes = differences(&present.spec, &spec);
            self.with(moment, &name, decision, |workload, context| {
                workload.configure(context, spec, changes);
            });
            return;
        }
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

    pub(super) fn manifest_refused(&mut self, why: String, decision: &mut Decision) {
        let change = ConfigChange::ManifestRefused(why);
        self.report(decision, Some(Cause::Config), Detail::Config(change));
    }
}
