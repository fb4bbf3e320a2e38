//! The words that every other crate of enforcer shares: units, names, limits, specs and states.
//!
//! Each type is serialized and read back by the same definition. This crate reads no file, makes
//! no system call and decides nothing; it knows no other crate of enforcer.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod claims;
pub mod health;
pub mod ids;
pub mod limits;
pub mod name;
pub mod probe;
pub mod spec;
pub mod state;
pub mod text;
pub mod units;
pub mod views;

pub use name::WorkloadName;
pub use state::WorkloadState;
