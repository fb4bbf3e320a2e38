//! The states of a workload, by the names that the API, the metrics and the manifest share.

use crate::words::words;

words! {
    /// The state of a workload.
    pub enum WorkloadState {
        /// A start is wanted and waits: for its turn, for what the workload needs, or for its
        /// cgroup.
        Pending = "pending",
        Starting = "starting",
        Running = "running",
        /// The stop signal was sent, or the rest of the instance is being killed.
        Stopping = "stopping",
        /// The next restart waits for its time.
        BackingOff = "backing_off",
        /// The budget of restarts is used up, and a trial waits for its time.
        BreakerOpen = "breaker_open",
        Stopped = "stopped",
        /// The policy allows no further restart.
        Failed = "failed",
    }
}
