//! What the agent remembers: its history, and what it has started.

pub(crate) mod history;
pub(crate) mod instances;
