//! Speaks to the agent over its Unix socket.

use crate::fault::Fault;
use crate::settings::Settings;
use enforcer_model::requests::ErrorCode;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::net::UnixStream;

/// An answer of the agent, as it came: JSON for another program may have keys that this version
/// does not know.
pub(super) struct Answer(Bytes);

impl Answer {
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        read(&self.0)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads an answer, or a part of one.
pub(super) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(json).map_err(|error| {
        Fault::Failed(format!(
            "the agent's answer cannot be read ({error}); is it another version?"
        ))
    })
}

/// Asks the agent.
pub(super) fn get(settings: &Settings, path: &str) -> Result<Answer, Fault> {
    call(settings, "GET", path, String::new())
}

/// Sends a request that has a body, and returns the answer.
pub(super) fn post(
    settings: &Settings,
    path: &str,
    body: &impl Serialize,
) -> Result<Answer, Fault> {
    let body = serde_json::to_string(body)
        .map_err(|error| Fault::Failed(format!("failed to write the request: {error}")))?;
    call(settings, "POST", path, body)
}

/// Sends a request that has no body, and returns the answer.
pub(super) fn order(settings: &Settings, path: &str) -> Result<Answer, Fault> {
    call(settings, "POST", path, String::new())
}

/// Returns the process id of the agent.
pub(super) fn agent(settings: &Settings) -> Result<u32, Fault> {
    let stream = runtime()?.block_on(open(settings))?;
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
    let pid = peer.and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| Fault::Failed("failed to find the agent's process".to_owned()))
}

fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Fault::Failed(format!("failed to start: {error}")))
}

fn call(settings: &Settings, method: &str, path: &str, body: String) -> Result<Answer, Fault> {
    runtime()?.block_on(exchange(settings, method, path, body))
}

/// Sends one request, and passes on its answer piece by piece until it ends.
pub(super) fn stream(
    settings: &Settings,
    path: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    runtime()?.block_on(async {
        let (mut sender, connection) = connect(settings).await?;
        let exchange = async {
            let request = request("GET", path, String::new())?;
            let response = sender.send_request(request).await.map_err(hung_up)?;
            let status = response.status();
            let mut body = response.into_body();
            if !status.is_success() {
                let bytes = body.collect().await.map_err(hung_up)?.to_bytes();
                return Err(refusal(&bytes));
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
    http1::handshake(TokioIo::new(open(settings).await?))
        .await
        .map_err(hung_up)
}

async fn open(settings: &Settings) -> Result<UnixStream, Fault> {
    let socket = settings.socket();
    UnixStream::connect(&socket)
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
        })
}

fn hung_up(error: hyper::Error) -> Fault {
    Fault::Failed(format!("the agent hung up: {error}"))
}

fn request(method: &str, path: &str, body: String) -> Result<hyper::Request<Full<Bytes>>, Fault> {
    hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "enforcer")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Fault::Failed(format!("failed to make the request: {error}")))
}

async fn exchange(
    settings: &Settings,
    method: &str,
    path: &str,
    body: String,
) -> Result<Answer, Fault> {
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
    if status.is_success() {
        return Ok(Answer(bytes));
    }
    Err(refusal(&bytes))
}

/// An error of an agent of any version, which may have codes that this one does not know.
#[derive(Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Deserialize)]
struct RefusalBody {
    code: String,
    message: String,
}

/// Returns the fault for an answer that is an error.
fn refusal(answer: &[u8]) -> Fault {
    let Ok(Refusal { error }) = serde_json::from_slice(answer) else {
        return Fault::Failed("the agent refused without a reason".to_owned());
    };
    let message = error.message;
    let Some(code) = ErrorCode::parse(&error.code) else {
        return Fault::Failed(message);
    };
    match code {
        ErrorCode::NoSuchWorkload => Fault::NoSuchWorkload(message),
        ErrorCode::NotPermitted => Fault::NotPermitted(message),
        ErrorCode::Failed => Fault::NotRunning(message),
        ErrorCode::BadRequest if message.contains('\n') => Fault::Drawn {
            drawn: message,
            summary: "the manifest was refused; nothing was changed".to_owned(),
        },
        ErrorCode::BadRequest
        | ErrorCode::NotFound
        | ErrorCode::WrongMethod
        | ErrorCode::Refused
        | ErrorCode::TooManyRequests
        | ErrorCode::Busy
        | ErrorCode::GoingDown => Fault::Failed(message),
    }
}
