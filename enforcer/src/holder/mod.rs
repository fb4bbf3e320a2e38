//! The holder: a small process that outlives every agent. It keeps the reading end of each
//! workload's output pipe, and writes the output into the workload's log. It also keeps the sockets
//! by which programs say how they are (sd_notify(3)), and those at which they listen (`listen`).
//!
//! ```text
//! agent ── pipe's reading end, bounds ──→ holder ──→ NAME.log, NAME.log.1, …
//!   │                                       ↑
//!   └─ starts ──→ workload ── writes ── pipe ┘
//! ```
//!
//! Under systemd it is the main process of `enforcer-workloads.service`; elsewhere an agent
//! starts it, in a cgroup of its own. Whichever of the two dies, the other goes on: an agent
//! finds the pipes of running workloads in `/proc` and gives them to a new holder.

mod client;
mod connections;
mod deadlines;
mod losses;
mod notices;
mod pace;
mod protocol;
mod server;
mod sockets;
mod stopper;
mod succession;
mod writer;

pub(crate) use client::{Holder, Report, Reports, Sent};
pub(crate) use deadlines::End;
pub(crate) use notices::{Said, Speaker};
pub(crate) use server::{Options, Server};
pub(crate) use sockets::SocketName;

use std::path::{Path, PathBuf};

/// Returns the path of the socket on which the holder listens.
fn socket_in(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("holder.sock")
}
