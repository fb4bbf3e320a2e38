//! The names of what happens between two instances.

use crate::words::words;

words! {
    /// The name of a [`crate::spec::Strategy`].
    pub enum StrategyName {
        Restart = "restart",
        Reset = "reset",
        Recreate = "recreate",
        Run = "run",
    }
}
