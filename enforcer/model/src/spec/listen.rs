//! Sockets that are made and kept for a workload, and passed to its program as sd_listen_fds(3) says.

use super::modes::FileMode;
use crate::settings::{Setting, displayed};
use crate::shapes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

displayed!(SocketAddr, IpAddr);

/// A listening socket: either `tcp` or `unix` is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Setting, JsonSchema)]
#[setting(inherit)]
#[schemars(deny_unknown_fields)]
pub struct Listen {
    /// An address and a port, such as `127.0.0.1:8080`, `0.0.0.0:8080` or `[::]:8080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::SocketAddress")]
    pub tcp: Option<SocketAddr>,
    /// The path of a Unix socket on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::AbsolutePath")]
    pub unix: Option<String>,
    /// The permissions of the Unix socket. The default is 0666, as that of systemd.
    #[schemars(with = "shapes::Octal")]
    pub mode: FileMode,
    /// The group of the Unix socket. The default is the workload's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "shapes::Account")]
    pub group: Option<String>,
    /// The most connections that wait to be accepted; `net.core.somaxconn` is a bound as well.
    #[schemars(with = "shapes::Whole<1, 2_147_483_647>")]
    pub backlog: u32,
    /// Each replica has a TCP socket of its own there, behind the gate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(skip)]
    pub is_of_each: bool,
}

impl Listen {
    /// The default backlog, and the default of `net.core.somaxconn` since Linux 5.4.
    pub const BACKLOG: u32 = 4096;
    pub const MODE: FileMode = FileMode(0o666);
    /// The most sockets of a workload.
    pub const MOST: usize = 64;

    /// Returns the address that each replica listens at, behind the gate.
    #[must_use]
    pub fn gated(&self) -> Option<SocketAddr> {
        self.tcp.filter(|_| self.is_of_each)
    }
}
