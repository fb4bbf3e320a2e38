//! The responses to a CPU loop.

use crate::units::Percent;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One rung of the ladder of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rung {
    /// The event is all.
    Tell,
    /// `cpu.weight` 1: neighbours get theirs at once.
    Demote,
    /// `cpu.max`, of one CPU.
    Throttle(Percent),
    Restart,
}

crate::settings::displayed!(Rung);

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tell => f.write_str("tell"),
            Self::Demote => f.write_str("demote"),
            Self::Throttle(percent) => write!(f, "throttle {percent}"),
            Self::Restart => f.write_str("restart"),
        }
    }
}
