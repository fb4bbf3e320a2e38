//! The thin top of the core: finds the workload an event is about, and collects
//! when to wake up next. It knows no lifecycle.

mod adoption;
mod alerts;
mod configuration;
mod groups;
mod relief;
mod turns;
mod views;

use crate::alert::Conditions;
use crate::event::{
    AgentChange, AgentEvent, AgentState, Cause, Decision, Degraded, Detail, Event, HostEvent,
    Moment, Prune, Seq, Transition, WorkloadEvent,
};
use crate::group::Group;
use crate::host::HostState;
use crate::name::{ReplicaId, WorkloadName};
use crate::oom::Ancestors;
use crate::spec::Host;
use crate::units::MonoTime;
use crate::workload::{Context, Progress, Workload, limits_change};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::workload::{LastExit, ProbeView, View, answer_in_words};

/// The state of the limits of all workloads together.
#[derive(Debug, Default)]
struct HostLimits {
    /// The number of writes that are not answered yet.
    under_way: u32,
    /// The reason for which the last write failed.
    refused: Option<String>,
    /// The `host` section could not be read, so the kernel has the limits of an earlier agent.
    are_inherited: bool,
}

/// The agent's knowledge and its decisions. One task owns it.
#[derive(Debug)]
pub struct Supervisor {
    cpus: u32,
    host: Host,
    host_state: HostState,
    host_limits: HostLimits,
    /// The state machines of workloads without replicas, and of the replicas of the others.
    workloads: BTreeMap<ReplicaId, Workload>,
    /// The workloads with replicas.
    groups: BTreeMap<WorkloadName, Group>,
    touched_groups: BTreeSet<WorkloadName>,
    group_due: BTreeMap<WorkloadName, MonoTime>,
    /// The groups as the next agent would find them.
    kept_groups: BTreeMap<WorkloadName, Group>,
    /// The workloads that an event has touched. After the event, their next moments are sorted in
    /// again.
    touched: BTreeSet<ReplicaId>,
    /// The workloads whose checkpoint may have changed.
    unkept: BTreeSet<ReplicaId>,
    /// The time at which each workload acts next, in order.
    due: BTreeSet<(MonoTime, ReplicaId)>,
    due_of: BTreeMap<ReplicaId, MonoTime>,
    /// The workloads whose start waits for its turn.
    queued: BTreeSet<ReplicaId>,
    /// Those of them that need other workloads.
    dependent: BTreeSet<ReplicaId>,
    /// The workloads whose start is under way.
    coming_up: BTreeSet<ReplicaId>,
    /// The workloads whose limits are on their way to the kernel, or were refused.
    unwritten: BTreeSet<ReplicaId>,
    /// The progress of each workload, for those that wait for a turn or for it.
    progress: BTreeMap<ReplicaId, Progress>,
    /// Something has changed that a queued start may have waited for.
    turns_changed: bool,
    suspected: BTreeSet<ReplicaId>,
    began: Option<MonoTime>,
    /// The earliest time of the next proof in a crowd of suspects.
    next_of_a_crowd: MonoTime,
    ancestors: Ancestors,
    conditions: Conditions,
    /// A file with a fault may have the rules of alerts that stand.
    rules_unread: bool,
    ebpf: bool,
    shutting_down: bool,
    next_seq: u64,
    next_instance: u64,
}

impl Supervisor {
    /// Makes a supervisor for a host with this number of CPUs.
    #[must_use]
    pub fn new(cpus: u32) -> Self {
        Self {
            cpus: cpus.max(1),
            host: Host::default(),
            host_state: HostState::default(),
            host_limits: HostLimits::default(),
            workloads: BTreeMap::new(),
            groups: BTreeMap::new(),
            touched_groups: BTreeSet::new(),
            group_due: BTreeMap::new(),
            kept_groups: BTreeMap::new(),
            touched: BTreeSet::new(),
            unkept: BTreeSet::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            queued: BTreeSet::new(),
            dependent: BTreeSet::new(),
            coming_up: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            progress: BTreeMap::new(),
            turns_changed: false,
            suspected: BTreeSet::new(),
            began: None,
            next_of_a_crowd: MonoTime(0),
            ancestors: Ancestors::default(),
            conditions: Conditions::default(),
            rules_unread: false,
            ebpf: false,
            shutting_down: false,
            next_seq: 0,
            next_instance: 0,
        }
    }

