//! What the agent remembers: its history, and what the next agent has to know.

pub(crate) mod database;
pub(crate) mod dormant;
pub(crate) mod handover;
pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod query;
