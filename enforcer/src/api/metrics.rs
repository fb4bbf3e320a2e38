//! The metrics: as Prometheus takes them, and the same as JSON.

use super::Api;
use super::error::Failure;
use crate::runtime::Question;
use crate::telemetry::Format;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// `/metrics`: text, unless JSON is asked for.
pub(super) async fn metrics(state: State<Api>, headers: HeaderMap) -> Result<Response, Failure> {
    let accepted = headers
        .get(ACCEPT)
        .and_then(|accepted| accepted.to_str().ok());
    let format = match accepted {
        Some(accepted) if accepted.contains("application/json") => Format::Json,
        _ => Format::Text,
    };
    scrape(state, format).await
}

/// `/metrics/prometheus`: text, whatever is accepted.
pub(super) async fn text(state: State<Api>) -> Result<Response, Failure> {
    scrape(state, Format::Text).await
}

/// `/v1/metrics`.
pub(super) async fn json(state: State<Api>) -> Result<Response, Failure> {
    scrape(state, Format::Json).await
}

async fn scrape(State(api): State<Api>, format: Format) -> Result<Response, Failure> {
    let views = api
        .events
        .ask(Question::Views)
        .await
        .ok_or_else(Failure::going_down)?;
    // Two at the same time would read everything twice, and hold it twice.
    let telemetry = Arc::clone(&api.telemetry);
    let _turn = api.scraping.lock().await;
    let told =
        super::change::blocking(move || Ok(telemetry.scrape(&api.executor, views, format))).await?;
    let kind = match format {
        Format::Text => prometheus::TEXT_FORMAT,
        Format::Json => "application/json",
    };
    Ok(([(CONTENT_TYPE, kind)], told).into_response())
}
