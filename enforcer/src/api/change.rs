//! Requests that change something. Each first asks who is asking.

use super::Api;
use super::error::Failure;
use super::part::{Body, Part};
use super::peer::Peer;
use super::views;
use crate::configuration::ConfigurationError;
use crate::failpoint::failpoint;
use crate::inbox::{Question, RequestError};
use axum::extract::{ConnectInfo, State};
use axum::response::{IntoResponse as _, Json, Response};
use enforcer_core::event::{AgentEvent, Request};
use enforcer_core::units::Percent;
use enforcer_core::{Event, WorkloadName};
use enforcer_manifest::parse_throttle;
use enforcer_model::requests::{ApplyAnswer, PlanAnswer, Proposal, Shutdown, Throttle};
use serde::de::DeserializeOwned;

pub(super) async fn request(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Part((name, word)): Part<(String, String)>,
    Body(body): Body,
) -> Result<Response, Failure> {
    failpoint!("request-taken");
    peer.may_change()?;
    let request = match word.as_str() {
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
    let parsed = WorkloadName::parse(&name).ok_or_else(|| Failure::no_such_workload(&name))?;
    let answer = api
        .events
        .ask(|reply| Question::Request(parsed, request, reply))
        .await;
    let answer = answer.ok_or_else(Failure::going_down)?;
    failpoint!("request-done");
    match answer {
        // The caller of `probe` wants the probes' answers.
        Ok(view) if request == Request::Probe => {
            Ok(Json(views::inspect(&api, &view)).into_response())
        }
        Ok(view) => Ok(Json(views::describe(&api, &view)).into_response()),
        Err(RequestError::NoSuchWorkload) => Err(Failure::no_such_workload(&name)),
        Err(RequestError::Failed(reason)) => Err(Failure::failed(reason)),
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
    peer.may_change()?;
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
    peer.may_change()?;
    let proposal = read_body::<Proposal>(&proposal)?;
    Ok(Json(api.configuration.plan(proposal).await?))
}

pub(super) async fn apply(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(proposal): Body,
) -> Result<Json<ApplyAnswer>, Failure> {
    peer.may_change()?;
    let proposal = read_body::<Proposal>(&proposal)?;
    Ok(Json(api.configuration.apply(proposal).await?))
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
