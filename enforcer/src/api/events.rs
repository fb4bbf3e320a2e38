//! The history over HTTP: a part of it, what comes next as a stream, and the chain of
//! causes behind what happened to a workload last.

use super::Api;
use super::error::Failure;
use super::part::Part;
use crate::store::record::{Query, Record};
use axum::body::{Body, Bytes};
use axum::extract::{Query as Asked, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use enforcer_core::WorkloadName;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// Links of a chain that is told.
const CHAIN: usize = 20;
/// Lines that a slow reader may lag behind before it is left alone.
const WAITING: usize = 256;

pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Asked<Query>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Vec<Arc<Record>>>, Failure> {
    let Asked(query) = query.map_err(|error| Failure::bad_request(error.body_text()))?;
    let history = Arc::clone(&api.history);
    super::change::blocking(move || Ok(Json(history.find(&query)))).await
}

/// One event a line, from what fits of the past on, for as long as somebody reads.
pub(super) async fn stream(
    State(api): State<Api>,
    query: Result<Asked<Query>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Asked(query) = query.map_err(|error| Failure::bad_request(error.body_text()))?;
    let history = Arc::clone(&api.history);
    // Followed first: what comes while the past is read is told after it, once.
    let (_, mut batches) = history.follow();
    let (past, query) = super::change::blocking(move || {
        let past = history.find(&query);
        Ok((past, query))
    })
    .await?;
    let (lines, waiting) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut last = query.after.unwrap_or(0);
        for record in past {
            last = last.max(record.seq.0);
            if lines.send(line(&record)).await.is_err() {
                return;
            }
        }
        loop {
            let next = tokio::select! {
                next = batches.recv() => next,
                () = lines.closed() => return,
            };
            let batch = match next {
                Ok(batch) => batch,
                // It is asked for again by its number, from where it was left.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            };
            let new = batch.iter().filter(|record| record.seq.0 > last);
            for record in new.filter(|record| query.takes(record)) {
                if lines.send(line(record)).await.is_err() {
                    return;
                }
            }
        }
    });
    let body = Body::new(Lines(waiting));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn line(record: &Record) -> Bytes {
    let mut text = serde_json::to_vec(record).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// A body that ends when its sender does.
pub(super) struct Lines(pub(super) mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        let next = self.0.poll_recv(context);
        next.map(|line| line.map(|line| Ok(hyper::body::Frame::data(line))))
    }
}

/// What happened to a workload last, and what that came from, the latest first.
pub(super) async fn why(
    State(api): State<Api>,
    Part(name): Part<String>,
) -> Result<Json<Vec<Arc<Record>>>, Failure> {
    let parsed = WorkloadName::parse(&name).ok_or_else(|| Failure::no_such_workload(&name))?;
    let history = Arc::clone(&api.history);
    let chain = super::change::blocking(move || {
        let last = |kind: Option<&str>| {
            let query = Query {
                workload: Some(parsed.to_string()),
                kind: kind.map(str::to_owned),
                last: Some(1),
                ..Query::default()
            };
            history.find(&query).pop()
        };
        let turns = TURNS.into_iter().filter_map(|kind| last(Some(kind)));
        let begin = turns.max_by_key(|record| record.seq).or_else(|| last(None));
        Ok(chain(begin, |seq| history.get(seq)))
    })
    .await?;
    Ok(Json(chain))
}

/// What says that something has changed for a workload.
const TURNS: [&str; 6] = ["restart", "breaker", "exit", "stop", "cpu_loop", "oom_kill"];

/// From an event to its first cause.
fn chain(
    begin: Option<Arc<Record>>,
    get: impl Fn(enforcer_core::event::Seq) -> Option<Arc<Record>>,
) -> Vec<Arc<Record>> {
    let mut chain: Vec<Arc<Record>> = begin.into_iter().collect();
    while let Some(last) = chain.last()
        && chain.len() < CHAIN
        && let Some(cause) = last.caused_by.filter(|cause| *cause < last.seq)
        && let Some(found) = get(cause)
    {
        chain.push(found);
    }
    chain
}
