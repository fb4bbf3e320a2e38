//! One request to the agent over its Unix socket, and its answer.
//!
//! It is a request of HTTP/1.0, so the answer has no chunks and its end is the end of the connection.

use crate::Fault;
use enforcer_model::requests::ErrorCode;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The most headers of an answer.
const MOST_HEADERS: usize = 32;
/// The bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// An answer of the agent, as it came: JSON for another program may have keys that this version
/// does not know.
#[derive(Debug)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// Parses the answer.
    ///
    /// # Errors
    /// If it is not the JSON that this version expects.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        read(&self.0)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Parses an answer, or a part of one.
///
/// # Errors
/// If it is not the JSON that this version expects.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(json).map_err(|error| {
        Fault::Failed(format!(
            "the agent's answer cannot be read ({error}); is it another version?"
        ))
    })
}

/// Asks the agent.
///
/// # Errors
/// If no agent answers, or it refuses.
pub fn get(socket: &Path, path: &str) -> Result<Answer, Fault> {
    call(socket, "GET", path, "")
}

/// Sends a request that has no body.
///
/// # Errors
/// If no agent answers, or it refuses.
pub fn order(socket: &Path, path: &str) -> Result<Answer, Fault> {
    call(socket, "POST", path, "")
}

/// Sends a request that has a body.
///
/// # Errors
/// If no agent answers, or it refuses.
pub fn post(socket: &Path, path: &str, body: &impl Serialize) -> Result<Answer, Fault> {
    let body = serde_json::to_string(body)
        .map_err(|error| Fault::Failed(format!("failed to write the request: {error}")))?;
    call(socket, "POST", path, &body)
}

/// Escapes a text for a path or a query, so that it cannot become another path.
pub fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Sends one request, and passes on its answer piece by piece until it ends.
///
/// # Errors
/// If no agent answers, it refuses, or `take` fails.
pub fn stream(
    socket: &Path,
    path: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut stream = send(socket, "GET", path, "")?;
    let Head {
        status, mut body, ..
    } = Head::receive(&mut stream)?;
    if !is_success(status) {
        let _ = stream.read_to_end(&mut body);
        return Err(refusal(&body));
    }
    take(&body)?;
    body.resize(PIECE, 0);
    loop {
        match stream.read(&mut body) {
            // An agent that ends leaves it as it is.
            Ok(0) => return Ok(()),
            Ok(length) => take(&body[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}

/// Returns the process id of the agent.
///
/// # Errors
/// If no agent answers.
pub fn agent(socket: &Path) -> Result<u32, Fault> {
    let peer = getsockopt(&connect(socket)?, PeerCredentials).ok();
    let pid = peer.and_then(|peer| u32::try_from(peer.pid()).ok());
    pid.ok_or_else(|| Fault::Failed("failed to find the agent's process".to_owned()))
}

fn call(socket: &Path, method: &str, path: &str, body: &str) -> Result<Answer, Fault> {
    let mut stream = send(socket, method, path, body)?;
    let Head {
        status,
        length,
        mut body,
    } = Head::receive(&mut stream)?;
    let received = stream.read_to_end(&mut body);
    if received.is_err() || length.is_some_and(|length| length != body.len()) {
        return Err(cut_short());
    }
    match is_success(status) {
        true => Ok(Answer(body)),
        false => Err(refusal(&body)),
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn connect(socket: &Path) -> Result<UnixStream, Fault> {
    UnixStream::connect(socket).map_err(|error| {
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Fault::NoAgent(format!(
                "no agent answers on {socket}; start one with `enforcer run -f FILE`"
            )),
            io::ErrorKind::PermissionDenied => {
                Fault::NotPermitted(format!("you may not speak to the agent on {socket}"))
            }
            _ => Fault::Failed(format!("failed to connect to {socket}: {error}")),
        }
    })
}

fn send(socket: &Path, method: &str, path: &str, body: &str) -> Result<UnixStream, Fault> {
    let mut stream = connect(socket)?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: enforcer\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    // An agent that refuses a request before it has read all of it has answered nevertheless.
    let _ = stream.write_all(request.as_bytes());
    Ok(stream)
}

/// The head of an answer, and what has come of the body with it.
struct Head {
    status: u16,
    /// The length of the whole body, if the agent says it.
    length: Option<usize>,
    body: Vec<u8>,
}

impl Head {
    fn receive(stream: &mut UnixStream) -> Result<Self, Fault> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let length = match stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) if bytes.is_empty() => {
                    return Err(Fault::Failed("the agent hung up".to_owned()));
                }
                Ok(0) => return Err(cut_short()),
                Ok(length) => length,
                Err(error) => return Err(Fault::Failed(format!("the agent hung up: {error}"))),
            };
            bytes.extend_from_slice(&piece[..length]);
            if let Some(head) = Self::parse(&bytes)? {
                return Ok(head);
            }
        }
    }

    /// Returns `None` if more of it must come.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(bytes).map_err(|error| {
            let why = format!("the agent's answer is no HTTP ({error}); is it another program?");
            Fault::Failed(why)
        })?;
        let httparse::Status::Complete(begin) = parsed else {
            return Ok(None);
        };
        let mut named = head.headers.iter();
        let length = named.find(|header| header.name.eq_ignore_ascii_case("content-length"));
        Ok(Some(Self {
            status: head.code.unwrap_or_default(),
            length: length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok()),
            body: bytes.get(begin..).unwrap_or_default().to_vec(),
        }))
    }
}

