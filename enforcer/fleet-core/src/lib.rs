//! Decides where the workloads of a fleet run: [`schedule::decide`] takes all that is known and the time, and returns what changes and why.
//! It has no I/O and no clock.

pub mod desired;
pub mod endpoints;
pub mod fleet;
pub mod host;
pub mod node;
pub mod part;
pub mod reason;
pub mod record;
pub mod report;
mod room;
pub mod schedule;
pub mod scheduler;
pub mod store;
pub mod view;

pub use fleet::{Fleet, NodeId, Replica, Time};
pub use schedule::{Decision, Memory, Settings, decide};
