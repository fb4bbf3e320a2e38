//! What the agent remembers: its history, and what the next agent has to know.

pub(crate) mod handover;
pub(crate) mod history;
