//! The one task that owns the `Supervisor`: it takes an event, asks the core,
//! remembers what was decided and hands the actions on. It waits for nothing
//! but the next event.

mod deadlines;
mod waiting;

use crate::executor::Executor;
use crate::failpoint::failpoint;
use crate::inbox::{Message, Question, RequestError};
use crate::probe::Prober;
use crate::service::{self, Manager};
use crate::store::database::Trouble;
use crate::store::handover::Handover;
use crate::store::history::History;
use crate::telemetry::Telemetry;
use deadlines::Deadlines;
use enforcer_core::event::{
    AgentEvent, Detail, Moment, Prune, Request, Seq, Transition, WorkloadEvent,
};
use enforcer_core::plan::Plan;
use enforcer_core::spec::{Attach, Manifest, Mode};
use enforcer_core::supervisor::View;
use enforcer_core::units::MonoTime;
use enforcer_core::{Checkpoint, Decision, Event, ReplicaId, Supervisor, WorkloadState};
use enforcer_kernel::clock;
use enforcer_model::Record;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use waiting::{PartitionMap as _, Waiter, outcome_of};

/// The way in which an agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All that it started has ended.
    WithWorkloads,
    /// The workloads run on.
    Alone,
}

pub(crate) struct Runtime {
    supervisor: Supervisor,
    executor: Arc<Executor>,
    prober: Arc<Prober>,
    history: Arc<History>,
    handover: Arc<Handover>,
    telemetry: Arc<Telemetry>,
    waiters: Vec<Waiter>,
    /// The callers that wait until no limit is on its way to the kernel.
    limit_waiters: Vec<oneshot::Sender<()>>,
    noise: RandomState,
    wake: Option<MonoTime>,
    last_seq: Seq,
    manager: Option<Manager>,
    /// The manifest is in force.
    ready: bool,
    /// The status that the service manager has may be an old one.
    status_changed: bool,
    deadlines: Deadlines,
    /// The reason for which the last command about a group was not carried out.
    refused: Option<String>,
}

impl Runtime {
    /// Makes the runtime of a host with this number of CPUs.
    pub(crate) fn new(
        (executor, prober): (Arc<Executor>, Arc<Prober>),
        (history, handover): (Arc<History>, Arc<Handover>),
        telemetry: Arc<Telemetry>,
        cpus: u32,
    ) -> Self {
        Self {
            supervisor: Supervisor::new(cpus),
            prober,
            executor,
            history,
            handover,
            telemetry,
            waiters: Vec::new(),
            limit_waiters: Vec::new(),
            noise: RandomState::new(),
            wake: None,
            last_seq: Seq(0),
            manager: Manager::found(clock::now()),
            ready: false,
            status_changed: true,
            deadlines: Deadlines::default(),
            refused: None,
        }
    }

    /// Runs until it is to go, or a shutdown is complete.
    pub(crate) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> Ended {
        let history = Arc::clone(&self.history);
        loop {
            let now = clock::now();
            // Due work comes after one message at the latest, however many wait.
            if self.wake.is_some_and(|wake| wake <= now)
                && self.handle(Event::Agent(AgentEvent::Wake))
            {
                return Ended::WithWorkloads;
            }
            if let Some(manager) = &mut self.manager {
                manager.keep_alive(now);
            }
            let wake = self.wake.map(|wake| wake.since(clock::now()));
            let report = self.manager.as_ref();
            let report = report.and_then(|manager| manager.due(self.is_status_due()));
            let report = report.map(|due| due.since(clock::now()));
            let message = tokio::select! {
                biased;
                Some(message) = messages.recv() => message,
                () = self.deadlines.passed() => Message::Event(Box::new(Event::Agent(AgentEvent::Wake))),
                () = sleep(wake), if wake.is_some() => Message::Event(Box::new(Event::Agent(AgentEvent::Wake))),
                // All that waits is done, so the status is not one of a moment ago.
                () = sleep(report), if report.is_some() => {
                    self.report_status();
                    continue;
                }
                trouble = history.trouble() => Message::Event(Box::new(reported_trouble(trouble))),
            };
            let finished = match message {
                Message::Event(event) => {
                    let leaves = matches!(*event, Event::Agent(AgentEvent::Leave));
                    let ends = matches!(*event, Event::Agent(AgentEvent::Shutdown));
                    if leaves || ends {
                        service::stopping();
                    }
                    if let Some(manager) = self.manager.as_mut().filter(|_| ends) {
                        manager.ending();
                    }
                    let configured = matches!(
                        *event,
                        Event::Agent(AgentEvent::Configure { .. })
                            | Event::Agent(AgentEvent::ConfigureReadable { .. })
                    );
                    let finished = self.handle(*event);
                    if leaves {
                        return Ended::Alone;
                    }
                    if configured && !std::mem::replace(&mut self.ready, true) {
                        service::ready();
                    }
                    finished
                }
                Message::Question(question) => self.answer(question),
            };
            if finished {
                return Ended::WithWorkloads;
            }
        }
    }

