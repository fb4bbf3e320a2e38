//! Asks a `file` probe: the workload writes a heartbeat.

use super::failed;
use enforcer_core::probe::Outcome;
use enforcer_core::units::human_duration;
use enforcer_kernel::clock;
use enforcer_kernel::place::Place;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Finds the file and looks at its modification time and opens nothing: it may be anything. A file
/// system that hangs is not the workload's doing.
pub(super) async fn ask(
    looks: &Arc<Semaphore>,
    find: impl FnOnce(&str) -> io::Result<Place> + Send + 'static,
    (path, fresh_within): (String, Duration),
    timeout: Duration,
) -> Outcome {
    let shown = path.clone();
    let asked = async {
        let one = Arc::clone(looks).acquire_owned().await;
        let look = tokio::task::spawn_blocking(move || {
            // Given back when the file system has answered, and not before.
            let _one = one;
            clock::age_of_file(find(&path)?.path())
        });
        look.await
    };
    match tokio::time::timeout(timeout, asked).await {
        Err(_) => Outcome::Unknown(format!(
            "{shown} did not answer within {}",
            human_duration(timeout)
        )),
        Ok(Err(error)) => Outcome::Unknown(error.to_string()),
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
