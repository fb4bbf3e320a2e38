//! The process at the other end of a connection, as the kernel reports it (SO_PEERCRED, unix(7)).

use super::error::Failure;
use nix::unistd::geteuid;
use tokio::net::UnixStream;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    uid: Option<u32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> Self {
        Self {
            uid: stream.peer_cred().ok().map(|credentials| credentials.uid()),
        }
    }

    /// Returns a peer that may change nothing.
    pub(super) fn unknown() -> Self {
        Self { uid: None }
    }

    /// Returns whether the peer is root or the agent's own user.
    pub(super) fn is_trusted(self) -> bool {
        self.uid
            .is_some_and(|uid| uid == 0 || uid == geteuid().as_raw())
    }

    pub(crate) fn may_change(self) -> Result<(), Failure> {
        match self.uid {
            _ if self.is_trusted() => Ok(()),
            Some(uid) => Err(Failure::not_permitted(format!(
                "user {uid} may look, but not change anything"
            ))),
            None => Err(Failure::not_permitted("the other end's user is not known")),
        }
    }
}
