//! The levels of a use that has thresholds.

use crate::words::words;

words! {
    /// A level of use; each is worse than the one before it.
    #[derive(Default)]
    pub enum Level {
        #[default]
        Normal = "normal",
        Warn = "warn",
        Critical = "critical",
    }
}
