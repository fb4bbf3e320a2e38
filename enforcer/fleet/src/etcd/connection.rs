//! Connections to one endpoint, which are used again.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The time for a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// The connections that are kept for the next call.
const IDLE: usize = 4;

/// The files of a client's TLS.
#[derive(Clone, Debug)]
pub struct Security(Arc<ClientConfig>);

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("`{0}` is no endpoint: it needs the form https://HOST:PORT")]
    Form(String),
    #[error(
        "`{0}` is not of this host: without TLS and a user, only its loopback addresses are allowed"
    )]
    Open(String),
    #[error("failed to read {file}: {why}")]
    File { file: String, why: String },
    #[error("the certificates are not usable: {0}")]
    Certificates(String),
}

impl Security {
    /// Reads the certificates of the authority, and the client's own certificate with its key.
    ///
    /// # Errors
    /// If a file is missing, or is not what it should be.
    pub fn read(authority: &Path, own: Option<(&Path, &Path)>) -> Result<Self, EndpointError> {
        let bad = |error: rustls::Error| EndpointError::Certificates(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authority)? {
            roots.add(certificate).map_err(bad)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let read = PrivateKeyDer::from_pem_file(key);
                let key = read.map_err(|error| unread(key, &error))?;
                let chain = certificates(certificate)?;
                config.with_client_auth_cert(chain, key).map_err(bad)?
            }
        };
        Ok(Self(Arc::new(config)))
    }
}

fn unread(file: &Path, error: &dyn fmt::Display) -> EndpointError {
    EndpointError::File {
        file: file.display().to_string(),
        why: error.to_string(),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, EndpointError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|error| unread(file, &error))?;
    match found.is_empty() {
        true => Err(unread(file, &"it has no certificate")),
        false => Ok(found),
    }
}

/// An address of etcd's clients.
#[derive(Clone, Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
    security: Option<Security>,
}

impl Endpoint {
    /// Reads `https://HOST:PORT`, or `http://` with a loopback address.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(text: &str, security: Option<&Security>) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(form)?;
        let rest = rest.trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').ok_or_else(form)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| form())?;
        if host.is_empty() || host.contains('/') {
            return Err(form());
        }
        let is_loopback = match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost",
        };
        let security = match (scheme, security) {
            ("https", Some(security)) => Some(security.clone()),
            ("http", _) if is_loopback => None,
            ("http", _) => return Err(EndpointError::Open(text.to_owned())),
            _ => return Err(form()),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            security,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;
type Idle = Arc<Mutex<Vec<Sender>>>;

/// The connections to an endpoint.
#[derive(Debug)]
pub(super) struct Connections {
    endpoint: Endpoint,
    idle: Idle,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// The reason for which there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// etcd has not seen the request.
    NotSent(String),
    /// etcd may have carried it out.
    Broken(String),
}

/// The beginning of an answer, with its connection.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Incoming,
    sender: Option<Sender>,
    idle: Idle,
}

impl Reply {
    /// Keeps the connection for another call: the answer was read to its end.
    pub(super) fn done(mut self) {
        let mut idle = self.idle.lock();
        if let Some(sender) = self.sender.take().filter(|_| idle.len() < IDLE) {
            idle.push(sender);
        }
    }
}

impl Connections {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            idle: Idle::default(),
        }
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Result<Reply, Failed> {
        let mut sender = self.sender().await?;
        let mut request = Request::post(path)
            .header(HOST, self.endpoint.to_string())
            .header(CONTENT_TYPE, "application/json")
            // A watch ends when its member loses the leader, and does not wait for ever.
            .header("grpc-metadata-hasleader", "true");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())));
        let request = request.map_err(|error| Failed::NotSent(error.to_string()))?;
        match sender.try_send_request(request).await {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                Ok(Reply {
                    status: head.status,
                    body,
                    sender: Some(sender),
                    idle: Arc::clone(&self.idle),
                })
            }
            Err(mut error) => {
                let was_sent = error.take_message().is_none();
                let why = describe(&error.into_error());
                Err(match was_sent {
                    true => Failed::Broken(why),
                    false => Failed::NotSent(why),
                })
            }
        }
    }

    /// Returns a connection that is free, or a new one.
    async fn sender(&self) -> Result<Sender, Failed> {
        loop {
            let Some(mut idle) = self.idle.lock().pop() else {
                break;
            };
            if idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        match tokio::time::timeout(CONNECT, self.connect()).await {
            Ok(connected) => connected.map_err(Failed::NotSent),
            Err(_) => {
                let why = format!("no connection within {} s", CONNECT.as_secs());
                Err(Failed::NotSent(why))
            }
        }
    }

    async fn connect(&self) -> Result<Sender, String> {
        let Endpoint {
            host,
            port,
            security,
        } = &self.endpoint;
        let addresses = addresses(host).await?;
        let addresses: Vec<SocketAddr> = addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, *port))
            .collect();
        let stream = TcpStream::connect(addresses.as_slice()).await;
        let stream = stream.map_err(|error| error.to_string())?;
        keep_alive(&stream).map_err(|error| error.to_string())?;
        match security {
            None => shake_hands(TokioIo::new(stream)).await,
            Some(Security(config)) => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| "it has no name for a certificate".to_owned())?;
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name, stream).await;
                let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
                shake_hands(TokioIo::new(stream)).await
            }
        }
    }
}

/// Returns the addresses of a host. The system's own getent(1) looks names up: the C library of a static program would load
/// the host's modules for that into this process.
async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let mut getent = tokio::process::Command::new("getent");
    let answer = getent.args(["ahosts", host]).kill_on_drop(true).output();
    let answer = answer
        .await
        .map_err(|error| format!("failed to look {host} up: getent: {error}"))?;
    let found = in_answer(&String::from_utf8_lossy(&answer.stdout));
    match found.is_empty() {
        true => Err(format!("no address is known for {host}")),
        false => Ok(found),
    }
}

/// Reads the addresses of an answer, each once.
fn in_answer(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let address = line.split_whitespace().next();
        if let Some(address) = address.and_then(|text| text.parse().ok())
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

async fn shake_hands<S>(stream: S) -> Result<Sender, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream)
        .await
        .map_err(|error| describe(&error))?;
    // Its errors come to the sender as well.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

/// Has the kernel notice within about half a minute that the other host is gone: a watch sends nothing.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    stream.set_nodelay(true).ok();
    setsockopt(stream, KeepAlive, &true)?;
    setsockopt(stream, TcpKeepIdle, &10)?;
    setsockopt(stream, TcpKeepInterval, &5)?;
    setsockopt(stream, TcpKeepCount, &3)
}

/// Returns an error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_getent() {
        let text =
            "::1             STREAM localhost\n::1             DGRAM\n127.0.0.1       STREAM\nno\n";
        let expected: [IpAddr; 2] = ["::1".parse().expect("v6"), "127.0.0.1".parse().expect("v4")];
        assert_eq!(in_answer(text), expected);
    }

    #[test]
    fn an_endpoint_without_tls_is_of_this_host() {
        let parsed = |text: &str| match Endpoint::parse(text, None) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(parsed("http://127.0.0.1:2379"), "127.0.0.1:2379");
        assert_eq!(parsed("http://[::1]:2379/"), "[::1]:2379");
        assert_eq!(parsed("http://localhost:2379"), "localhost:2379");
        assert!(parsed("http://10.0.0.1:2379").contains("loopback"));
        for text in [
            "",
            "etcd:2379",
            "https://",
            "http://127.0.0.1",
            "http://:1",
            "https://a:1",
        ] {
            assert!(parsed(text).contains("is no endpoint"), "{text}");
        }
    }
}
