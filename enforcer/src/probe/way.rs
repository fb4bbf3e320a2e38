//! The way to a server: a TCP connection, one over TLS, or a Unix socket.

use super::dial::{Addresses, Pass};
use super::{dial, failed};
use crate::tls::{self, Trust};
use enforcer_core::probe::Outcome;
use enforcer_kernel::place::Place;
use rustls::ClientConfig;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) enum Target<'t> {
    Tcp {
        host: &'t str,
        port: u16,
        pass: Pass,
    },
    Tls {
        host: &'t str,
        port: u16,
        pass: Pass,
        name: &'t str,
        trust: Trust,
    },
    Unix {
        path: &'t str,
        place: Arc<Place>,
    },
}

/// A target whose addresses and certificates are known.
pub(super) enum Way {
    Tcp(Addresses),
    Tls(Addresses, String, Arc<ClientConfig>),
    /// As it is named, and where it is.
    Unix(String, Arc<Place>),
}

/// A connection of any kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn find(target: (&str, u16), pass: Pass) -> Result<Addresses, Outcome> {
    let all = dial::resolve(target).await?;
    Ok(Addresses { all, pass })
}

impl Target<'_> {
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } | Self::Tls { host, .. } => host,
            Self::Unix { .. } => "localhost",
        }
    }

    /// Returns the port; `None` for a Unix socket.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } | Self::Tls { port, .. } => Some(*port),
            Self::Unix { .. } => None,
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Tcp { .. } | Self::Unix { .. } => "http",
            Self::Tls { .. } => "https",
        }
    }

    /// Finds the addresses, and reads the certificates that are accepted.
    pub(super) async fn way(&self) -> Result<Way, Outcome> {
        match self {
            Self::Tcp { host, port, pass } => {
                Ok(Way::Tcp(find((host, *port), pass.clone()).await?))
            }
            Self::Unix { path, place } => Ok(Way::Unix((*path).to_owned(), Arc::clone(place))),
            Self::Tls {
                host,
                port,
                pass,
                name,
                trust,
            } => {
                let trust = trust.clone();
                let client = tokio::task::spawn_blocking(move || tls::client(&trust)).await;
                let client = client.map_err(|error| Outcome::Unknown(error.to_string()))?;
                // Our own settings are wrong: that says nothing about the server.
                let client = client.map_err(Outcome::Unknown)?;
                let addresses = find((host, *port), pass.clone()).await?;
                Ok(Way::Tls(addresses, (*name).to_owned(), client))
            }
        }
    }
}

impl Way {
    /// Goes to another port of the same host.
    pub(super) fn set_port(&mut self, port: u16) {
        match self {
            Self::Tcp(addresses) | Self::Tls(addresses, ..) => {
                addresses
                    .all
                    .iter_mut()
                    .for_each(|address| address.set_port(port));
            }
            Self::Unix(..) => {}
        }
    }

    /// Connects. `connected` is called between the connection and the handshake of TLS.
    pub(super) async fn connect(
        &self,
        connected: impl FnOnce(),
    ) -> Result<Box<dyn Stream>, Outcome> {
        match self {
            Self::Tcp(addresses) => Ok(Box::new(dial::connect(addresses).await?)),
            Self::Unix(path, place) => match UnixStream::connect(place.path()).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => {
                    let error = enforcer_kernel::spawn::describe(&error);
                    Err(failed(format!("{path}: {error}"), false))
                }
            },
            Self::Tls(addresses, name, client) => {
                let stream = dial::connect(addresses).await?;
                connected();
                let stream = tls::connect(stream, name, Arc::clone(client)).await;
                Ok(Box::new(stream.map_err(|why| failed(why, false))?))
            }
        }
    }
}
