//! Requests that change something. Each first asks who is asking.

use super::Api;
use super::error::Failure;
use super::part::{Body, Target};
use super::peer::{Peer, Right};
use super::views;
use crate::configuration::ConfigurationError;
use crate::failpoint::failpoint;
use crate::inbox::{Question, RequestError};
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse as _, Json, Response};
use enforcer_core::Event;
use enforcer_core::event::{AgentEvent, Request};
use enforcer_core::group::GroupRequest;
use enforcer_core::units::{MonoTime, Percent};
use enforcer_kernel::clock;
use enforcer_manifest::parse_throttle;
use enforcer_model::requests::{
    ApplyAnswer, Deadline, PlanAnswer, Proposal, RolloutAction, RolloutRequest, Scale, Shutdown,
    Throttle,
};
use enforcer_model::views::Replicas;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The longest time that a leased workload gets at once.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn request(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Target { id, parts }: Target,
    Body(body): Body,
) -> Result<Response, Failure> {
    failpoint!("request-taken");
    peer.may_change(id.workload(), &api.configuration).await?;
    let word = parts.get("request").map(String::as_str);
    let request = match word.unwrap_or_default() {
        "start" => Request::Start,
        "stop" => Request::Stop,
        "restart" => Request::Restart,
        "kill" => Request::Kill,
        "throttle" => Request::Throttle(throttle(&body)?),
        "release" => Request::Release,
        "probe" => Request::Probe,
        "reload" => Request::Reload,
        _ => return Err(Failure::not_found("there is no such route")),
    };
    let asked = id.clone();
    let answer = api
        .events
        .ask(|reply| Question::Request(asked, request, reply))
        .await;
    let answer = answer.ok_or_else(Failure::going_down)?;
    failpoint!("request-done");
    match answer {
        // The caller of `probe` wants the probes' answers.
        Ok(view) if request == Request::Probe => {
            Ok(Json(views::inspect(&api, &view)).into_response())
        }
        Ok(view) => Ok(Json(views::describe(&api, &view)).into_response()),
        Err(RequestError::NoSuchWorkload) => Err(Failure::no_such_workload(&id.to_string())),
        Err(RequestError::Failed(reason)) => Err(Failure::failed(reason)),
    }
}

/// Moves the deadline of a leased workload.
pub(super) async fn deadline(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Target { id, .. }: Target,
    Body(body): Body,
) -> Result<Response, Failure> {
    peer.may_change(id.workload(), &api.configuration).await?;
    let Deadline { boot_seconds } = read_body(&body)?;
    let at = Duration::try_from_secs_f64(boot_seconds)
        .map_err(|error| Failure::bad_request(format!("boot_seconds: {error}")))?;
    let until = MonoTime(0).after(at);
    if until.since(clock::now()) > LONGEST_LEASE {
        return Err(Failure::bad_request(
            "boot_seconds: expected at most 24 h from now",
        ));
    }
    let asked = id.clone();
    let view = api.events.ask(|reply| Question::View(asked, reply)).await;
    let view = view.ok_or_else(Failure::going_down)?;
    let view = view.ok_or_else(|| Failure::no_such_workload(&id.to_string()))?;
    if !view.spec.leased {
        return Err(Failure::refused(format!(
            "{id} has no deadline: it is not `leased`"
        )));
    }
    let (asked, request) = (id.clone(), Request::Deadline(until));
    let answer = api
        .events
        .ask(|reply| Question::Request(asked, request, reply))
        .await;
    match answer.ok_or_else(Failure::going_down)? {
        Ok(view) => Ok(Json(views::describe(&api, &view)).into_response()),
        Err(RequestError::NoSuchWorkload) => Err(Failure::no_such_workload(&id.to_string())),
        Err(RequestError::Failed(reason)) => Err(Failure::failed(reason)),
    }
}

