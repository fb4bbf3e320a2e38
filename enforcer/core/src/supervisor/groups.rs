//! The replicas of workloads: the module `group` decides which there are to be, and this one adds, updates
//! and removes them.

use super::Supervisor;
use crate::event::{
    Cause, Decision, Detail, FileChange, Measured, Moment, Prune, Request, RolloutChange, Scaled,
    Seq, Transition, WorkloadEvent,
};
use crate::group::{Group, GroupRequest, GroupView, Index, Reading, Rescaled, Room, Seen, Step};
use crate::name::{ReplicaId, WorkloadName};
use crate::plan::Plan;
use crate::spec::{Need, WorkloadSpec};
use crate::units::{Bytes, Limit, MonoTime};
use crate::workload::{View, Workload};
use enforcer_model::settings::differences;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most times that a group is asked again after one event: each answer changes what it sees.
const ROUNDS: usize = 8;

impl Supervisor {
    /// Returns the instances of a workload: its replicas, and the one without a number.
    pub(super) fn members(
        &self,
        name: &WorkloadName,
    ) -> impl Iterator<Item = (&ReplicaId, &Workload)> {
        let first = ReplicaId::from(name.clone());
        let last = ReplicaId::new(name.clone(), Some(u16::MAX));
        let members = self.workloads.range(first..=last);
        members.filter(|(_, member)| !member.is_gone())
    }

    /// Returns whether another replica of the same workload is ready.
    pub(super) fn has_ready_peer(&self, id: &ReplicaId) -> bool {
        let mut members = self.members(id.workload());
        members.any(|(other, member)| other != id && member.seen().ready)
    }

    fn member_ids(&self, name: &WorkloadName) -> Vec<ReplicaId> {
        self.members(name).map(|(id, _)| id.clone()).collect()
    }

    /// Returns whether a workload has, or is getting or losing, replicas.
    pub(super) fn is_group(&self, name: &WorkloadName) -> bool {
        self.groups.contains_key(name)
    }

    /// Takes the manifest's version of a workload with replicas.
    pub(super) fn configure_group(
        &mut self,
        moment: Moment,
        name: &WorkloadName,
        spec: &Arc<WorkloadSpec>,
        decision: &mut Decision,
    ) {
        self.touched_groups.insert(name.clone());
        let alone = ReplicaId::from(name.clone());
        let Some(group) = self.groups.get_mut(name) else {
            let present = self.workloads.get(&alone).filter(|one| !one.is_gone());
            let present = present.map(|one| Arc::clone(&one.spec));
            let group = Group::new(Arc::clone(spec), present, moment.now);
            self.groups.insert(name.clone(), group);
            return;
        };
        let live = group.configure(Arc::clone(spec), moment.now);
        for id in self.member_ids(name) {
            self.with(moment, &id, decision, |workload, _| workload.managed = true);
        }
        for index in live {
            let id = ReplicaId::new(name.clone(), index);
            self.respecify(moment, &id, false, decision);
        }
    }

    /// Gives a replica the spec that it is to have. One that `replaces` begins a new instance, even if the
    /// spec is the same.
    fn respecify(
        &mut self,
        moment: Moment,
        id: &ReplicaId,
        replaces: bool,
        decision: &mut Decision,
    ) {
        let Some(group) = self.groups.get(id.workload()) else {
            return;
        };
        let spec = group.spec_of(id.index());
        self.with(moment, id, decision, |workload, context| {
            let changes = differences(&workload.spec, &spec);
            match replaces {
                true => workload.replace(context, spec, changes),
                false => workload.configure(context, spec, changes),
            }
        });
    }

    /// Has the groups that an event has touched, or that are due, act.
    pub(super) fn advance_groups(&mut self, moment: Moment, decision: &mut Decision) {
        if self.groups.is_empty() || self.shutting_down {
            return;
        }
        let touched = self.touched.iter().map(|id| id.workload().clone());
        let due = self.groups.iter().filter(|(name, _)| {
            self.group_due
                .get(*name)
                .is_some_and(|at| *at <= moment.now)
        });
        let mut names: BTreeSet<WorkloadName> = touched
            .chain(due.map(|(name, _)| name.clone()))
            .filter(|name| self.is_group(name))
            .collect();
        names.append(&mut self.touched_groups);
        for name in names {
            self.advance_group(moment, &name, decision);
            self.keep_group(moment.now, name, decision);
        }
    }

    fn advance_group(&mut self, moment: Moment, name: &WorkloadName, decision: &mut Decision) {
        for _ in 0..ROUNDS {
            let seen: BTreeMap<Index, Seen> = self
                .members(name)
                .map(|(id, workload)| (id.index(), workload.seen()))
                .collect();
            let Some(group) = self.groups.get_mut(name) else {
                return;
            };
            let steps = group.advance(&seen, moment.now);
            if steps.is_empty() {
                break;
            }
            for step in steps {
                self.take_step(moment, name, step, decision);
            }
        }
        if self.groups.get(name).is_some_and(Group::is_over) {
            self.groups.remove(name);
        }
    }

