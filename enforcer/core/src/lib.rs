//! Every decision enforcer makes. What is deliberately not here: files,
//! sockets, clocks, randomness, async code. Time and noise come in as
//! arguments, and [`Decision::wake`] says when the core next wants to be asked.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

mod admission;
pub mod alert;
mod checkpoint;
pub mod cpu_loop;
pub mod drift;
pub mod event;
pub mod expansion;
pub mod group;
pub mod host;
mod moment;
pub mod notice;
pub mod oom;
pub mod owner;
pub mod plan;
pub mod probe;
pub mod recovery;
pub mod supervisor;
pub mod threshold;
mod workload;

pub use checkpoint::Checkpoint;
pub use enforcer_model::{claims, health, limits, name, spec, state, text, units};
pub use event::{Action, Decision, Event, Transition};
pub use name::{ReplicaId, WorkloadName};
pub use state::WorkloadState;
pub use supervisor::Supervisor;
