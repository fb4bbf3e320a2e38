//! Requests about one workload, and their outcome in a line.

use crate::Fault;
use crate::http::{self, Answer, escaped};
use enforcer_model::WorkloadState;
use enforcer_model::claims::Throttling;
use serde::Deserialize;
use std::path::Path;

/// A workload after a request: the part of its view that a line reports.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    pub state: WorkloadState,
    pub pid: Option<u32>,
    pub throttle: Throttling,
    /// The share of one CPU that a throttle leaves.
    pub throttle_cpu_percent: Option<u32>,
}

/// Sends a request without a body, such as `restart`. Returns the line that reports its outcome.
///
/// # Errors
/// If no agent answers, or it refuses.
pub fn request(socket: &Path, name: &str, request: &str) -> Result<String, Fault> {
    let route = format!("/v1/workloads/{}/{request}", escaped(name));
    let answer = http::order(socket, &route)?;
    Ok(outcome(name, &answer, |workload| {
        match (request, workload.pid) {
            ("release", _) => workload.throttle_in_words(),
            ("reload", Some(pid)) => format!("reloaded (pid {pid})"),
            (_, Some(pid)) => format!("{} (pid {pid})", workload.state),
            (_, None) => workload.state.to_string(),
        }
    }))
}

/// Returns the line that reports the outcome of a request that was carried out.
pub fn outcome(name: &str, answer: &Answer, describe: impl Fn(&Outcome) -> String) -> String {
    match answer.read() {
        Ok(workload) => format!("{name}: {}", describe(&workload)),
        // The agent is of another version.
        Err(_) => format!("{name}: done"),
    }
}

impl Outcome {
    /// Returns the throttle in words.
    pub fn throttle_in_words(&self) -> String {
        throttle_in_words(self.throttle, self.throttle_cpu_percent)
    }
}

/// Returns the throttle of a workload in words. `percent` is the share of one CPU that it leaves.
pub fn throttle_in_words(throttle: Throttling, percent: Option<u32>) -> String {
    match (throttle, percent) {
        (Throttling::Throttled, Some(percent)) => format!("throttled to {percent}% of one CPU"),
        (Throttling::Throttled, None) => "throttled".to_owned(),
        (Throttling::Demoted, _) => "demoted to cpu.weight 1".to_owned(),
        (Throttling::None, _) => "not throttled".to_owned(),
    }
}
