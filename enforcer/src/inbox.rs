//! The way into the runtime: the channel of events and questions that every other part of the agent
//! sends into.

use enforcer_core::event::{Event, Prune, Request};
use enforcer_core::group::{GroupRequest, GroupView};
use enforcer_core::plan::Plan;
use enforcer_core::spec::Manifest;
use enforcer_core::supervisor::View;
use enforcer_core::{ReplicaId, WorkloadName};
use enforcer_model::requests::UnwrittenLimits;
use tokio::sync::{mpsc, oneshot};

/// The way in for events and questions.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::UnboundedSender<Message>);

impl Events {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends an event, without a wait. After the end of the runtime the event is dropped.
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

/// A question or a request of the API.
#[derive(Debug)]
pub(crate) enum Question {
    Views(oneshot::Sender<Vec<View>>),
    View(ReplicaId, oneshot::Sender<Option<View>>),
    /// Answered when the request is carried out, or has failed.
    Request(
        ReplicaId,
        Request,
        oneshot::Sender<Result<View, RequestError>>,
    ),
    /// Asks for the replicas of a workload; `None` if it has none.
    Group(
        WorkloadName,
        oneshot::Sender<Option<(GroupView, Vec<View>)>>,
    ),
    /// Answered at once: with the reason, if the command cannot be carried out.
    GroupRequest(
        WorkloadName,
        GroupRequest,
        oneshot::Sender<Result<(), String>>,
    ),
    Groups(oneshot::Sender<Vec<(WorkloadName, GroupView)>>),
    /// Completes a plan with what the agent knows beside the manifests.
    Plan(Box<Plan>, oneshot::Sender<Plan>),
    /// Asks for the manifest that is in force.
    Manifest(oneshot::Sender<Manifest>),
    /// Answered with the changes, before they are carried out.
    Apply {
        manifest: Box<Manifest>,
        prune: Prune,
        reply: oneshot::Sender<Plan>,
    },
    /// Answered when no limit is on its way to the kernel.
    LimitsWritten(oneshot::Sender<()>),
    UnwrittenLimits(oneshot::Sender<Vec<UnwrittenLimits>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    NoSuchWorkload,
    /// The agent tried, and failed for this reason.
    Failed(String),
}
