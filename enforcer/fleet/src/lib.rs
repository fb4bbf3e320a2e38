//! Runs workloads on many hosts, with etcd between them.
//!
//! ```text
//! node.rs       the node of this host, between etcd and the agent (agent.rs)
//! scheduler.rs  a scheduler
//! cli/          what a person asks for
//! drive.rs      carries out what the state machines of enforcer-fleet-core ask of etcd (etcd/)
//! ```
#![forbid(unsafe_code)]

pub mod agent;
pub mod cli;
pub mod config;
pub mod drive;
pub mod etcd;
pub mod metrics;
pub mod node;
pub mod scheduler;

use enforcer_client::Fault;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for the signals that end a daemon.
pub(crate) struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    pub(crate) fn new() -> Result<Self, Fault> {
        let failed = |error| Fault::Failed(format!("failed to wait for signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