    fn take_step(
        &mut self,
        moment: Moment,
        name: &WorkloadName,
        step: Step,
        decision: &mut Decision,
    ) {
        match step {
            Step::Add(index) => {
                let Some(group) = self.groups.get(name) else {
                    return;
                };
                let spec = group.spec_of(index);
                let id = ReplicaId::new(name.clone(), index);
                self.add(moment, id, spec, decision);
            }
            Step::Update(index) => {
                let id = ReplicaId::new(name.clone(), index);
                self.respecify(moment, &id, true, decision);
            }
            Step::Remove(index) => {
                let id = ReplicaId::new(name.clone(), index);
                self.with(moment, &id, decision, |workload, context| {
                    workload.leave(context, Cause::Config);
                });
            }
            Step::Report(change) => self.report_rollout(name, change, decision),
        }
    }

    fn report_rollout(
        &mut self,
        name: &WorkloadName,
        change: RolloutChange,
        decision: &mut Decision,
    ) {
        self.report_of_group(name, None, Detail::Rollout(change), decision);
    }

    fn report_of_group(
        &mut self,
        name: &WorkloadName,
        reason: Option<Cause>,
        detail: Detail,
        decision: &mut Decision,
    ) {
        self.next_seq += 1;
        decision.transitions.push(Transition {
            seq: Seq(self.next_seq),
            workload: Some(ReplicaId::from(name.clone())),
            instance: None,
            reason,
            caused_by: None,
            detail,
        });
    }

