//! The results of checks, and the state that they lead to.

use crate::words::words;

words! {
    /// The result of one check.
    pub enum Answer {
        Passed = "passed",
        Failed = "failed",
        /// The check could not be carried out, and counts neither way.
        Unknown = "unknown",
    }
}

words! {
    /// The state that the answers of a probe have led to.
    pub enum ProbeState {
        Passing = "passing",
        Failing = "failing",
        /// There were not enough answers yet.
        Unknown = "unknown",
    }
}
