//! Actions wait behind each other, workload by workload, and for nobody else's.

use super::{Executor, lock};
use enforcer_core::WorkloadName;
use enforcer_core::event::{Action, ActionKind, Event, StartError};
use std::collections::VecDeque;
use std::sync::Arc;

/// What waits in a workload's queue.
#[derive(Debug)]
pub(super) enum Work {
    Act(Action),
    /// Somebody may have touched its cgroup.
    Check,
}

impl Executor {
    pub(super) fn queue(self: &Arc<Self>, workload: Option<WorkloadName>, work: Work) {
        {
            let mut queues = lock(&self.queues);
            if let Some(waiting) = queues.get_mut(&workload) {
                waiting.push_back(work);
                return;
            }
            queues.insert(workload.clone(), VecDeque::new());
        }
        self.runtime.spawn(Arc::clone(self).work(workload, work));
    }

    /// What waited first; who finds nothing is not waited for any more.
    fn next_for(&self, of: &Option<WorkloadName>) -> Option<Work> {
        let mut queues = lock(&self.queues);
        let next = queues.get_mut(of).and_then(VecDeque::pop_front);
        if next.is_none() {
            queues.remove(of);
        }
        next
    }

    pub(super) fn is_idle(&self) -> bool {
        lock(&self.queues).is_empty()
    }

    /// One after another, until nothing waits: a thousand that rest have no worker.
    async fn work(self: Arc<Self>, of: Option<WorkloadName>, first: Work) {
        let mut next = Some(first);
        while let Some(work) = next {
            self.do_one(of.as_ref(), work).await;
            next = self.next_for(&of);
        }
    }

    async fn do_one(self: &Arc<Self>, of: Option<&WorkloadName>, work: Work) {
        let action = match (work, of) {
            (Work::Act(action), _) => action,
            (Work::Check, Some(workload)) => {
                let (this, workload) = (Arc::clone(self), workload.clone());
                let _ = tokio::task::spawn_blocking(move || this.check(&workload)).await;
                return;
            }
            (Work::Check, None) => return,
        };
        let slow = matches!(
            action.kind,
            ActionKind::WriteLimits { .. } | ActionKind::WriteHostLimits { .. }
        );
        let permit = if slow {
            Arc::clone(&self.slow).acquire_owned().await.ok()
        } else {
            None
        };
        let this = Arc::clone(self);
        let starting = matches!(action.kind, ActionKind::Start { .. });
        let started = starting.then(|| (action.workload.clone(), action.instance));
        let written = slow.then(|| action.workload.clone());
        let done = tokio::task::spawn_blocking(move || {
            this.carry_out(action);
            drop(permit);
        });
        if let Err(error) = done.await {
            tracing::error!("an action was lost: {error}");
            if let Some(workload) = written {
                self.send(Event::LimitsWritten {
                    workload,
                    changed: Vec::new(),
                    error: Some(error.to_string()),
                });
            }
            if let Some((Some(workload), instance)) = started {
                let error = StartError {
                    stage: "carry the start out".to_owned(),
                    errno: None,
                    error: error.to_string(),
                };
                self.send(Event::StartFailed {
                    workload,
                    instance,
                    error,
                });
            }
        }
    }
}
