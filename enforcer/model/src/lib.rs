//! The words that every other crate of enforcer shares: units, names, limits, specs,
//! states, events and answers.
//!
//! Each type is serialized and read back by the same definition. This crate reads no file, makes
//! no system call and decides nothing; it knows no other crate of enforcer.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod claims;
pub mod cpu_loop;
pub mod detail;
pub mod drift;
pub mod health;
pub mod ids;
pub mod level;
pub mod limits;
pub mod metrics;
pub mod name;
pub mod oom;
pub mod plan;
pub mod probe;
pub mod record;
pub mod requests;
mod seconds;
pub mod sentence;
pub mod settings;
mod shapes;
pub mod signals;
pub mod spec;
pub mod state;
pub mod strategy;
pub mod text;
pub mod units;
pub mod views;
mod words;

pub use name::{ReplicaId, WorkloadName};
pub use record::Record;
pub use state::WorkloadState;
