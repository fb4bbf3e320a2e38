//! The listening sockets of workloads. Nothing is read from them here: while the holder has them,
//! clients wait for the next instance, or for the next agent.

use enforcer_core::ReplicaId;
use enforcer_kernel::descriptors::inherit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

const LONELY_FOR: Duration = Duration::from_secs(10);
const LONELY_WITH_SOCKETS: Duration = Duration::from_secs(60);

/// A socket's workload, and its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct SocketName {
    pub(crate) workload: ReplicaId,
    pub(crate) name: String,
}

/// A socket for the program that succeeds this one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InheritedSocket {
    name: SocketName,
    made_for: String,
    pub(super) descriptor: RawFd,
}

#[derive(Debug, Default)]
pub(super) struct Sockets(BTreeMap<SocketName, (String, OwnedFd)>);

impl Sockets {
    /// Returns the time after which a holder beside an agent ends without any pipe or agent. Clients of a
    /// socket wait for the next agent.
    pub(super) fn lonely_for(&self) -> Duration {
        match self.0.is_empty() {
            true => LONELY_FOR,
            false => LONELY_WITH_SOCKETS,
        }
    }

    /// Keeps a socket in place of the one of this name, with the setting that it was made for.
    pub(super) fn keep(&mut self, name: SocketName, made_for: String, socket: OwnedFd) {
        self.0.insert(name, (made_for, socket));
    }

    /// Closes a socket.
    pub(super) fn close(&mut self, name: &SocketName) {
        self.0.remove(name);
    }

    /// Returns the first socket behind this name.
    pub(super) fn after(
        &self,
        name: Option<&SocketName>,
    ) -> Option<(&SocketName, &str, BorrowedFd<'_>)> {
        let mut all = self.0.iter();
        let found = all.find(|(known, _)| name.is_none_or(|name| *known > name));
        let (name, (made_for, socket)) = found?;
        Some((name, made_for, socket.as_fd()))
    }

    pub(super) fn inheritance(&self) -> Vec<InheritedSocket> {
        let all = self.0.iter();
        all.map(|(name, (made_for, socket))| InheritedSocket {
            name: name.clone(),
            made_for: made_for.clone(),
            descriptor: socket.as_raw_fd(),
        })
        .collect()
    }

    pub(super) fn inherit(&mut self, inherited: Vec<InheritedSocket>) -> io::Result<()> {
        for one in inherited {
            self.keep(one.name, one.made_for, inherit(one.descriptor)?);
        }
        Ok(())
    }
}
