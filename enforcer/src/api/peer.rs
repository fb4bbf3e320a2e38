//! Who is at the other end of a connection, by the kernel's word (SO_PEERCRED,
//! unix(7)).

use super::error::Failure;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::geteuid;
use tokio::net::UnixListener;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self {
            uid: stream
                .io()
                .peer_cred()
                .ok()
                .map(|credentials| credentials.uid()),
        }
    }
}

impl Peer {
    /// Root, and whoever the agent itself runs as.
    pub(crate) fn may_change(self) -> Result<(), Failure> {
        match self.uid {
            Some(uid) if uid == 0 || uid == geteuid().as_raw() => Ok(()),
            Some(uid) => Err(Failure::not_permitted(format!(
                "user {uid} may look, but not change anything"
            ))),
            None => Err(Failure::not_permitted("the other end's user is not known")),
        }
    }
}