    /// Returns whether the shutdown is complete.
    fn handle(&mut self, event: Event) -> bool {
        self.decide(event).1
    }

    /// Returns the changes to the manifest before, and whether the shutdown is complete.
    fn configure(&mut self, manifest: Manifest, prune: Prune) -> (Option<Plan>, bool) {
        self.decide(Event::Agent(AgentEvent::Configure { manifest, prune }))
    }

    /// Has the core decide about an event, and begins to carry the decision out.
    fn decide(&mut self, event: Event) -> (Option<Plan>, bool) {
        if let Event::Agent(AgentEvent::TakeOver { workloads, .. }) = &event {
            let leased = workloads
                .iter()
                .filter(|taken| taken.checkpoint.lease().is_some());
            let kept = leased.map(|taken| (taken.workload.clone(), Some(taken.checkpoint.clone())));
            self.deadlines
                .take(&kept.collect::<Vec<_>>(), &self.executor);
        }
        let now = clock::now();
        let moment = Moment {
            now,
            noise: self.noise.hash_one(now.0),
        };
        let Decision {
            actions,
            transitions,
            probes,
            checkpoints,
            groups,
            refused,
            plan,
            answered,
            wake,
            finished,
        } = self.supervisor.handle(moment, event);
        self.wake = wake;
        self.telemetry.counts.decided(&transitions, &actions);
        if let Some(answered) = &answered {
            self.telemetry.counts.probed(answered);
        }
        self.status_changed |= !transitions.is_empty();
        let last = transitions.last().map(|transition| transition.seq);
        self.last_seq = last.unwrap_or(self.last_seq);
        let reported = self
            .history
            .records_of(transitions, |transition| time_of(transition, now));
        if !checkpoints.is_empty() {
            failpoint!("event-decided");
            self.keep(&checkpoints, &reported, true);
            self.deadlines.take(&checkpoints, &self.executor);
            failpoint!("event-kept");
        }
        for (name, group) in &groups {
            if let Err(error) = self.handover.keep_group(name, group.as_ref()) {
                tracing::error!(
                    "{name}: failed to write the state of its replicas: {error}; a later agent would not know of this change"
                );
            }
        }
        self.refused = refused;
        self.history.append(reported);
        // A checkpoint is removed only after its last event was reported.
        self.keep(&checkpoints, &[], false);
        if !actions.is_empty() {
            for action in actions {
                self.executor.dispatch(action);
            }
            failpoint!("event-dispatched");
        }
        for probe in probes {
            self.prober.ask(probe);
        }
        self.wake_waiters();
        (plan, finished)
    }

    /// Returns whether the service manager may have an old status. Before the manifest is in force there
    /// is none.
    fn is_status_due(&self) -> bool {
        self.ready && self.status_changed
    }

    /// Reports the status to the service manager, if it is due.
    fn report_status(&mut self) {
        let now = clock::now();
        let is_due = self.is_status_due();
        if let Some(mut manager) = self.manager.take() {
            if manager.takes_status(now, is_due) {
                self.status_changed = false;
                manager.report_status(now, self.status());
            }
            self.manager = Some(manager);
        }
    }

    /// Returns the state of the workloads, for `systemctl status`.
    fn status(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for view in self.supervisor.views() {
            *counts.entry(view.state.as_str()).or_default() += 1;
        }
        if counts.is_empty() {
            return "no workloads".to_owned();
        }
        let reported = counts
            .iter()
            .map(|(state, count)| format!("{count} {state}"));
        reported.collect::<Vec<_>>().join(", ")
    }

    /// Writes the new checkpoints if `there` is true, so that the next agent knows what is about to
    /// be done. Otherwise removes those of workloads that are gone.
    fn keep(
        &self,
        checkpoints: &[(ReplicaId, Option<Checkpoint>)],
        reported: &[Arc<Record>],
        there: bool,
    ) {
        let meant = checkpoints
            .iter()
            .filter(|(_, kept)| kept.is_some() == there);
        for (workload, checkpoint) in meant {
            let kept = self
                .handover
                .keep(workload, checkpoint.as_ref(), (self.last_seq, reported));
            if let Err(error) = kept {
                tracing::error!(
                    "{workload}: failed to write its checkpoint: {error}; a later agent would not know of this change"
                );
            }
        }
    }

