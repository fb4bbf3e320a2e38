//! The history over HTTP: a part of it, what comes next as a stream, and the chain of
//! causes behind what happened to a workload last.

use super::Api;
use super::error::Failure;
use super::part::Target;
use super::peer::Peer;
use super::unread;
use crate::store::history::{Batch, History};
use crate::store::query::Query;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Query as Asked, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Json, Response};
use enforcer_core::event::Kind;
use enforcer_model::Record;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// The most links of a chain that are reported.
const CHAIN: usize = 20;
/// Lines that wait for a slow reader, and as many more that were read for it.
const WAITING: usize = 32;
/// The pause between two tries to read a history that is busy.
const PAUSE: Duration = Duration::from_secs(1);
/// The most further tries after the first one.
const TRIES: u32 = 3;

pub(super) async fn list(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Result<Asked<Query>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Asked(query) = query.map_err(|error| Failure::bad_request(error.body_text()))?;
    let place = api.lists.place(peer).await?;
    let history = Arc::clone(&api.history);
    let reported =
        super::blocking(move || Ok(serde_json::to_vec(&history.find(&query)).unwrap_or_default()))
            .await?;
    let kind = [(CONTENT_TYPE, "application/json")];
    Ok((kind, unread::body(reported, place)).into_response())
}

/// Streams one event a line, from the matching part of the past on, for as long as the client
/// reads.
pub(super) async fn stream(
    State(api): State<Api>,
    query: Result<Asked<Query>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Asked(mut query) = query.map_err(|error| Failure::bad_request(error.body_text()))?;
    let history = Arc::clone(&api.history);
    // New events are followed first, so that one that comes while the past is read is sent once,
    // after it.
    let (kept, batches) = history.follow();
    if query.last.is_some() {
        let (begin, asked) = (Arc::clone(&history), query.clone());
        let found = super::blocking(move || Ok(begin.find(&asked))).await?;
        let newest = kept.last().map_or(history.durable(), |last| last.seq);
        let begin = found
            .first()
            .map_or(newest.0, |first| first.seq.0.saturating_sub(1));
        query.after = Some(begin);
    }
    drop(kept);
    let (lines, waiting) = mpsc::channel(WAITING);
    let stream = Stream {
        last: query.after.unwrap_or(0),
        query,
        history,
        lines,
    };
    tokio::spawn(stream.run(batches));
    let body = Body::new(Lines(waiting));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// A stream of events that is as fast as its reader. A reader that stops costs a small page of
/// records, and loses none that can still be read.
struct Stream {
    query: Query,
    history: Arc<History>,
    lines: mpsc::Sender<Bytes>,
    /// Everything up to this event was sent, or is not wanted.
    last: u64,
}

impl Stream {
    async fn run(mut self, mut batches: Receiver<Batch>) {
        if !self.report_past().await {
            return;
        }
        loop {
            let next = tokio::select! {
                next = batches.recv() => next,
                () = self.lines.closed() => return,
            };
            let goes_on = match next {
                Ok(batch) => self.report(&batch).await,
                // The events that were missed are in the history.
                Err(RecvError::Lagged(_)) => self.report_past().await,
                Err(RecvError::Closed) => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Sends the history from the last event that was sent up to its end.
    async fn report_past(&mut self) -> bool {
        let mut failed = 0;
        loop {
            let history = Arc::clone(&self.history);
            let query = Query {
                after: Some(self.last),
                last: None,
                first: Some(WAITING),
                ..self.query.clone()
            };
            let asked = query.clone();
            let page = tokio::task::spawn_blocking(move || history.page(&asked)).await;
            let page = match page.ok().flatten() {
                Some(page) if page.is_empty() => return true,
                Some(page) => page,
                None if failed < TRIES => {
                    failed += 1;
                    let waited = tokio::time::timeout(PAUSE, self.lines.closed()).await;
                    if waited.is_ok() {
                        return false;
                    }
                    continue;
                }
                // If the history still cannot be read, the stream goes on with the events in
                // memory.
                None => {
                    let remembered = self.history.remembered(&query);
                    return self.report(&remembered).await;
                }
            };
            failed = 0;
            if !self.report(&page).await {
                return false;
            }
        }
    }

    async fn report(&mut self, records: &[Arc<Record>]) -> bool {
        for record in records {
            if record.seq.0 <= self.last || !self.query.takes(record) {
                continue;
            }
            if self.lines.send(line(record)).await.is_err() {
                return false;
            }
            self.last = record.seq.0;
        }
        true
    }
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

/// Returns the last event that changed a workload's course, or else its last event, with the chain
/// of causes, the latest first.
pub(super) async fn why(
    State(api): State<Api>,
    Target { id: parsed, .. }: Target,
) -> Result<Json<Vec<Arc<Record>>>, Failure> {
    let history = Arc::clone(&api.history);
    let chain = super::blocking(move || {
        let last = |kind: Option<Kind>| {
            let query = Query {
                workload: Some(parsed.to_string()),
                kind: kind.map(|kind| kind.to_string()),
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

/// The kinds of events that change a workload's course.
const TURNS: [Kind; 8] = [
    Kind::Restart,
    Kind::Breaker,
    Kind::Exit,
    Kind::Stop,
    Kind::CpuLoop,
    Kind::OomKill,
    Kind::Rollout,
    Kind::Hang,
];

/// Returns the chain from an event to its first cause.
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