/// Carries out a command about the rollout of a workload.
pub(super) async fn rollout(
    state: State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    target: Target,
    Body(body): Body,
) -> Result<Json<Replicas>, Failure> {
    peer.may_change(target.id.workload(), &state.configuration)
        .await?;
    let RolloutRequest { action } = read_body(&body)?;
    let request = match action {
        RolloutAction::Pause => GroupRequest::Pause,
        RolloutAction::Resume => GroupRequest::Resume,
        RolloutAction::Undo => GroupRequest::Undo,
        RolloutAction::Retry => GroupRequest::Retry,
    };
    command(state, target, request).await
}

/// Changes the number of replicas of a workload.
pub(super) async fn scale(
    state: State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    target: Target,
    Body(body): Body,
) -> Result<Json<Replicas>, Failure> {
    peer.may_change(target.id.workload(), &state.configuration)
        .await?;
    let Scale { replicas } = read_body(&body)?;
    command(state, target, GroupRequest::Scale(replicas)).await
}

async fn command(
    state: State<Api>,
    target: Target,
    request: GroupRequest,
) -> Result<Json<Replicas>, Failure> {
    let name = target.id.workload().clone();
    let answer = state
        .0
        .events
        .ask(|reply| Question::GroupRequest(name, request, reply))
        .await;
    match answer.ok_or_else(Failure::going_down)? {
        Ok(()) => views::group(state, target).await,
        Err(why) => Err(Failure::failed(why)),
    }
}

fn throttle(body: &[u8]) -> Result<Percent, Failure> {
    let asked: Throttle = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("expected {{\"cpu\": \"20%\"}}: {error}")))?;
    parse_throttle(&asked.cpu).map_err(|expected| {
        Failure::bad_request(format!("cpu is `{}`: expected {expected}", asked.cpu))
    })
}

/// Returns the contents of a body, or its fault.
fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("failed to parse the body as JSON: {error}")))
}

pub(super) async fn shutdown(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(asked): Body,
) -> Result<Json<Shutdown>, Failure> {
    peer.may_change_all(&api.configuration)?;
    let asked: Shutdown = read_body(&asked)?;
    api.events.send(match asked.workloads {
        true => Event::Agent(AgentEvent::Shutdown),
        false => Event::Agent(AgentEvent::Leave),
    });
    Ok(Json(asked))
}

/// Plans a change. Only a caller with the right to change gets an answer: the answer quotes
/// lines of the manifest, which may be secret, and the lookup of accounts starts processes.
pub(super) async fn plan(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(proposal): Body,
) -> Result<Json<PlanAnswer>, Failure> {
    let of = delegate(peer, &api)?;
    let proposal = read_body::<Proposal>(&proposal)?;
    Ok(Json(api.configuration.plan(proposal, of).await?))
}

pub(super) async fn apply(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(proposal): Body,
) -> Result<Json<ApplyAnswer>, Failure> {
    let of = delegate(peer, &api)?;
    let proposal = read_body::<Proposal>(&proposal)?;
    Ok(Json(api.configuration.apply(proposal, of).await?))
}

/// Returns the user whose file the peer may change; `None` for one who may change everything.
fn delegate(peer: Peer, api: &Api) -> Result<Option<String>, Failure> {
    match peer.right(&api.configuration)? {
        Right::All => Ok(None),
        Right::Of(user) => Ok(Some(user)),
    }
}

/// Returns the text of the file that the peer may change.
pub(super) async fn file(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<String, Failure> {
    match delegate(peer, &api)? {
        Some(user) => Ok(api.configuration.text_of(user).await?),
        None => Err(Failure::bad_request(
            "no file of the manifest is yours alone: `--delegate` names users with one",
        )),
    }
}

impl From<ConfigurationError> for Failure {
    fn from(error: ConfigurationError) -> Self {
        match error {
            ConfigurationError::Faulty(message) => Self::bad_request(message),
            ConfigurationError::Refused(message) => Self::refused(message),
            ConfigurationError::Ending => Self::going_down(),
        }
    }
}
