//! The process at the other end of a connection, as the kernel reports it (SO_PEERCRED, unix(7)).

use super::error::Failure;
use crate::configuration::Configuration;
use enforcer_core::WorkloadName;
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

    /// Returns what the peer may change.
    pub(super) fn right(self, configuration: &Configuration) -> Result<Right, Failure> {
        match self.uid {
            _ if self.is_trusted() => Ok(Right::All),
            Some(uid) => match configuration.delegate(uid) {
                Some(user) => Ok(Right::Of(user.to_owned())),
                None => Err(Failure::not_permitted(format!(
                    "user {uid} may look, but not change anything"
                ))),
            },
            None => Err(Failure::not_permitted("the other end's user is not known")),
        }
    }

    pub(super) fn may_change_all(self, configuration: &Configuration) -> Result<(), Failure> {
        match self.right(configuration)? {
            Right::All => Ok(()),
            Right::Of(user) => Err(Failure::not_permitted(format!(
                "{user} may change the workloads of one file, and nothing else"
            ))),
        }
    }

    pub(super) async fn may_change(
        self,
        name: &WorkloadName,
        configuration: &Configuration,
    ) -> Result<(), Failure> {
        match self.right(configuration)? {
            Right::All => Ok(()),
            Right::Of(user) if configuration.is_of(&user, name).await? => Ok(()),
            Right::Of(user) => Err(Failure::not_permitted(format!(
                "{name} is not one of the workloads that {user} may change"
            ))),
        }
    }
}

/// The workloads that a peer may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Right {
    All,
    /// Those of this user's file.
    Of(String),
}
