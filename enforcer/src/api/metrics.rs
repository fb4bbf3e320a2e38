//! The metrics: as Prometheus takes them, and the same as JSON.

use super::Api;
use super::error::Failure;
use super::peer::Peer;
use super::unread;
use crate::inbox::Question;
use crate::telemetry::Format;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// `/metrics`: text, unless JSON is asked for.
pub(super) async fn metrics(
    state: State<Api>,
    peer: ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let accepted = headers
        .get(ACCEPT)
        .and_then(|accepted| accepted.to_str().ok());
    let format = match accepted {
        Some(accepted) if accepted.contains("application/json") => Format::Json,
        _ => Format::Text,
    };
    scrape(state, peer, format).await
}

/// `/metrics/prometheus`: text, whatever is accepted.
pub(super) async fn text(state: State<Api>, peer: ConnectInfo<Peer>) -> Result<Response, Failure> {
    scrape(state, peer, Format::Text).await
}

/// `/v1/metrics`.
pub(super) async fn json(state: State<Api>, peer: ConnectInfo<Peer>) -> Result<Response, Failure> {
    scrape(state, peer, Format::Json).await
}

async fn scrape(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    format: Format,
) -> Result<Response, Failure> {
    let place = api.scrapes.place(peer).await?;
    // Two scrapes at the same time would read everything twice. The turn belongs to the work, which
    // goes on when the client has gone.
    let turn = Arc::clone(&api.scraping).lock_owned().await;
    let views = api
        .events
        .ask(Question::Views)
        .await
        .ok_or_else(Failure::going_down)?;
    let groups = api.events.ask(Question::Groups).await;
    let groups = groups.ok_or_else(Failure::going_down)?;
    let telemetry = Arc::clone(&api.telemetry);
    let reported = super::blocking(move || {
        let reported = telemetry.scrape(&api.executor, (views, groups), format);
        drop(turn);
        Ok(reported)
    })
    .await?;
    let kind = match format {
        Format::Text => prometheus::TEXT_FORMAT,
        Format::Json => "application/json",
    };
    Ok(([(CONTENT_TYPE, kind)], unread::body(reported, place)).into_response())
}
