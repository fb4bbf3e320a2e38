//! Speaks to the agent over its Unix socket.

use super::Fault;
use crate::settings::Settings;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io;
use tokio::net::UnixStream;

/// One request, one answer.
pub(super) fn call(
    settings: &Settings,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Fault::Failed(format!("failed to start: {error}")))?;
    runtime.block_on(exchange(settings, method, path, body))
}

/// Reads an answer of the agent.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Fault> {
    T::deserialize(answer).map_err(|error| {
        Fault::Failed(format!(
            "the agent's answer cannot be read ({error}); is it another version?"
        ))
    })
}

/// One request, and an answer that comes in pieces, for as long as it comes.
pub(super) fn stream(
    settings: &Settings,
    path: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Fault::Failed(format!("failed to start: {error}")))?;
    runtime.block_on(async {
        let (mut sender, connection) = connect(settings).await?;
        let exchange = async {
            let request = request("GET", path, None)?;
            let response = sender.send_request(request).await.map_err(hung_up)?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let bytes = body.collect().await.map_err(hung_up)?.to_bytes();
                return Err(refusal(&serde_json::from_slice(&bytes).unwrap_or_default()));
            }
            while let Some(frame) = body.frame().await {
                // An agent that ends leaves it as it is.
                let Ok(frame) = frame else { break };
                if let Some(bytes) = frame.data_ref() {
                    take(bytes)?;
                }
            }
            Ok(())
        };
        tokio::select! {
            done = exchange => done,
            ended = connection => Err(Fault::Failed(format!("the agent hung up: {ended:?}"))),
        }
    })
}

type Connection = http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

async fn connect(
    settings: &Settings,
) -> Result<(http1::SendRequest<Full<Bytes>>, Connection), Fault> {
    let socket = settings.socket();
    let stream = UnixStream::connect(&socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Fault::NoAgent(format!(
                "no agent answers on {}; start one with `enforcer run -f FILE`",
                socket.display()
            )),
            io::ErrorKind::PermissionDenied => Fault::NotPermitted(format!(
                "you may not speak to the agent on {}",
                socket.display()
            )),
            _ => Fault::Failed(format!(
                "failed to connect to {}: {error}",
                socket.display()
            )),
        })?;
    http1::handshake(TokioIo::new(stream))
        .await
        .map_err(hung_up)
}

fn hung_up(error: hyper::Error) -> Fault {
    Fault::Failed(format!("the agent hung up: {error}"))
}

fn request(
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<hyper::Request<Full<Bytes>>, Fault> {
    let text = body.map(|body| body.to_string()).unwrap_or_default();
    hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "enforcer")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| Fault::Failed(format!("failed to make the request: {error}")))
}

async fn exchange(
    settings: &Settings,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Fault> {
    let (mut sender, connection) = connect(settings).await?;
    let exchange = async {
        let request = request(method, path, body)?;
        let response = sender.send_request(request).await.map_err(hung_up)?;
        let status = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(hung_up)?
            .to_bytes();
        Ok::<_, Fault>((status, bytes))
    };
    let (status, bytes) = tokio::select! {
        done = exchange => done?,
        // The connection ends by itself only with an error.
        ended = connection => return Err(Fault::Failed(format!("the agent hung up: {ended:?}"))),
    };
    let answer: Value = serde_json::from_slice(&bytes).map_err(|_| {
        Fault::Failed(format!(
            "the agent answered {status} and no JSON; is it another version?"
        ))
    })?;
    if status.is_success() {
        return Ok(answer);
    }
    Err(refusal(&answer))
}

/// What the agent says when it doesn't do what it is asked.
fn refusal(answer: &Value) -> Fault {
    let error = &answer["error"];
    let message = error["message"]
        .as_str()
        .unwrap_or("the agent refused without a reason")
        .to_owned();
    match error["code"].as_str() {
        Some("no_such_workload") => Fault::NoSuchWorkload(message),
        Some("not_permitted") => Fault::NotPermitted(message),
        Some("failed") => Fault::NotRunning(message),
        Some("bad_request") if message.contains('\n') => Fault::Drawn {
            drawn: message,
            summary: "the manifest was refused; nothing was changed".to_owned(),
        },
        _ => Fault::Failed(message),
    }
}
