//! The metrics: as Prometheus takes them, and the same as JSON.

use super::Api;
use super::error::Failure;
use crate::runtime::Question;
use crate::telemetry::Format;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;

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
    // Each answer is megabytes with many workloads: few may wait to be read at a time.
    let place = Arc::clone(&api.answers).try_acquire_owned();
    let place = place.map_err(|_| Failure::busy("others are being told the metrics"))?;
    // Two at the same time would read everything twice. The turn goes with the work, which
    // goes on when whoever asked has gone.
    let turn = Arc::clone(&api.scraping).lock_owned().await;
    let views = api
        .events
        .ask(Question::Views)
        .await
        .ok_or_else(Failure::going_down)?;
    let telemetry = Arc::clone(&api.telemetry);
    let told = super::change::blocking(move || {
        let told = telemetry.scrape(&api.executor, views, format);
        drop(turn);
        Ok(told)
    })
    .await?;
    let kind = match format {
        Format::Text => prometheus::TEXT_FORMAT,
        Format::Json => "application/json",
    };
    let body = Body::new(Held {
        text: Some(Bytes::from(told)),
        _place: place,
    });
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

/// A text that holds a place until it was taken, or whoever asked has gone.
struct Held {
    text: Option<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // In pieces, so that the place is held until the last one is asked for.
        const PIECE: usize = 64 << 10;
        let Some(text) = self.text.as_mut().filter(|text| !text.is_empty()) else {
            return Poll::Ready(None);
        };
        let piece = text.split_to(PIECE.min(text.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.text.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
    }
}