    /// Handles a manifest that no longer names a workload with replicas.
    pub(super) fn drop_group(
        &mut self,
        moment: Moment,
        name: &WorkloadName,
        prune: &Prune,
        decision: &mut Decision,
    ) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let prune = prune.takes(group.asked());
        match prune {
            true => group.leave(),
            false => group.disown(),
        }
        self.touched_groups.insert(name.clone());
        if !prune {
            for id in self.member_ids(name) {
                self.with(moment, &id, decision, Workload::disown);
            }
        }
    }

    /// Carries out a request for all replicas of a workload.
    pub(super) fn request_of_group(
        &mut self,
        moment: Moment,
        name: &WorkloadName,
        request: Request,
        decision: &mut Decision,
    ) {
        let ids = self.member_ids(name);
        let all_rest = self.members(name).all(|(_, member)| member.seen().rests);
        // A restart goes on replica by replica, unless none runs.
        if request == Request::Restart && !all_rest {
            if let Some(group) = self.groups.get_mut(name) {
                group.restart(moment.now);
                self.touched_groups.insert(name.clone());
            }
            return;
        }
        for id in ids {
            self.with(moment, &id, decision, |workload, context| {
                workload.handle(context, WorkloadEvent::Request { request });
            });
        }
    }

    /// Lets the number of replicas follow what was measured.
    pub(super) fn scale_groups(
        &mut self,
        moment: Moment,
        measured: &[(ReplicaId, Measured)],
        free: Option<Bytes>,
        decision: &mut Decision,
    ) {
        if self.groups.is_empty() || self.shutting_down {
            return;
        }
        let mut readings: BTreeMap<WorkloadName, BTreeMap<Index, Reading>> = BTreeMap::new();
        let mut of_one = BTreeMap::new();
        for (id, measured) in measured {
            let Some(workload) = self.workloads.get(id).filter(|one| one.spec.is_scaled) else {
                continue;
            };
            if workload.seen().ready {
                let of_group = readings.entry(id.workload().clone()).or_default();
                of_group.insert(id.index(), workload.reading(measured));
            }
            let max = workload.spec.limits.memory_max.and_then(Limit::at);
            of_one.insert(id.workload().clone(), max);
        }
        for (name, readings) in readings {
            let room = Room {
                free,
                of_one: of_one.get(&name).copied().flatten(),
            };
            let Some(group) = self.groups.get_mut(&name) else {
                continue;
            };
            if let Some(Rescaled { from, to, why }) = group.measure(&readings, room, moment.now) {
                let detail = Detail::Scale(Scaled { from, to, why });
                self.report_of_group(&name, None, detail, decision);
            }
            self.touched_groups.insert(name);
        }
    }

    /// Returns whether a change of a file restarts a replica.
    pub(super) fn restarts_for_file(&self, id: &ReplicaId) -> bool {
        let workload = self.workloads.get(id);
        self.is_group(id.workload()) && workload.is_some_and(|one| one.spec.reload.is_none())
    }

    /// Handles a changed file of `reload_on`. Every replica reports it, and the report of the first one
    /// begins the restart.
    pub(super) fn file_of_group_changed(
        &mut self,
        moment: Moment,
        id: &ReplicaId,
        path: String,
        decision: &mut Decision,
    ) {
        let name = id.workload();
        let first = self.members(name).next().map(|(first, _)| first);
        if first != Some(id) {
            return;
        }
        let is_named = self.workloads.get(id);
        let is_named = is_named.is_some_and(|one| one.spec.reload_on.contains(&path));
        if let Some(group) = self.groups.get_mut(name).filter(|_| is_named) {
            group.restart(moment.now);
            self.touched_groups.insert(name.clone());
            let detail = Detail::FileChange(FileChange { path });
            self.report_of_group(name, Some(Cause::Config), detail, decision);
        }
    }

    /// Carries out a command about a group.
    pub(super) fn command_group(
        &mut self,
        moment: Moment,
        name: &WorkloadName,
        request: GroupRequest,
        decision: &mut Decision,
    ) {
        let Some(group) = self.groups.get_mut(name) else {
            decision.refused = Some(format!("{name} has no replicas"));
            return;
        };
        let before = group.view().wanted;
        match group.request(request, moment.now) {
            Ok(steps) => {
                self.touched_groups.insert(name.clone());
                if let GroupRequest::Scale(to) = request
                    && to != before
                {
                    let scaled = Scaled {
                        from: before,
                        to,
                        why: "a person asked for it".to_owned(),
                    };
                    let detail = Detail::Scale(scaled);
                    self.report_of_group(name, Some(Cause::Manual), detail, decision);
                }
                for step in steps {
                    self.take_step(moment, name, step, decision);
                }
            }
            Err(why) => decision.refused = Some(why),
        }
    }

    /// Notes when a group is due, and its checkpoint if that has changed.
    fn keep_group(&mut self, now: MonoTime, name: WorkloadName, decision: &mut Decision) {
        let group = self.groups.get(&name);
        let due = group.and_then(|group| group.deadline(now));
        match due {
            Some(at) => drop(self.group_due.insert(name.clone(), at)),
            None => drop(self.group_due.remove(&name)),
        }
        if self.kept_groups.get(&name) != group {
            let kept = group.cloned();
            match &kept {
                Some(group) => drop(self.kept_groups.insert(name.clone(), group.clone())),
                None => drop(self.kept_groups.remove(&name)),
            }
            decision.groups.push((name, kept));
        }
    }

    /// Takes the groups that another agent has left, after their replicas.
    pub(super) fn take_over_groups(&mut self, groups: Vec<(WorkloadName, Group)>) {
        for (name, mut group) in groups {
            let found: BTreeMap<Index, Arc<WorkloadSpec>> = self
                .members(&name)
                .map(|(id, workload)| (id.index(), Arc::clone(&workload.spec)))
                .collect();
            self.kept_groups.insert(name.clone(), group.clone());
            group.take_over(&found);
            self.touched_groups.insert(name.clone());
            self.groups.insert(name, group);
        }
    }

    /// Returns the replicas of a workload; `None` if it has none.
    #[must_use]
    pub fn group(&self, name: &WorkloadName) -> Option<GroupView> {
        self.groups.get(name).map(Group::view)
    }

    /// Returns all workloads with replicas.
    pub fn groups(&self) -> impl Iterator<Item = (WorkloadName, GroupView)> + '_ {
        let groups = self.groups.iter();
        groups.map(|(name, group)| (name.clone(), group.view()))
    }

    /// Adds the workloads to a plan that will not run the manifest's version after it.
    #[must_use]
    pub fn with_rolled_back(&self, mut plan: Plan) -> Plan {
        let differing = self.groups().filter(|(_, group)| group.differs);
        let staying = differing.map(|(name, _)| name);
        let staying = staying.filter(|name| !plan.workloads.contains_key(name));
        plan.rolled_back = staying.collect();
        plan
    }

    /// Returns the replicas of a workload, or the workload itself.
    #[must_use]
    pub fn views_of(&self, name: &WorkloadName) -> Vec<View> {
        let members = self.members(name);
        members.map(|(_, workload)| workload.view()).collect()
    }

    /// Returns whether a workload is as far as others need it: all of it, or one of its replicas.
    pub(super) fn meets(&self, name: &WorkloadName, need: Need) -> bool {
        let mut members = self.members(name);
        match need {
            Need::Completed if self.is_group(name) => {
                let mut members = members.peekable();
                members.peek().is_some() && members.all(|(_, member)| member.meets(need))
            }
            Need::Started | Need::Ready | Need::Completed => {
                members.any(|(_, member)| member.meets(need))
            }
        }
    }
}
