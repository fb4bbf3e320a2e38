//! The one task that owns the `Supervisor`: it takes an event, asks the core,
//! remembers what was decided and hands the actions on. It waits for nothing
//! but the next event.

use crate::executor::Executor;
use crate::failpoint;
use crate::kernel::clock;
use crate::probe::Prober;
use crate::store::database::Trouble;
use crate::store::handover::Handover;
use crate::store::history::History;
use crate::store::record::Record;
use enforcer_core::event::{Detail, InstanceId, Moment, Request, Seq, Transition};
use enforcer_core::plan::Plan;
use enforcer_core::spec::Manifest;
use enforcer_core::supervisor::{ProbeView, View};
use enforcer_core::units::MonoTime;
use enforcer_core::{Checkpoint, Decision, Event, Supervisor, WorkloadName};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How often the logs are looked at, and lost records counted.
const TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// The way in for everything that happens.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::UnboundedSender<Message>);

impl Events {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Never waits. After the runtime's end there is nobody left to tell.
    pub(crate) fn send(&self, event: Event) {
        let _ = self.0.send(Message::Event(Box::new(event)));
    }

    /// Asks a question and waits for its answer; `None` if the agent is going.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Message::Question(question(reply))).ok()?;
        answer.await.ok()
    }
}

#[derive(Debug)]
pub(crate) enum Message {
    Event(Box<Event>),
    Question(Question),
}

/// What the API wants to know or have done.
#[derive(Debug)]
pub(crate) enum Question {
    Views(oneshot::Sender<Vec<View>>),
    View(WorkloadName, oneshot::Sender<Option<View>>),
    /// Answered when the workload has come to where the request leads.
    Request(
        WorkloadName,
        Request,
        oneshot::Sender<Result<View, RequestError>>,
    ),
    Plan(Box<Manifest>, oneshot::Sender<Plan>),
    Apply {
        manifest: Box<Manifest>,
        prune: bool,
        reply: oneshot::Sender<Plan>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    NoSuchWorkload,
    /// It was tried, and this is what came of it.
    Failed(String),
}

/// Someone who waits for a workload to come to rest or to life.
#[derive(Debug)]
struct Waiter {
    workload: WorkloadName,
    request: Request,
    /// The instance there was when it was asked, and when that was.
    instance: InstanceId,
    asked: MonoTime,
    reply: oneshot::Sender<Result<View, RequestError>>,
}

/// How an agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Nothing that it started runs any more.
    WithWorkloads,
    /// What ran runs on.
    Alone,
}

pub(crate) struct Runtime {
    supervisor: Supervisor,
    executor: Arc<Executor>,
    prober: Arc<Prober>,
    history: Arc<History>,
    handover: Arc<Handover>,
    waiters: Vec<Waiter>,
    noise: RandomState,
    wake: Option<MonoTime>,
    last_seq: Seq,
}

impl Runtime {
    /// For a host with so many CPUs.
    pub(crate) fn new(
        (executor, prober): (Arc<Executor>, Arc<Prober>),
        (history, handover): (Arc<History>, Arc<Handover>),
        cpus: u32,
    ) -> Self {
        Self {
            supervisor: Supervisor::new(cpus),
            prober,
            executor,
            history,
            handover,
            waiters: Vec::new(),
            noise: RandomState::new(),
            wake: None,
            last_seq: Seq(0),
        }
    }

