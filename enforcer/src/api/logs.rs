//! A workload's output over HTTP, as it was written: its end, its older files, and what comes
//! next. It is read from the workload's log file, or from the [journal].

use super::Api;
use super::error::Failure;
use super::journal;
use super::part::Target;
use crate::inbox::Question;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use enforcer_core::ReplicaId;
use enforcer_core::spec::{LogTarget, WorkloadSpec};
use enforcer_kernel::log_file::Reader;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The time between two checks for new output.
const LOOK: Duration = Duration::from_millis(250);
/// Chunks that a slow reader may lag behind.
pub(super) const WAITING: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The number of last lines.
    tail: Option<u64>,
    #[serde(default)]
    follow: bool,
    /// The older files as well, oldest first.
    #[serde(default)]
    previous: bool,
}

pub(super) async fn logs(
    State(api): State<Api>,
    Target { id: parsed, .. }: Target,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Failure> {
    let Query(wanted) = wanted.map_err(|error| Failure::bad_request(error.body_text()))?;
    let name = parsed.to_string();
    let spec = spec_of(&api, &parsed).await?;
    if let Some(service) = spec.as_ref().and_then(|spec| spec.attach.as_ref()) {
        let how = service
            .logs()
            .map_or_else(String::new, |command| format!(": {command}"));
        let why = format!("{name} is {service}, whose owner has its output{how}");
        return Err(Failure::refused(why));
    }
    if spec
        .as_ref()
        .is_some_and(|spec| spec.logs.to == LogTarget::Journal)
    {
        let wanted = enforcer_kernel::journal::Wanted {
            tail: wanted.tail,
            follow: wanted.follow,
            previous: wanted.previous,
        };
        return journal::lines(&api, &parsed, wanted).await;
    }
    if spec.is_none() && has_replicas(&api, &parsed).await? {
        let why =
            format!("{name} has replicas, each with its own output: name one, such as {name}/0");
        return Err(Failure::refused(why));
    }
    let path = api.executor.log_path(&parsed);
    let executor = Arc::clone(&api.executor);
    let opened = super::blocking(move || {
        executor.settle_outputs();
        Ok(Reader::open(&path, wanted.tail, wanted.previous))
    });
    let reader = opened.await?.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::no_such_workload(&name),
        _ => Failure::refused(format!("failed to open its log: {error}")),
    })?;
    Ok(from_file(name, reader, wanted.follow))
}

/// Returns whether this is a workload with replicas, and not one of them.
async fn has_replicas(api: &Api, id: &ReplicaId) -> Result<bool, Failure> {
    if id.index().is_some() {
        return Ok(false);
    }
    let name = id.workload().clone();
    let group = api
        .events
        .ask(|reply| Question::Group(name, reply))
        .await
        .ok_or_else(Failure::going_down)?;
    Ok(group.is_some())
}

/// Returns the spec of a workload; `None` if it is gone, and may have left a file.
async fn spec_of(api: &Api, workload: &ReplicaId) -> Result<Option<Arc<WorkloadSpec>>, Failure> {
    let view = api
        .events
        .ask(|reply| Question::View(workload.clone(), reply))
        .await
        .ok_or_else(Failure::going_down)?;
    Ok(view.map(|view| view.spec))
}

fn from_file(name: String, mut reader: Reader, follow: bool) -> Response {
    let (chunks, waiting) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let read = tokio::task::spawn_blocking(move || {
                let chunk = reader.read();
                (reader, chunk)
            });
            let Ok((again, chunk)) = read.await else {
                return;
            };
            reader = again;
            match chunk {
                Ok(chunk) if chunk.is_empty() && !follow => return,
                Ok(chunk) if chunk.is_empty() => {
                    tokio::select! {
                        _ = look.tick() => {}
                        () = chunks.closed() => return,
                    }
                }
                Ok(chunk) => {
                    if chunks.send(Bytes::from(chunk)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!("{name}: its log was not read on: {error}");
                    return;
                }
            }
        }
    });
    body(waiting)
}

pub(super) fn body(chunks: mpsc::Receiver<Bytes>) -> Response {
    let body = Body::new(super::events::Lines(chunks));
    ([(CONTENT_TYPE, "application/octet-stream")], body).into_response()
}
