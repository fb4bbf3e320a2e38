//! Carries out what a scheduler or a node asks of etcd, and tells it what has happened.

use crate::etcd::Client;
use enforcer_fleet_core::Time;
use enforcer_fleet_core::node::{self, Node, Rules};
use enforcer_fleet_core::scheduler::{self, Scheduler};
use enforcer_fleet_core::store::{Answer, Change, Keys, Request, Revision, StoreError};
use nix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Something that a state machine is told.
#[derive(Debug)]
pub enum Happened<C> {
    Answer(C, Result<Answer, StoreError>),
    Watched(Result<Vec<Change>, StoreError>),
    Woken,
}

/// Something that a state machine asks for.
#[derive(Debug)]
pub enum Step<C, N> {
    Call(C, Request),
    Watch(Keys, Revision),
    /// Something that is not for etcd.
    News(N),
}

/// A state machine over etcd.
pub trait Machine {
    type Call: Send + 'static;
    type News;

    fn take(&mut self, now: Time, happened: Happened<Self::Call>) -> Steps<Self>;

    fn wake(&self) -> Option<Time>;
}

pub type Steps<M> = Vec<Step<<M as Machine>::Call, <M as Machine>::News>>;

impl Machine for Scheduler {
    type Call = scheduler::Call;
    type News = scheduler::News;

    fn take(&mut self, now: Time, happened: Happened<Self::Call>) -> Steps<Self> {
        let input = match happened {
            Happened::Answer(call, answer) => scheduler::Input::Answer(call, answer),
            Happened::Watched(changes) => scheduler::Input::Watched(changes),
            Happened::Woken => scheduler::Input::Woken,
        };
        let outputs = self.handle(now, input).into_iter();
        let steps = outputs.map(|output| match output {
            scheduler::Output::Call(call, request) => Step::Call(call, request),
            scheduler::Output::Watch(keys, from) => Step::Watch(keys, from),
            scheduler::Output::Tell(news) => Step::News(news),
        });
        steps.collect()
    }

    fn wake(&self) -> Option<Time> {
        self.wake()
    }
}

/// Something that a node tells its host.
#[derive(Clone, Debug, PartialEq)]
pub enum ForHost {
    Run(node::Run),
    LeaseUntil(Time),
    Failed(StoreError),
}

impl<R: Rules> Machine for Node<R> {
    type Call = node::Call;
    type News = ForHost;

    fn take(&mut self, now: Time, happened: Happened<Self::Call>) -> Steps<Self> {
        let input = match happened {
            Happened::Answer(call, answer) => node::Input::Answer(call, answer),
            Happened::Watched(changes) => node::Input::Watched(changes),
            Happened::Woken => node::Input::Woken,
        };
        steps_of(self.handle(now, input))
    }

    fn wake(&self) -> Option<Time> {
        self.wake()
    }
}

fn steps_of(outputs: Vec<node::Output>) -> Vec<Step<node::Call, ForHost>> {
    let outputs = outputs.into_iter();
    let steps = outputs.map(|output| match output {
        node::Output::Call(call, request) => Step::Call(call, request),
        node::Output::Watch(keys, from) => Step::Watch(keys, from),
        node::Output::Run(run) => Step::News(ForHost::Run(run)),
        node::Output::LeaseUntil(until) => Step::News(ForHost::LeaseUntil(until)),
        node::Output::Failed(error) => Step::News(ForHost::Failed(error)),
    });
    steps.collect()
}

/// The time of a program: the wall clock at its start, and the boot clock since then, which counts on while the host sleeps. So a step of the
/// wall clock changes nothing, and the times that one scheduler writes mean something to the next one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begun: Duration,
    at: Time,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            begun: read(ClockId::CLOCK_BOOTTIME),
            at: Time(read(ClockId::CLOCK_REALTIME)),
        }
    }
}

