//! The memory of the agent: its history, and the state for the next agent.

pub(crate) mod database;
pub(crate) mod handover;
pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod query;
