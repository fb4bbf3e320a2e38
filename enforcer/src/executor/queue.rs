//! The queues of work. Work of one workload is done in order, one at a time. The queues do not wait
//! for each other, except for a permit to write limits.

use super::Executor;
use enforcer_core::ReplicaId;
use enforcer_core::event::{Cause, Event, InstanceEvent, InstanceId, StartError, Step};
use enforcer_core::spec::Host;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Work that waits for its turn.
#[derive(Debug)]
pub(super) enum Work {
    Step(Queued),
    /// Another process may have changed this workload's cgroup.
    Check(ReplicaId),
    HostLimits(Box<Host>),
    /// The owner of a service that is looked after no more gets its limits back.
    GiveBack(ReplicaId),
}

/// A step of a workload.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) workload: ReplicaId,
    pub(super) instance: InstanceId,
    pub(super) cause: Cause,
    pub(super) step: Step,
}

impl Work {
    /// Returns the name of the queue; `None` for the host's.
    fn queue(&self) -> Option<ReplicaId> {
        match self {
            Self::Step(queued) => Some(queued.workload.clone()),
            Self::Check(workload) | Self::GiveBack(workload) => Some(workload.clone()),
            Self::HostLimits(_) => None,
        }
    }

    /// Returns whether the kernel may reclaim memory meanwhile, which takes its time.
    fn is_slow(&self) -> bool {
        match self {
            Self::Step(queued) => matches!(queued.step, Step::WriteLimits { .. }),
            Self::HostLimits(_) => true,
            Self::Check(_) | Self::GiveBack(_) => false,
        }
    }

    /// Returns what waits for an answer to this work.
    fn waiting(&self) -> Waiting {
        match self {
            Self::HostLimits(_) => Waiting::Limits(None),
            Self::Check(_) | Self::GiveBack(_) => Waiting::Nothing,
            Self::Step(queued) => match &queued.step {
                Step::WriteLimits { .. } => Waiting::Limits(Some(queued.workload.clone())),
                Step::Start { .. } => Waiting::Start(queued.workload.clone(), queued.instance),
                Step::Signal { .. }
                | Step::KillTree
                | Step::Reap
                | Step::RemoveCgroup
                | Step::Investigate { .. } => Waiting::Nothing,
            },
        }
    }
}

/// The core's wait for an answer.
enum Waiting {
    Nothing,
    /// The limits of a workload, or those of the host.
    Limits(Option<ReplicaId>),
    Start(ReplicaId, InstanceId),
}

impl Waiting {
    /// Returns the answer for work that ended in a panic.
    fn lost(self, error: String) -> Option<Event> {
        match self {
            Self::Nothing => None,
            Self::Limits(workload) => {
                Some(Event::limits_written(workload, Vec::new(), Some(error)))
            }
            Self::Start(workload, instance) => Some(Event::Instance(
                workload,
                instance,
                InstanceEvent::StartFailed {
                    error: StartError {
                        stage: "carry the start out".to_owned(),
                        errno: None,
                        error,
                    },
                },
            )),
        }
    }
}

impl Executor {
    pub(super) fn queue(self: &Arc<Self>, work: Work) {
        let of = work.queue();
        {
            let mut queues = self.queues.lock();
            if let Some(waiting) = queues.get_mut(&of) {
                waiting.push_back(work);
                return;
            }
            queues.insert(of.clone(), VecDeque::new());
        }
        self.begin(of, work);
    }

    /// Takes the work that has waited longest; an empty queue is removed.
    fn next_for(&self, of: &Option<ReplicaId>) -> Option<Work> {
        let mut queues = self.queues.lock();
        let next = queues.get_mut(of).and_then(VecDeque::pop_front);
        if next.is_none() {
            queues.remove(of);
        }
        next
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queues.lock().is_empty()
    }

    /// Begins to work in another thread. Slow work waits for a permit first.
    fn begin(self: &Arc<Self>, of: Option<ReplicaId>, first: Work) {
        let this = Arc::clone(self);
        if !first.is_slow() {
            self.runtime
                .spawn_blocking(move || this.work(of, first, None));
            return;
        }
        self.runtime.spawn(async move {
            let Ok(permit) = Arc::clone(&this.slow).acquire_owned().await else {
                tracing::error!("an action was lost: there are no permits for slow work");
                return;
            };
            let runtime = this.runtime.clone();
            runtime.spawn_blocking(move || this.work(of, first, Some(permit)));
        });
    }

    /// Works until the queue is empty: a thousand workloads that rest have no worker.
    fn work(
        self: Arc<Self>,
        of: Option<ReplicaId>,
        first: Work,
        mut permit: Option<OwnedSemaphorePermit>,
    ) {
        let mut next = Some(first);
        while let Some(work) = next {
            if work.is_slow() && permit.is_none() {
                self.begin(of, work);
                return;
            }
            self.do_one(work);
            permit = None;
            next = self.next_for(&of);
        }
    }

    /// Does one piece of work. If it panics, what waits for its answer gets one all the same.
    fn do_one(self: &Arc<Self>, work: Work) {
        let waiting = work.waiting();
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| match work {
            Work::Step(queued) => self.carry_out(queued),
            Work::Check(workload) => self.check(&workload),
            Work::HostLimits(host) => self.write_limits_of_host(&host),
            Work::GiveBack(workload) => self.give_limits_back(&workload),
        }));
        if let Err(panic) = done {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let error = format!("the agent panicked: {}", text.unwrap_or("no message"));
            tracing::error!("an action was lost: {error}");
            if let Some(lost) = waiting.lost(error) {
                self.send(lost);
            }
        }
    }
}
