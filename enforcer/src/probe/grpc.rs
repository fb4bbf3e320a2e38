//! A `grpc` probe: the standard health protocol (grpc/doc/health-checking.md) over HTTP/2 without TLS.
//! Its two messages have one field each, so no compiler of protocols is needed.

use super::way::Target;
use super::{dial, failed, too_late};
use crate::report::error_chain;
use enforcer_core::probe::Outcome;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{HeaderMap, Method, Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// An answer has seven bytes.
const LONGEST_ANSWER: usize = 4 << 10;
/// The step that has not happened yet.
const MISSING: [&str; 3] = ["no address", "no connection", "no answer"];

pub(super) async fn ask(target: &Target<'_>, service: Option<&str>, timeout: Duration) -> Outcome {
    let missing = AtomicUsize::new(0);
    let asked = check(target, service.unwrap_or(""), &missing);
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(outcome)) => outcome,
        Err(_) => match missing.load(Ordering::Relaxed) {
            0 => dial::unresolved(target.host(), timeout),
            step => too_late(MISSING.get(step).copied().unwrap_or("nothing"), timeout),
        },
    }
}

async fn check(target: &Target<'_>, service: &str, missing: &AtomicUsize) -> Result<(), Outcome> {
    let way = target.way().await?;
    missing.store(1, Ordering::Relaxed);
    let stream = way.connect(|| {}).await?;
    missing.store(2, Ordering::Relaxed);
    let broken = |error: hyper::Error| failed(format!("broke off: {}", error_chain(&error)), false);
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let answered = async {
        let answer = sender
            .send_request(request(target, service)?)
            .await
            .map_err(broken)?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(failed(
                format!("answered {status}, which is not gRPC"),
                false,
            ));
        }
        // An error without a message has its status among the first headers.
        let early = answer.headers().clone();
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| failed(format!("broke off: {error}"), false))?;
        let trailers = body.trailers().cloned().unwrap_or(early);
        judge(&trailers, &body.to_bytes(), service)
    }
    .await;
    driver.abort();
    answered
}

fn request(target: &Target<'_>, service: &str) -> Result<Request<Full<Bytes>>, Outcome> {
    let authority = super::http::authority(target.host(), target.port());
    let built = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{authority}{METHOD}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "enforcer-probe")
        .body(Full::new(Bytes::from(message(service))));
    built.map_err(|error| Outcome::Unknown(format!("the request can't be made: {error}")))
}

/// Returns a `HealthCheckRequest` in its frame: five bytes for the lack of compression and the
/// length, and then field 1, a string. An empty one is left out.
fn message(service: &str) -> Vec<u8> {
    let mut field = Vec::new();
    if let (Ok(length), false) = (u8::try_from(service.len()), service.is_empty()) {
        // A length of up to 253 takes one or two bytes of seven bits.
        field.push(0x0a);
        match length {
            0..=127 => field.push(length),
            _ => field.extend([length | 0x80, 1]),
        }
        field.extend(service.as_bytes());
    }
    let mut framed = vec![0];
    let length = u32::try_from(field.len()).unwrap_or(0);
    framed.extend(length.to_be_bytes());
    framed.extend(field);
    framed
}

fn judge(trailers: &HeaderMap, body: &[u8], service: &str) -> Result<(), Outcome> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let said = text("grpc-message").unwrap_or_default();
    let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
    let why = match text("grpc-status") {
        Some("0") => match serving(body) {
            Some(1) => return Ok(()),
            Some(2) => "answered NOT_SERVING".to_owned(),
            Some(3) => format!("does not know the service `{service}`"),
            Some(0) | None => "answered UNKNOWN".to_owned(),
            Some(other) => format!("answered the status {other}"),
        },
        Some("5") => format!("does not know the service `{service}`"),
        Some("12") => "has no health service (grpc.health.v1.Health)".to_owned(),
        Some(code) if said.is_empty() => format!("answered the gRPC error {code}"),
        Some(code) => format!("answered the gRPC error {code}: {said}"),
        None => "answered without a `grpc-status`".to_owned(),
    };
    Err(failed(why, false))
}

/// Returns field 1 of a `HealthCheckResponse`, an enumeration; 0 is left out of a message.
fn serving(framed: &[u8]) -> Option<u8> {
    let message = framed.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, status, ..] if *status < 0x80 => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_framed_as_the_protocol_says() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("a.B"), [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = message(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn each_answer_is_judged() {
        let check = |status: Option<&'static str>, body: &[u8]| {
            let mut trailers = HeaderMap::new();
            if let Some(status) = status {
                trailers.insert("grpc-status", status.parse().expect("a header"));
            }
            match judge(&trailers, body, "a.B") {
                Ok(()) => "passed".to_owned(),
                Err(Outcome::Failed(failure)) => failure.why,
                Err(other) => format!("{other:?}"),
            }
        };
        assert_eq!(check(Some("0"), &[0, 0, 0, 0, 2, 8, 1]), "passed");
        assert_eq!(
            check(Some("0"), &[0, 0, 0, 0, 2, 8, 2]),
            "answered NOT_SERVING"
        );
        assert_eq!(check(Some("0"), &[0, 0, 0, 0, 0]), "answered UNKNOWN");
        assert_eq!(check(Some("0"), b""), "answered UNKNOWN");
        assert_eq!(check(Some("5"), b""), "does not know the service `a.B`");
        assert_eq!(
            check(Some("12"), b""),
            "has no health service (grpc.health.v1.Health)"
        );
        assert_eq!(check(Some("14"), b""), "answered the gRPC error 14");
        assert_eq!(check(None, b"x"), "answered without a `grpc-status`");
    }
}