    /// Runs until it is to go, or a shutdown is complete.
    pub(crate) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> Ended {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let due = self.wake.map(|wake| wake.since(clock::now()));
            let message = tokio::select! {
                biased;
                Some(message) = messages.recv() => message,
                () = sleep(due), if due.is_some() => Message::Event(Box::new(Event::Wake)),
                _ = tick.tick() => {
                    let executor = Arc::clone(&self.executor);
                    tokio::task::spawn_blocking(move || executor.bound_logs());
                    match self.history.trouble() {
                        Some(trouble) => Message::Event(Box::new(told_trouble(trouble))),
                        None => continue,
                    }
                }
            };
            let finished = match message {
                Message::Event(event) => {
                    let leaves = matches!(*event, Event::Leave);
                    let finished = self.handle(*event);
                    if leaves {
                        return Ended::Alone;
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
            wake,
            finished,
        } = self.supervisor.handle(moment, event);
        self.wake = wake;
        let last = transitions.last().map(|transition| transition.seq);
        self.last_seq = last.unwrap_or(self.last_seq);
        let told = self
            .history
            .records_of(transitions, |transition| time_of(transition, now));
        if !checkpoints.is_empty() {
            failpoint::pass("decided");
            self.keep(&checkpoints, &told);
            failpoint::pass("kept");
        }
        self.history.append(told);
        if !actions.is_empty() {
            for action in actions {
                self.executor.dispatch(action);
            }
            failpoint::pass("dispatched");
        }
        for probe in probes {
            self.prober.ask(probe);
        }
        self.wake_waiters();
        finished
    }

    /// What is about to be done is known to a later agent before it is done.
    fn keep(&self, checkpoints: &[(WorkloadName, Option<Checkpoint>)], told: &[Arc<Record>]) {
        for (workload, checkpoint) in checkpoints {
            let kept = self
                .handover
                .keep(workload, checkpoint.as_ref(), (self.last_seq, told));
            if let Err(error) = kept {
                tracing::error!(
                    "{workload}: failed to write its checkpoint: {error}; a later agent would not know of this change"
                );
            }
        }
    }

    fn answer(&mut self, question: Question) -> bool {
        // Whoever asked may have gone; that is no concern here.
        match question {
            Question::Views(reply) => drop(reply.send(self.supervisor.views().collect())),
            Question::View(name, reply) => drop(reply.send(self.supervisor.view(&name))),
            Question::Plan(manifest, reply) => {
                drop(reply.send(Plan::between(&self.supervisor.manifest(), &manifest)));
            }
            Question::Apply {
                manifest,
                prune,
                reply,
            } => {
                let plan = Plan::between(&self.supervisor.manifest(), &manifest);
                let finished = self.handle(Event::Configure {
                    manifest: *manifest,
                    prune,
                });
                drop(reply.send(plan));
                return finished;
            }
            Question::Request(workload, request, reply) => {
                let Some(view) = self.supervisor.view(&workload) else {
                    drop(reply.send(Err(RequestError::NoSuchWorkload)));
                    return false;
                };
                self.waiters.push(Waiter {
                    workload: workload.clone(),
                    request,
                    instance: view.instance,
                    asked: clock::now(),
                    reply,
                });
                return self.handle(Event::Request { workload, request });
            }
        }
        false
    }

    fn wake_waiters(&mut self) {
        let supervisor = &self.supervisor;
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .filter(|waiter| !waiter.reply.is_closed())
            .partition_map(
                |waiter| match outcome(supervisor.view(&waiter.workload), &waiter) {
                    Some(outcome) => Ok((waiter.reply, outcome)),
                    None => Err(waiter),
                },
            );
        self.waiters = waiting;
        for (reply, outcome) in done {
            drop(reply.send(outcome));
        }
    }
}

trait PartitionMap: Iterator + Sized {
    /// Sorts each item to one side or the other.
    fn partition_map<A, B>(self, sort: impl Fn(Self::Item) -> Result<A, B>) -> (Vec<A>, Vec<B>) {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for item in self {
            match sort(item) {
                Ok(item) => left.push(item),
                Err(item) => right.push(item),
            }
        }
        (left, right)
    }
}

impl<I: Iterator> PartitionMap for I {}

async fn sleep(due: Option<std::time::Duration>) {
    tokio::time::sleep(due.unwrap_or_default()).await;
}

/// What became of a request; `None` while it is under way.
fn outcome(view: Option<View>, waiter: &Waiter) -> Option<Result<View, RequestError>> {
    let Some(view) = view else {
        return Some(Err(RequestError::NoSuchWorkload));
    };
    let failed = |why: &str| Some(Err(RequestError::Failed(why.to_owned())));
    if let Request::Throttle(_) | Request::Release = waiter.request {
        return match view {
            View { writing: true, .. } => None,
            View {
                limits_refused: true,
                ..
            } => failed("the kernel refused the limits; `events` has its word"),
            view => Some(Ok(view)),
        };
    }
    if waiter.request == Request::Probe {
        // What rests is not asked; whoever doesn't run answers nothing.
        let answered = |probe: &ProbeView| {
            probe.at_rest
                || probe
                    .last
                    .as_ref()
                    .is_some_and(|last| last.at >= waiter.asked)
        };
        return match view.state {
            "running" if !view.probes.iter().all(answered) => None,
            "running" => Some(Ok(view)),
            state => failed(&format!("it is {state}: there is nothing to ask")),
        };
    }
    let upwards = matches!(waiter.request, Request::Start | Request::Restart);
    match view.state {
        "running" if upwards => Some(Ok(view)),
        "failed" | "backing_off" | "breaker_open" if upwards => failed(&view.reason),
        "stopped" if upwards => failed("it was stopped meanwhile"),
        "stopped" | "failed" | "pending" if !upwards => Some(Ok(view)),
        _ if !upwards && view.instance > waiter.instance => {
            failed("it was started again meanwhile")
        }
        _ => None,
    }
}

fn told_trouble(trouble: Trouble) -> Event {
    match trouble {
        Trouble::Failing(why) => Event::Degraded {
            what: "history".to_owned(),
            why: format!("{why}; supervision goes on, and events wait in memory"),
        },
        Trouble::Resumed { lost } => Event::HistoryResumed { lost },
    }
}

/// An OOM kill happened when the kernel marked it; all else happens when it is
/// decided.
fn time_of(transition: &Transition, now: MonoTime) -> jiff::Timestamp {
    let moment = match &transition.detail {
        Detail::OomKill(incident) => incident.marked_ns.map_or(now, MonoTime),
        _ => now,
    };
    clock::wall_time_of(moment)
}
