//! The resources that have thresholds, their levels, and the severity of an alert about one.

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

words! {
    /// A resource of the host or of a workload.
    pub enum Resource {
        Memory = "memory",
        Cpu = "cpu",
        Disk = "disk",
    }
}

words! {
    /// The severity of an alert. The agent passes it on; no decision depends on it.
    #[derive(Default)]
    pub enum Severity {
        #[default]
        Warning = "warning",
        Critical = "critical",
    }
}