fn cut_short() -> Fault {
    Fault::Failed("the agent hung up in the middle of its answer".to_owned())
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
        ErrorCode::BadRequest | ErrorCode::Refused => Fault::Refused(message),
        ErrorCode::NotFound
        | ErrorCode::WrongMethod
        | ErrorCode::TooManyRequests
        | ErrorCode::Busy
        | ErrorCode::GoingDown => Fault::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Listens at a path that no other test of this process has.
    fn listen() -> (UnixListener, PathBuf) {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let server = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("enforcer-client-{}-{server}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        (UnixListener::bind(&path).expect("a socket"), path)
    }

    /// Asks a server that sends this answer.
    fn asked(answer: &'static str) -> Result<Answer, Fault> {
        let (listener, path) = listen();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let length = client.read(&mut request).expect("a request");
            client.write_all(answer.as_bytes()).expect("an answer");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let answer = post(&path, "/v1/apply", &7);
        let request = server.join().expect("a server");
        let first = "POST /v1/apply HTTP/1.0\r\nhost: enforcer\r\n";
        assert!(
            request.starts_with(first) && request.ends_with("length: 1\r\n\r\n7"),
            "{request}"
        );
        std::fs::remove_file(path).expect("to clean up");
        answer
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let answer = asked("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n41").expect("an answer");
        assert_eq!(answer.read::<u32>().expect("a number"), 41);
        let answer = asked("HTTP/1.0 200 OK\r\n\r\n[\"no length\"]").expect("an answer");
        assert_eq!(answer.bytes(), b"[\"no length\"]");
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        for answer in [
            "",
            "HTTP/1.0 20",
            "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n41",
        ] {
            let fault = asked(answer).expect_err("it was cut short");
            assert!(fault.text().starts_with("the agent hung up"), "{fault:?}");
        }
        let fault = asked("SSH-2.0-OpenSSH\r\n\r\n").expect_err("no HTTP");
        assert!(fault.text().contains("no HTTP"), "{fault:?}");
    }

    #[test]
    fn a_stream_is_passed_on_until_it_ends() {
        let (listener, path) = listen();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let _ = client.read(&mut [0; 4096]).expect("a request");
            for piece in ["HTTP/1.0 200 OK\r\n", "\r\none ", "two"] {
                client.write_all(piece.as_bytes()).expect("a piece");
            }
        });
        let mut all = Vec::new();
        let streamed = stream(&path, "/", |piece| {
            all.extend_from_slice(piece);
            Ok(())
        });
        streamed.expect("a stream");
        server.join().expect("a server");
        assert_eq!(all, b"one two");
        std::fs::remove_file(path).expect("to clean up");
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let fault = asked(
            "HTTP/1.0 404 Not Found\r\n\r\n{\"error\":{\"code\":\"no_such_workload\",\"message\":\"no\"}}",
        );
        assert!(matches!(fault, Err(Fault::NoSuchWorkload(text)) if text == "no"));
        let fault = asked("HTTP/1.0 500 Oops\r\n\r\n").expect_err("a refusal");
        assert_eq!(fault.text(), "the agent refused without a reason");
    }

    #[test]
    fn without_an_agent_the_fault_says_how_to_start_one() {
        let fault = get(Path::new("/nonexistent/socket"), "/").expect_err("no agent");
        assert!(matches!(&fault, Fault::NoAgent(text) if text.contains("enforcer run")));
    }
}