    /// Decides about an event. The same events with the same moments always give the same
    /// decisions.
    pub fn handle(&mut self, moment: Moment, event: Event) -> Decision {
        let mut decision = Decision::default();
        self.began.get_or_insert(moment.now);
        self.dispatch(moment, event, &mut decision);
        self.advance_groups(moment, &mut decision);
        self.settle_touched();
        self.admit_proofs(moment, &mut decision);
        self.admit_starts(moment, &mut decision);
        self.settle_touched();
        self.note_events(moment, &mut decision);
        self.keep_changed(&mut decision);
        let crowd = (!self.suspected.is_empty()).then_some(self.next_of_a_crowd);
        let crowd = crowd.filter(|at| *at > moment.now);
        let due = self.due.first().map(|(at, _)| *at);
        let group = self.group_due.values().min().copied();
        decision.wake = [due, crowd, group].into_iter().flatten().min();
        decision.finished = self.shutting_down && self.workloads.values().all(Workload::is_done);
        decision
    }

    /// Files those that were touched where they belong now.
    fn settle_touched(&mut self) {
        for name in std::mem::take(&mut self.touched) {
            if let Some(at) = self.due_of.remove(&name) {
                self.due.remove(&(at, name.clone()));
            }
            self.unkept.insert(name.clone());
            let was_queued = self.queued.remove(&name);
            self.suspected.remove(&name);
            self.dependent.remove(&name);
            self.coming_up.remove(&name);
            self.unwritten.remove(&name);
            let Some(workload) = self.workloads.get(&name) else {
                continue;
            };
            if workload.may_be_forgotten() {
                self.workloads.remove(&name);
                self.progress.remove(&name);
                self.turns_changed = true;
                continue;
            }
            let progress = workload.progress();
            if self.progress.insert(name.clone(), progress) != Some(progress) {
                self.turns_changed = true;
            }
            if workload.queued().is_some() {
                self.turns_changed |= !was_queued;
                self.queued.insert(name.clone());
                if !workload.spec.needs.is_empty() {
                    self.dependent.insert(name.clone());
                }
            }
            if progress.coming_up {
                self.coming_up.insert(name.clone());
            }
            if workload.written_limits() != (false, None) {
                self.unwritten.insert(name.clone());
            }
            if workload.has_suspects() {
                self.suspected.insert(name.clone());
            }
            if let Some(at) = workload.deadline(self.ebpf) {
                self.due_of.insert(name.clone(), at);
                self.due.insert((at, name));
            }
        }
    }

    fn dispatch(&mut self, moment: Moment, event: Event, decision: &mut Decision) {
        match event {
            Event::Agent(event) => self.handle_agent(moment, event, decision),
            Event::Host(event) => self.handle_host(moment, event, decision),
            // The agent is ending: a person's wish comes too late.
            Event::Workload(_, WorkloadEvent::Request { .. }) | Event::Group(..)
                if self.shutting_down => {}
            Event::Workload(id, WorkloadEvent::Request { request })
                if id.index().is_none() && self.is_group(id.workload()) =>
            {
                self.request_of_group(moment, id.workload(), request, decision);
            }
            // A restart for a file goes on one by one, as one of a person does.
            Event::Workload(id, WorkloadEvent::FileChanged { path })
                if self.restarts_for_file(&id) =>
            {
                self.file_of_group_changed(moment, &id, path, decision);
            }
            Event::Group(name, request) => self.command_group(moment, &name, request, decision),
            Event::Workload(name, event) => {
                self.with(moment, &name, decision, |workload, context| {
                    workload.handle(context, event);
                });
            }
            Event::Instance(name, instance, event) => {
                self.with(moment, &name, decision, |workload, context| {
                    workload.handle_instance(context, instance, event);
                });
            }
        }
    }

