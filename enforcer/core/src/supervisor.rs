//! The thin top of the core: finds the workload an event is about, and collects
//! when to wake up next. It knows no lifecycle.

mod alerting;
mod configuring;
mod relief;
mod seeing;
mod taking_over;
mod turns;

use crate::alert::Conditions;
use crate::event::{
    AgentChange, AgentState, Cause, Decision, Degraded, Detail, Event, Moment, Seq, Transition,
};
use crate::host::HostState;
use crate::name::WorkloadName;
use crate::oom::Ancestors;
use crate::spec::Host;
use crate::units::MonoTime;
use crate::workload::{Context, Progress, Workload};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::workload::{LastExit, ProbeView, View, answer_in_words};

/// Everything the agent knows and decides. One task owns it.
#[derive(Debug)]
pub struct Supervisor {
    cpus: u32,
    host: Host,
    host_state: HostState,
    workloads: BTreeMap<WorkloadName, Workload>,
    /// Those that an event has touched, to be looked at again after it.
    touched: BTreeSet<WorkloadName>,
    /// Those whose checkpoint may be another one since.
    unkept: BTreeSet<WorkloadName>,
    /// When each next has something to do, in order and by name.
    due: BTreeSet<(MonoTime, WorkloadName)>,
    due_of: BTreeMap<WorkloadName, MonoTime>,
    /// Those whose start waits for its turn, and those with a proof due or under way.
    queued: BTreeSet<WorkloadName>,
    /// How far each has come, for those that wait for a turn or for it.
    progress: BTreeMap<WorkloadName, Progress>,
    /// Something has changed that a queued start may have waited for.
    turns_changed: bool,
    suspected: BTreeSet<WorkloadName>,
    began: Option<MonoTime>,
    /// Before that, none of a crowd of suspects is looked into.
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
    /// For a host with so many CPUs.
    #[must_use]
    pub fn new(cpus: u32) -> Self {
        Self {
            cpus: cpus.max(1),
            host: Host::default(),
            host_state: HostState::default(),
            workloads: BTreeMap::new(),
            touched: BTreeSet::new(),
            unkept: BTreeSet::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            queued: BTreeSet::new(),
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

    /// What follows from an event. The same events with the same moments always
    /// give the same decisions.
    pub fn handle(&mut self, moment: Moment, event: Event) -> Decision {
        let mut decision = Decision::default();
        self.began.get_or_insert(moment.now);
        self.dispatch(moment, event, &mut decision);
        self.settle_touched();
        self.admit_proofs(moment, &mut decision);
        self.admit_starts(moment, &mut decision);
        self.settle_touched();
        self.note_events(moment, &mut decision);
        self.keep_changed(&mut decision);
        let crowd = (!self.suspected.is_empty()).then_some(self.next_of_a_crowd);
        let crowd = crowd.filter(|at| *at > moment.now);
        let due = self.due.first().map(|(at, _)| *at);
        decision.wake = [due, crowd].into_iter().flatten().min();
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
            let Some(workload) = self.workloads.get(&name) else {
                continue;
            };
            if workload.is_gone() && workload.is_done() {
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
            // Whoever is going away takes up nothing new.
            Event::Configure { .. } | Event::ConfigureReadable { .. } if self.shutting_down => {}
            Event::ConfigureReadable {
                mut manifest,
                keeps_ceiling,
                has_alerts,
            } => {
                self.rules_unread = !has_alerts;
                let mut workloads = self.manifest().workloads;
                workloads.extend(manifest.workloads);
                manifest.workloads = workloads;
                self.configure(moment, manifest, (false, !keeps_ceiling), decision);
            }
            Event::ManifestUnchanged => self.rules_unread = false,
            Event::Configure { manifest, prune } => {
                self.rules_unread = false;
                self.configure(moment, manifest, (prune, true), decision);
            }
            Event::TakeOver { workloads, last } => {
                self.take_over(moment, workloads, last, decision);
            }
            Event::HostStood(stood, watch) => {
                self.host_state.stood(stood, &watch);
                self.host.watch = watch;
            }
            Event::AlertsStand { standing, alerts } => {
                self.resume_alerts(moment, standing, alerts);
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
            Event::Drifted { workload, found } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.drifted(context, found)
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
            Event::Probed {
                workload,
                instance,
                probe,
                run,
                outcome,
                took,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.probed(context, (instance, probe, run), &outcome, took);
                });
            }
            Event::HookDone {
                workload,
                hook,
                error,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.hook_done(context, hook, error)
                });
            }
            Event::Remedied {
                workload,
                instance,
                error,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.remedied(context, instance, error)
                });
            }
            Event::Stays {
                workload,
                instance,
                processes,
            } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.stays(context, instance, &processes);
                });
            }
            Event::RemedyFailed { workload, error } => {
                self.with(moment, &workload, decision, |workload, context| {
                    workload.remedy_failed(context, error)
                });
            }
            Event::Measured { workloads, host } => {
                let cpus = self.cpus;
                for (name, measured) in workloads {
                    self.with(moment, &name, decision, |workload, context| {
                        workload.measured(context, measured, cpus)
                    });
                }
                self.host_measured(moment, host, decision);
                self.weigh_alerts(moment, decision);
            }
            Event::HostStalled => self.host_stalled(moment, decision),
            Event::HostCommandDone { error } => self.host_command_done(error, decision),
            Event::EbpfAttached(attached) => {
                self.ebpf = attached;
                self.touched.extend(self.workloads.keys().cloned());
            }
            Event::EventsLost(records) => self.events_lost(records, decision),
            Event::HistoryResumed { lost } => self.history_resumed(lost, decision),
            Event::Degraded { what, why } => {
                self.tell(decision, None, Detail::Degraded(Degraded { what, why }))
            }
            Event::Shutdown => {
                if !self.shutting_down {
                    self.shutting_down = true;
                    let detail = Detail::Agent(AgentChange {
                        state: AgentState::Stopping,
                    });
                    self.tell(decision, Some(Cause::Agent), detail);
                    self.with_all(moment, decision, |workload, context| {
                        workload.leave(context, Cause::Agent)
                    });
                }
            }
            Event::ManifestRefused { why } => self.manifest_refused(why, decision),
            Event::Leave => self.leave(decision),
            Event::Wake => {
                let due = self.due.iter().take_while(|(at, _)| *at <= moment.now);
                let names: Vec<WorkloadName> = due.map(|(_, name)| name.clone()).collect();
                for name in names {
                    self.with(moment, &name, decision, Workload::wake);
                }
            }
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
}

#[cfg(test)]
mod tests;
