//! Accepts connections, up to a bound for each socket. A socket that is full of silent clients
//! leaves the other one free.

use super::peer::Peer;
use crate::failpoint::failpoint;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower_service::Service as _;

/// Connections at a time, on each socket; who comes later is hung up on.
const CONNECTIONS: usize = 256;
/// The longest wait for a request's head, and for the next request on the same connection.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD_SIZE: usize = 32 << 10;
/// The pause after a failure to accept a connection, such as a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that connections come from.
pub(super) trait Source {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Places for who may change something: who may only look can't lock them out.
    const RESERVED: usize;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Source for UnixListener {
    type Stream = UnixStream;
    const RESERVED: usize = 16;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let peer = Peer::of(&stream);
        Ok((stream, peer))
    }
}

impl Source for TcpListener {
    type Stream = TcpStream;
    const RESERVED: usize = 0;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, _): (_, SocketAddr) = self.accept().await?;
        Ok((stream, Peer::unknown()))
    }
}

/// Serves for as long as the agent lives. `lifetime` is the longest life of a connection; `None`
/// sets no bound.
pub(super) async fn serve<S: Source>(source: S, router: Router, lifetime: Option<Duration>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut pause = tokio::time::interval(PAUSE);
    pause.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let (stream, peer) = match source.next().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!("a connection was not taken: {error}");
                pause.tick().await;
                continue;
            }
        };
        failpoint!("connection-taken");
        let reserved = if peer.is_trusted() { 0 } else { S::RESERVED };
        let free = places.available_permits() > reserved;
        let place = free.then(|| Arc::clone(&places).try_acquire_owned().ok());
        let Some(place) = place.flatten() else {
            tracing::debug!("hung up on a connection: too many are open");
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |mut request: Request<Incoming>| {
                failpoint!("request-parsed");
                request.extensions_mut().insert(ConnectInfo(peer));
                router.clone().call(request)
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_PATIENCE)
                .max_buf_size(HEAD_SIZE)
                .serve_connection(TokioIo::new(stream), answer);
            let mut served = std::pin::pin!(served);
            let ended = match lifetime {
                None => Some(served.await),
                Some(lifetime) => match tokio::time::timeout(lifetime, served.as_mut()).await {
                    Ok(ended) => Some(ended),
                    Err(_) => {
                        // An answer that is under way is completed, if the client reads it.
                        served.as_mut().graceful_shutdown();
                        tokio::time::timeout(HEAD_PATIENCE, served).await.ok()
                    }
                },
            };
            match ended {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!("a connection has ended: {error}"),
                None => tracing::debug!("hung up on a connection that lasted too long"),
            }
            drop(place);
        });
    }
}