    fn handle_agent(&mut self, moment: Moment, event: AgentEvent, decision: &mut Decision) {
        match event {
            // An agent that is ending takes up nothing new.
            AgentEvent::Configure { .. } | AgentEvent::ConfigureReadable { .. }
                if self.shutting_down => {}
            AgentEvent::ConfigureReadable {
                mut manifest,
                keeps_ceiling,
                has_alerts,
            } => {
                self.rules_unread = !has_alerts;
                let mut workloads = self.manifest().workloads;
                workloads.extend(manifest.workloads);
                manifest.workloads = workloads;
                self.configure(
                    moment,
                    manifest,
                    (&Prune::Nothing, !keeps_ceiling),
                    decision,
                );
            }
            AgentEvent::Configure { manifest, prune } => {
                self.rules_unread = false;
                self.configure(moment, manifest, (&prune, true), decision);
            }
            AgentEvent::ManifestRefused { why } => self.manifest_refused(why, decision),
            AgentEvent::TakeOver {
                workloads,
                groups,
                last,
            } => {
                self.take_over(moment, workloads, last, decision);
                self.take_over_groups(groups);
            }
            AgentEvent::AlertsStand { standing, alerts } => {
                self.resume_alerts(moment, standing, alerts);
            }
            AgentEvent::EbpfAttached(attached) => {
                self.ebpf = attached;
                self.touched.extend(self.workloads.keys().cloned());
            }
            AgentEvent::EventsLost(records) => self.events_lost(records, decision),
            AgentEvent::HistoryResumed { lost } => self.history_resumed(lost, decision),
            AgentEvent::Degraded { what, why } => {
                self.report(decision, None, Detail::Degraded(Degraded { what, why }));
            }
            AgentEvent::Shutdown => self.shut_down(moment, decision),
            AgentEvent::Leave => self.leave(decision),
            AgentEvent::Wake => {
                let due = self.due.iter().take_while(|(at, _)| *at <= moment.now);
                let names: Vec<ReplicaId> = due.map(|(_, name)| name.clone()).collect();
                for name in names {
                    self.with(moment, &name, decision, Workload::wake);
                }
            }
        }
    }

    fn handle_host(&mut self, moment: Moment, event: HostEvent, decision: &mut Decision) {
        match event {
            HostEvent::Stood(stood, watch) => {
                self.host_state.stood(stood, &watch);
                self.host.watch = watch;
            }
            HostEvent::Measured { workloads, host } => {
                let cpus = self.cpus;
                self.scale_groups(moment, &workloads, host.free, decision);
                for (name, measured) in workloads {
                    self.with(moment, &name, decision, |workload, context| {
                        workload.measured(context, measured, cpus);
                    });
                }
                self.host_measured(moment, host, decision);
                self.weigh_alerts(moment, decision);
            }
            HostEvent::Stalled => self.host_stalled(moment, decision),
            HostEvent::CommandDone { error } => self.host_command_done(error, decision),
            HostEvent::LimitsWritten { changed, error } => {
                self.host_limits_written(limits_change(changed, error), decision);
            }
        }
    }

    fn shut_down(&mut self, moment: Moment, decision: &mut Decision) {
        if std::mem::replace(&mut self.shutting_down, true) {
            return;
        }
        let state = AgentState::Stopping;
        let detail = Detail::Agent(AgentChange { state });
        self.report(decision, Some(Cause::Agent), detail);
        self.with_all(moment, decision, |workload, context| {
            workload.leave(context, Cause::Agent);
        });
    }

    fn with(
        &mut self,
        moment: Moment,
        name: &ReplicaId,
        decision: &mut Decision,
        act: impl FnOnce(&mut Workload, &mut Context<'_>),
    ) {
        let peers_pass = name.index().is_some() && self.has_ready_peer(name);
        if let Some(workload) = self.workloads.get_mut(name) {
            let mut context = Context {
                moment,
                peers_pass,
                ebpf: self.ebpf,
                agent_began: self.began.unwrap_or(moment.now),
                ancestors: &mut self.ancestors,
                next_seq: &mut self.next_seq,
                next_instance: &mut self.next_instance,
                decision,
            };
            act(workload, &mut context);
            workload.refresh(&mut context);
            if !self.touched.contains(name) {
                self.touched.insert(name.clone());
            }
        }
    }

    fn with_all(
        &mut self,
        moment: Moment,
        decision: &mut Decision,
        act: impl Fn(&mut Workload, &mut Context<'_>),
    ) {
        let names: Vec<ReplicaId> = self.workloads.keys().cloned().collect();
        for name in names {
            self.with(moment, &name, decision, &act);
        }
    }

    fn report(&mut self, decision: &mut Decision, reason: Option<Cause>, detail: Detail) {
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
}

#[cfg(test)]
mod tests;
