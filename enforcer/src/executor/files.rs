//! The files of `reload_on`: a change of one is reported when the files are at rest again.

use super::Executor;
use enforcer_core::ReplicaId;
use enforcer_core::event::{Event, WorkloadEvent};
use enforcer_kernel::ready;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tools write a file in several steps, and several files.
const SETTLED: Duration = Duration::from_secs(1);

/// The longest wait for files that are written again and again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until nothing has happened for a while.
async fn settle(readable: &AsyncFd<OwnedFd>) {
    let quiet = async {
        while let Ok(Ok(mut more)) = tokio::time::timeout(SETTLED, readable.readable()).await {
            more.clear_ready();
        }
    };
    let _ = tokio::time::timeout(PATIENCE, quiet).await;
}

impl Executor {
    /// Names the files of a workload, in place of those that it had.
    pub(super) fn name_files(&self, workload: &ReplicaId, paths: &[String], is_new: bool) {
        if let Some(files) = &self.files
            && files.set(workload, paths, is_new)
        {
            self.files_named.notify_one();
        }
    }

    /// Reports changes for as long as the agent lives.
    pub(crate) async fn watch_files(self: Arc<Self>) {
        let Some(files) = self.files.clone() else {
            return;
        };
        let watched = ready::watch(&*files, Interest::READABLE);
        let Ok(readable) = watched.inspect_err(|error| {
            tracing::warn!("changes of the files of `reload_on` are not seen: {error}");
        }) else {
            return;
        };
        loop {
            tokio::select! {
                () = self.files_named.notified() => {}
                changed = readable.readable() => match changed {
                    Ok(mut changed) => {
                        changed.clear_ready();
                        settle(&readable).await;
                    }
                    Err(_) => return,
                },
            }
            let files = Arc::clone(&files);
            let changed = tokio::task::spawn_blocking(move || files.look()).await;
            // One reload is enough, however many of its files have changed.
            let changed: BTreeMap<_, _> = changed.unwrap_or_default().into_iter().rev().collect();
            for (workload, path) in changed {
                let event = WorkloadEvent::FileChanged { path };
                self.send(Event::Workload(workload, event));
            }
        }
    }
}