impl Clock {
    #[must_use]
    pub fn now(&self) -> Time {
        let since = read(ClockId::CLOCK_BOOTTIME).saturating_sub(self.begun);
        self.at.after(since)
    }

    /// Returns a time as the boot clock has it.
    #[must_use]
    pub fn boot_of(&self, time: Time) -> Duration {
        (self.begun + time.0).saturating_sub(self.at.0)
    }
}

/// Reads a clock. Those that are read here are always there (clock_gettime(2)), and never before their zero.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// Changes of the watch with this number.
type Watched = (u64, Result<Vec<Change>, StoreError>);

/// A state machine with its calls and its watch.
#[derive(Debug)]
pub struct Driver<M: Machine> {
    machine: M,
    client: Arc<Client>,
    clock: Clock,
    calls: JoinSet<(M::Call, Result<Answer, StoreError>)>,
    watch: Option<AbortHandle>,
    number: u64,
    send: mpsc::Sender<Watched>,
    watched: mpsc::Receiver<Watched>,
    news: Vec<M::News>,
}

impl<M: Machine> Driver<M> {
    pub fn new(machine: M, client: Arc<Client>) -> Self {
        let (send, watched) = mpsc::channel(16);
        let mut driver = Self {
            machine,
            client,
            clock: Clock::default(),
            calls: JoinSet::new(),
            watch: None,
            number: 0,
            send,
            watched,
            news: Vec::new(),
        };
        driver.happened(Happened::Woken);
        driver
    }

    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Waits until something happens, and returns what the machine tells about it, which may be nothing.
    pub async fn next(&mut self) -> Vec<M::News> {
        if self.news.is_empty() {
            let wake = self.machine.wake();
            let wait = wake.map(|at| at.since(self.clock.now()));
            let alarm = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let happened = tokio::select! {
                Some(answered) = self.calls.join_next() => match answered {
                    Ok((call, answer)) => Some(Happened::Answer(call, answer)),
                    // A call that panicked has no answer, and the next one of its kind would never be made.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some((number, changes)) = self.watched.recv() => {
                    (number == self.number).then_some(Happened::Watched(changes))
                }
                () = alarm => Some(Happened::Woken),
            };
            if let Some(happened) = happened {
                self.happened(happened);
            }
        }
        std::mem::take(&mut self.news)
    }

    fn happened(&mut self, happened: Happened<M::Call>) {
        let steps = self.machine.take(self.clock.now(), happened);
        self.carry_out(steps);
    }

    fn carry_out(&mut self, steps: Steps<M>) {
        for step in steps {
            match step {
                Step::Call(call, request) => {
                    let client = Arc::clone(&self.client);
                    self.calls
                        .spawn(async move { (call, client.call(&request).await) });
                }
                Step::Watch(keys, from) => self.follow(keys, from),
                Step::News(news) => self.news.push(news),
            }
        }
    }

    /// Follows these keys in place of those before.
    fn follow(&mut self, keys: Keys, from: Revision) {
        if let Some(before) = self.watch.take() {
            before.abort();
        }
        self.number += 1;
        let (number, client, send) = (self.number, Arc::clone(&self.client), self.send.clone());
        let watch = tokio::spawn(async move {
            let error = match client.watch(&keys, from).await {
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(changes) if changes.is_empty() => {}
                        Ok(changes) => {
                            if send.send((number, Ok(changes))).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            // Without a driver nobody waits for it.
            let _ = send.send((number, Err(error))).await;
        });
        self.watch = Some(watch.abort_handle());
    }
}

impl<R: Rules> Driver<Node<R>> {
    /// Tells the node how its host is.
    pub fn host(
        &mut self,
        seen: std::collections::BTreeMap<enforcer_fleet_core::Replica, node::Seen>,
    ) {
        let outputs = self
            .machine
            .handle(self.clock.now(), node::Input::Host(seen));
        self.carry_out(steps_of(outputs));
    }
}

impl<M: Machine> Drop for Driver<M> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
