//! Probes of servers on a Unix socket, and of gRPC's health protocol.

use super::*;
use enforcer_kernel::place::Place;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};

const LONG: Duration = Duration::from_secs(60);

fn shown(outcome: Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Failed(failure) => failure.why,
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_on_a_unix_socket_is_asked() {
    let path = std::env::temp_dir().join(format!("probe-{}.sock", std::process::id()));
    let text = path.to_str().expect("a path");
    let ask = async |path: &str| {
        let target = Target::Unix {
            path: text,
            place: Arc::new(Place::of_host(text)),
        };
        shown(http::ask(&target, path, &BTreeMap::new(), LONG).await)
    };
    let absent = ask("/").await;
    assert!(
        absent.ends_with(".sock: No such file or directory"),
        "{absent}"
    );
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = |request: Request<Incoming>| async move {
                assert_eq!(request.headers()["host"], "localhost");
                let (status, location) = match request.uri().path() {
                    "/health" => (200, ""),
                    "/moved" => (302, "/health"),
                    "/lost" => (302, "/gone"),
                    _ => (503, ""),
                };
                let answer = Response::builder().status(status);
                let answer = answer.header("location", location);
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::new())).expect("an answer"))
            };
            let served = hyper::server::conn::http1::Builder::new();
            let _ = served
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        }
    });
    assert_eq!(ask("/health").await, "passed");
    assert_eq!(ask("/moved").await, "passed");
    assert_eq!(ask("/lost").await, "answered 503");
    std::fs::remove_file(path).expect("no socket");
}

/// Answers as a server of gRPC does: its status comes behind the message.
async fn grpc_answer(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let asked = request
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let (status, message): (&str, &[u8]) = match asked.get(7..).unwrap_or_default() {
        b"" => ("0", &[0, 0, 0, 0, 2, 8, 1]),
        b"ill" => ("0", &[0, 0, 0, 0, 2, 8, 2]),
        _ => ("5", &[]),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a header"));
    let frames = [
        Frame::data(Bytes::copy_from_slice(message)),
        Frame::trailers(trailers),
    ];
    Ok(Response::new(Frames(frames.into())))
}

/// A body that is there already.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

#[tokio::test]
async fn a_server_of_grpc_is_asked_about_a_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let serving = served.serve_connection(TokioIo::new(stream), service_fn(grpc_answer));
            tokio::spawn(serving);
        }
    });
    let ask = async |service| {
        let target = Target::Tcp {
            pass: Pass::default(),
            host: "127.0.0.1",
            port,
        };
        shown(grpc::ask(&target, service, LONG).await)
    };
    assert_eq!(ask(None).await, "passed");
    assert_eq!(ask(Some("ill")).await, "answered NOT_SERVING");
    assert_eq!(
        ask(Some("other")).await,
        "does not know the service `other`"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_http2_fails_the_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let target = Target::Tcp {
        pass: Pass::default(),
        host: "127.0.0.1",
        port,
    };
    let outcome = shown(grpc::ask(&target, None, LONG).await);
    assert!(outcome.starts_with("broke off: "), "{outcome}");
}
