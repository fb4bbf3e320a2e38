//! Every decision enforcer makes. What is deliberately not here: files,
//! sockets, clocks, randomness, async code. Time and noise come in as
//! arguments, and [`Decision::wake`] says when the core next wants to be asked.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

mod admission;
pub mod alert;
pub mod claims;
pub mod cpu_loop;
pub mod drift;
pub mod environment_file;
pub mod event;
pub mod health;
pub mod host;
pub mod limits;
pub mod manifest;
pub mod name;
pub mod oom;
pub mod plan;
pub mod probe;
pub mod recovery;
pub mod spec;
pub mod supervisor;
pub mod text;
pub mod threshold;
pub mod units;
mod workload;

pub use event::{Action, ActionKind, Decision, Event, Transition};
pub use name::WorkloadName;
pub use supervisor::Supervisor;
pub use workload::Checkpoint;
