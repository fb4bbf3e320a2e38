//! The health of a workload: one word for its probes, levels and state.

use crate::words::words;

words! {
    /// The health of a workload.
    #[derive(Default)]
    pub enum Health {
        /// No probe has answered yet. This is never an alarm.
        #[default]
        Unknown = "unknown",
        Healthy = "healthy",
        /// The workload works, but a probe or a level is off.
        Degraded = "degraded",
        /// The workload does not work.
        Unhealthy = "unhealthy",
    }
}