    fn answer(&mut self, question: Question) -> bool {
        // The caller may have gone, which does not matter.
        match question {
            Question::Views(reply) => drop(reply.send(self.supervisor.views().collect())),
            Question::View(name, reply) => drop(reply.send(self.supervisor.view(&name))),
            Question::Manifest(reply) => drop(reply.send(self.supervisor.manifest())),
            Question::Apply {
                manifest,
                prune,
                reply,
            } => {
                let (plan, finished) = self.configure(*manifest, prune);
                // An agent that is ending takes up nothing new and has no plan.
                if let Some(plan) = plan {
                    drop(reply.send(plan));
                }
                return finished;
            }
            Question::UnwrittenLimits(reply) => {
                drop(reply.send(self.supervisor.unwritten_limits()));
            }
            Question::LimitsWritten(reply) => {
                self.limit_waiters.push(reply);
                self.wake_limit_waiters();
            }
            Question::Group(name, reply) => {
                let group = self.supervisor.group(&name);
                let found = group.map(|group| (group, self.supervisor.views_of(&name)));
                drop(reply.send(found));
            }
            Question::Groups(reply) => drop(reply.send(self.supervisor.groups().collect())),
            Question::Plan(plan, reply) => {
                drop(reply.send(self.supervisor.with_rolled_back(*plan)));
            }
            Question::GroupRequest(name, request, reply) => {
                let finished = self.handle(Event::Group(name, request));
                let refused = self.refused.take();
                drop(reply.send(refused.map_or(Ok(()), Err)));
                return finished;
            }
            Question::Request(workload, request, reply) => {
                let name = workload.workload();
                let is_group = workload.index().is_none() && self.supervisor.group(name).is_some();
                let asked = match is_group {
                    true => self.supervisor.views_of(name),
                    false => self.supervisor.view(&workload).into_iter().collect(),
                };
                if asked.is_empty() {
                    drop(reply.send(Err(RequestError::NoSuchWorkload)));
                    return false;
                }
                if let Some(view) = asked.iter().find(|view| !may_be_asked(view, &request)) {
                    let service = view.spec.attach.as_ref();
                    let service = service.map_or_else(String::new, ToString::to_string);
                    let why = format!(
                        "{workload} is {service}, which its owner has started; ask its owner"
                    );
                    drop(reply.send(Err(RequestError::Failed(why))));
                    return false;
                }
                let all_rest = asked
                    .iter()
                    .all(|view| view.state == WorkloadState::Stopped);
                let asked = asked.into_iter().map(|view| (view.name, view.instance));
                self.waiters.push(Waiter {
                    asked_of: asked.collect(),
                    rollout_of: (is_group && request == Request::Restart && !all_rest)
                        .then(|| name.clone()),
                    request,
                    asked: clock::now(),
                    reply,
                });
                return self.handle(Event::Workload(
                    workload,
                    WorkloadEvent::Request { request },
                ));
            }
        }
        false
    }

    /// Answers the callers that wait for limits, if none is on its way to the kernel.
    fn wake_limit_waiters(&mut self) {
        self.limit_waiters.retain(|reply| !reply.is_closed());
        if self.limit_waiters.is_empty() {
            return;
        }
        let unwritten = self.supervisor.unwritten_limits();
        if unwritten.iter().all(|limits| limits.refused.is_some()) {
            for reply in self.limit_waiters.drain(..) {
                // The caller may have gone, which does not matter.
                let _ = reply.send(());
            }
        }
    }

    fn wake_waiters(&mut self) {
        self.wake_limit_waiters();
        let supervisor = &self.supervisor;
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .filter(|waiter| !waiter.reply.is_closed())
            .partition_map(|waiter| match outcome_of(supervisor, &waiter) {
                Some(outcome) => Ok((waiter.reply, outcome)),
                None => Err(waiter),
            });
        self.waiters = waiting;
        for (reply, outcome) in done {
            drop(reply.send(outcome));
        }
    }
}

async fn sleep(due: Option<std::time::Duration>) {
    tokio::time::sleep(due.unwrap_or_default()).await;
}

fn reported_trouble(trouble: Trouble) -> Event {
    match trouble {
        Trouble::Failing(why) => Event::Agent(AgentEvent::Degraded {
            what: "history".to_owned(),
            why: format!("{why}; supervision goes on, and events wait in memory"),
        }),
        Trouble::Resumed { lost } => Event::Agent(AgentEvent::HistoryResumed { lost }),
    }
}

/// Returns the time of an event. An OOM kill happened when the kernel marked it; everything else
/// happens when it is decided.
fn time_of(transition: &Transition, now: MonoTime) -> jiff::Timestamp {
    let moment = match &transition.detail {
        Detail::OomKill(incident) => incident.marked_ns.map_or(now, MonoTime),
        _ => now,
    };
    clock::wall_time_of(moment)
}

/// Returns whether a workload's agent may be asked for this. The owner of an attached service starts and stops it, and lowers its CPU time
/// where it may.
fn may_be_asked(view: &View, request: &Request) -> bool {
    if !view.is_attached {
        return true;
    }
    let service = view.spec.attach.as_ref();
    let takes_quota = service.is_some_and(Attach::takes_quota);
    match request {
        Request::Probe | Request::Deadline(_) => true,
        Request::Throttle(_) | Request::Release => view.spec.mode == Mode::Enforce && takes_quota,
        Request::Start | Request::Stop | Request::Restart | Request::Kill | Request::Reload => {
            false
        }
    }
}
