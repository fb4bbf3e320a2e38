//! The protocol of agent and holder: JSON messages over a Unix socket of type `SOCK_SEQPACKET`,
//! with at most one descriptor each. The first message of a connection is `Hello`, by which both
//! sides learn each other's version of this protocol.

use super::deadlines::End;
use super::notices::{Said, Speaker};
use super::sockets::SocketName;
use enforcer_core::ReplicaId;
use enforcer_core::event::InstanceId;
use enforcer_kernel::descriptors;
use enforcer_kernel::log_file::Bounds;
use enforcer_kernel::spawn::describe;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, listen, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Raised with every change that the other side would misread.
pub(crate) const VERSION: u32 = 1;
/// The largest message, in bytes.
const LARGEST: usize = 192 << 10;

/// A request of an agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    Hello {
        version: u32,
    },
    /// Writes the output of the pipe that comes with this message into the workload's log.
    Keep {
        workload: ReplicaId,
        inode: u64,
        bounds: Bounds,
    },
    SetBounds {
        workload: ReplicaId,
        bounds: Bounds,
    },
    /// Begins a new log; the old one becomes an older one.
    SetAside {
        workload: ReplicaId,
        bounds: Bounds,
    },
    /// Listens to an instance at the socket that comes with this message, in place of the one before
    /// it.
    Listen(Speaker),
    /// Closes the socket of a workload.
    Ignore {
        workload: ReplicaId,
    },
    /// Keeps the listening socket that comes with this message, in place of the one of this name.
    KeepSocket {
        name: SocketName,
        /// The setting that it was made for, in the agent's words.
        made_for: String,
    },
    CloseSocket {
        name: SocketName,
    },
    /// Asks for the first listening socket behind this name.
    NextSocket {
        behind: Option<SocketName>,
    },
    /// Kills what of these workloads still runs a moment after its end. They take the place of those before.
    Deadlines {
        ends: Vec<End>,
    },
    /// Asks for what instances have said so far, behind the place that the reply before has named.
    Recall {
        behind: u64,
    },
    /// The reply comes once the pipes are empty, or after a moment.
    Settle,
    /// Asks the holder to report losses and notices on this connection.
    Follow,
    /// Executes the program that comes with this message, in the same process and with all pipes.
    Succeed,
    /// Ends the holder once the pipes are empty, or after two seconds.
    End,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum Reply {
    Hello {
        version: u32,
        /// The file that this holder executes. Another file is another version.
        program: Program,
        /// A service manager has started the holder.
        is_unit: bool,
        /// The folder that it writes the logs to.
        logs: PathBuf,
        /// The pipes that it keeps.
        pipes: Vec<u64>,
        /// The instances that it listens to.
        #[serde(default)]
        speakers: Vec<(ReplicaId, InstanceId)>,
        /// An older holder knows no listening sockets.
        #[serde(default)]
        keeps_sockets: bool,
        /// An older holder knows no deadlines.
        #[serde(default)]
        keeps_deadlines: bool,
    },
    Done,
    /// The socket comes with this message.
    Socket {
        name: SocketName,
        made_for: String,
    },
    Failed {
        errno: Option<i32>,
        error: String,
    },
    /// A part of what instances have said, and the place of the last one; `None` behind it.
    Recalled {
        said: Vec<Said>,
        last: Option<u64>,
    },
    /// A report on a connection that has asked to `Follow`: an instance has said this of itself.
    Notified(Said),
    /// A report on a connection that has asked to `Follow`.
    Lost {
        workload: ReplicaId,
        bytes: u64,
        why: String,
    },
}

impl Reply {
    pub(super) fn failed(error: &io::Error) -> Self {
        Self::Failed {
            errno: error.raw_os_error(),
            error: describe(error),
        }
    }
}

/// The identity of a program's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    device: u64,
    inode: u64,
    modified: i64,
}

impl Program {
    /// Returns the program that this process executes.
    pub(crate) fn own() -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let file = std::fs::metadata(enforcer_kernel::process::OWN_PROGRAM)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            modified: file.mtime(),
        })
    }
}

fn new_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        flags,
        None,
    )?)
}

/// Listens on a socket to which only this user may connect.
pub(super) fn listen_on(path: &Path) -> io::Result<OwnedFd> {
    let listener = new_socket(SockFlag::SOCK_NONBLOCK)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, nix::sys::socket::Backlog::new(16)?)?;
    Ok(listener)
}

/// Connects to the holder. Neither this nor a later call waits for longer than `patience`.
pub(super) fn connect_to(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let connection = new_socket(SockFlag::empty())?;
    let limit = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&connection, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&connection, sockopt::SendTimeout, &limit)?;
    connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(connection)
}

/// Sends one message, with a descriptor if it has one.
pub(super) fn send(
    socket: &impl AsFd,
    message: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    descriptors::send(socket, &serde_json::to_vec(message)?, descriptor)
}

/// Receives the next message with its descriptor; `None` if the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(
    socket: &impl AsFd,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let (bytes, descriptor) = descriptors::receive(socket, LARGEST)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes)?;
    Ok(Some((message, descriptor)))
}
