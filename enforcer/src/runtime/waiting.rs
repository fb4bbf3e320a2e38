//! The callers that wait for the result of a request.

use crate::inbox::RequestError;
use enforcer_core::event::{InstanceId, Request, RolloutState};
use enforcer_core::supervisor::{ProbeView, View};
use enforcer_core::units::MonoTime;
use enforcer_core::{ReplicaId, Supervisor, WorkloadName, WorkloadState};
use tokio::sync::oneshot;

/// Someone who waits for a workload to come to rest or to life.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The workload or its replicas, each with the instance there was when it was asked.
    pub(super) asked_of: Vec<(ReplicaId, InstanceId)>,
    /// The workload whose rollout is waited for.
    pub(super) rollout_of: Option<WorkloadName>,
    pub(super) request: Request,
    pub(super) asked: MonoTime,
    pub(super) reply: oneshot::Sender<Result<View, RequestError>>,
}

pub(super) trait PartitionMap: Iterator + Sized {
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

/// Returns the result of a request; `None` while it is under way.
pub(super) fn outcome_of(
    supervisor: &Supervisor,
    waiter: &Waiter,
) -> Option<Result<View, RequestError>> {
    if let Some(name) = &waiter.rollout_of {
        let stays = |what: &str| {
            let why = format!("{what}; see `enforcer rollout status {name}`");
            Some(Err(RequestError::Failed(why)))
        };
        let rollout = supervisor.group(name).and_then(|group| group.rollout);
        return match rollout {
            None => {
                let mut views = supervisor.views_of(name).into_iter();
                views.next().map(Ok)
            }
            Some(RolloutState::Paused) => stays("the rollout is paused"),
            Some(RolloutState::Failed) => stays("the rollout has failed, and goes back"),
            Some(_) => None,
        };
    }
    let mut last = None;
    for (id, instance) in &waiter.asked_of {
        match outcome(supervisor.view(id), *instance, waiter)? {
            Ok(view) => last = last.or(Some(Ok(view))),
            Err(error) if waiter.asked_of.len() == 1 => return Some(Err(error)),
            Err(RequestError::Failed(why)) => {
                return Some(Err(RequestError::Failed(format!("{id}: {why}"))));
            }
            // It was removed meanwhile.
            Err(RequestError::NoSuchWorkload) => {}
        }
    }
    last.or(Some(Err(RequestError::NoSuchWorkload)))
}

/// Returns the result of a request for one instance.
fn outcome(
    view: Option<View>,
    instance: InstanceId,
    waiter: &Waiter,
) -> Option<Result<View, RequestError>> {
    let Some(view) = view else {
        return Some(Err(RequestError::NoSuchWorkload));
    };
    let failed = |why: &str| Some(Err(RequestError::Failed(why.to_owned())));
    if let Request::Throttle(_) | Request::Release = waiter.request {
        return match view {
            View { writing: true, .. } => None,
            View {
                limits_refused: Some(why),
                ..
            } => failed(&format!("the kernel refused the limits: {why}")),
            view => Some(Ok(view)),
        };
    }
    if let Request::Deadline(_) = waiter.request {
        return Some(Ok(view));
    }
    if waiter.request == Request::Probe {
        // A resting probe is not asked, and a workload that does not run answers nothing.
        let answered = |probe: &ProbeView| {
            probe.at_rest
                || probe
                    .last
                    .as_ref()
                    .is_some_and(|last| last.at >= waiter.asked)
        };
        return match view.state {
            WorkloadState::Running if !view.probes.iter().all(answered) => None,
            WorkloadState::Running => Some(Ok(view)),
            state => failed(&format!("it is {state}: there is nothing to ask")),
        };
    }
    if waiter.request == Request::Reload {
        return match (view.state, &view.reloaded) {
            (WorkloadState::Running, Some((at, error))) if *at >= waiter.asked => match error {
                Some(why) => failed(why),
                None => Some(Ok(view)),
            },
            (WorkloadState::Running, _) => None,
            (state, _) => failed(&format!("it is {state}: there is nothing to reload")),
        };
    }
    if view.stuck {
        return failed(&view.reason);
    }
    let upwards = matches!(waiter.request, Request::Start | Request::Restart);
    match view.state {
        WorkloadState::Running if upwards => Some(Ok(view)),
        WorkloadState::Failed | WorkloadState::BackingOff | WorkloadState::BreakerOpen
            if upwards =>
        {
            failed(&view.reason)
        }
        WorkloadState::Stopped if upwards => failed("it was stopped meanwhile"),
        WorkloadState::Stopped | WorkloadState::Failed | WorkloadState::Pending if !upwards => {
            Some(Ok(view))
        }
        _ if !upwards && view.instance > instance => failed("it was started again meanwhile"),
        _ => None,
    }
}
