//! A `file` probe: somebody writes a heartbeat.

use super::{failed, too_late};
use crate::kernel::clock;
use enforcer_core::probe::Outcome;
use enforcer_core::units::human_duration;
use std::io;
use std::time::Duration;

/// Looks at the file's modification time and opens nothing: it may be anything.
pub(super) async fn ask(path: String, fresh_within: Duration, timeout: Duration) -> Outcome {
    let shown = path.clone();
    let look = tokio::task::spawn_blocking(move || clock::age_of_file(path.as_ref()));
    match tokio::time::timeout(timeout, look).await {
        // A file system that hangs is not the workload's doing.
        Err(_) => Outcome::Unknown(format!(
            "{shown} did not answer within {}",
            human_duration(timeout)
        )),
        Ok(Err(_)) => too_late("no answer", timeout),
        Ok(Ok(Ok(age))) if age <= fresh_within => Outcome::Passed,
        Ok(Ok(Ok(age))) => failed(
            format!("{shown} was last written {} ago", human_duration(age)),
            false,
        ),
        Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::NotFound => {
            failed(format!("there is no {shown}"), false)
        }
        Ok(Ok(Err(error))) => Outcome::Unknown(format!("{shown}: {error}")),
    }
}
