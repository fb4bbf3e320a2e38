//! The connections of agents to the holder: one for requests, and one on which the holder
//! reports losses.

use super::protocol::{self, Reply, Request};
use enforcer_kernel::descriptors;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// The server reports losses on it.
    follows: bool,
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    all: BTreeMap<u64, Connection>,
    last: u64,
}

impl Connections {
    /// Takes one that waits at the listener, if it is of this process's own user.
    pub(super) fn accept(&mut self, listener: &OwnedFd) {
        let Ok(socket) = descriptors::accept(listener) else {
            return;
        };
        let peer = getsockopt(&socket, sockopt::PeerCredentials);
        if peer.is_ok_and(|peer| peer.uid() == geteuid().as_raw()) {
            self.last += 1;
            let follows = false;
            self.all.insert(self.last, Connection { socket, follows });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.all.keys().copied().collect()
    }

    /// Returns the sockets in the order of [`Connections::ids`].
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.values().map(|one| one.socket.as_fd())
    }

    /// Receives the next request of a connection. A connection that is gone, or breaks the
    /// protocol, is closed.
    pub(super) fn receive(&mut self, id: u64) -> Option<(Request, Option<OwnedFd>)> {
        match protocol::receive(&self.all.get(&id)?.socket) {
            Ok(Some(received)) => Some(received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(None) | Err(_) => {
                self.all.remove(&id);
                None
            }
        }
    }

    /// Sends a reply. A peer that does not read is disconnected: the server does not wait.
    pub(super) fn reply(&mut self, id: u64, reply: &Reply) {
        self.reply_with(id, reply, None);
    }

    /// Does what `reply` does, with a descriptor.
    pub(super) fn reply_with(
        &mut self,
        id: u64,
        reply: &Reply,
        descriptor: Option<BorrowedFd<'_>>,
    ) {
        let sent = self.all.get(&id);
        let sent = sent.map(|one| protocol::send(&one.socket, reply, descriptor));
        if matches!(sent, Some(Err(_))) {
            self.all.remove(&id);
        }
    }

    pub(super) fn follow(&mut self, id: u64) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.follows = true;
        }
    }

    pub(super) fn followers(&self) -> Vec<u64> {
        let following = self.all.iter().filter(|(_, one)| one.follows);
        following.map(|(id, _)| *id).collect()
    }
}
