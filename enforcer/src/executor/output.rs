//! The workloads' outputs: a pipe for each instance, which the holder keeps and writes into
//! the workload's log. A holder that has died is replaced, and gets the pipes again.

use super::{Executor, Registered, lock};
use crate::holder::Losses;
use crate::kernel::log_file::Bounds;
use crate::kernel::pipe::{self, OutputPipe};
use crate::kernel::spawn::describe;
use enforcer_core::WorkloadName;
use enforcer_core::event::{Event, StartError};
use enforcer_core::spec::WorkloadSpec;
use enforcer_core::units::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to find or start a holder.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a new instance's output goes.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    /// The pipe's inode; `None` where what is written is lost.
    pub(super) inode: Option<u64>,
}

pub(super) fn bounds_of(spec: &WorkloadSpec) -> Bounds {
    Bounds {
        max_size: spec.logs.max_size.0,
        keep: spec.logs.keep,
    }
}

impl Executor {
    /// Makes the pipe of a new instance. Without a holder what it writes is lost: that is
    /// told, and a workload that runs is better than none.
    pub(super) fn open_output(
        self: &Arc<Self>,
        workload: &WorkloadName,
        spec: &WorkloadSpec,
        owner: (nix::unistd::Uid, nix::unistd::Gid),
    ) -> Result<Output, StartError> {
        let made = pipe::output_pipe(owner.0, owner.1);
        let OutputPipe {
            reader,
            writer,
            inode,
        } = made.map_err(|error| failed("make the pipe of its output", &error))?;
        let bounds = bounds_of(spec);
        let keep = || self.holder.keep(workload, bounds, (inode, &reader));
        let kept = keep().or_else(|_| {
            self.connect_holder()?;
            keep()
        });
        let Err(error) = kept else {
            return Ok(Output {
                file: writer,
                inode: Some(inode),
            });
        };
        self.events.send(Event::Degraded {
            what: "logs".to_owned(),
            why: format!(
                "{workload}: no holder takes its output ({}); what it writes is lost until its next start",
                describe(&error)
            ),
        });
        let file = pipe::nowhere().map_err(|error| failed("open /dev/null", &error))?;
        Ok(Output { file, inode: None })
    }

    /// Finds the holder, or starts one, and gives it the pipes that it does not keep yet.
    ///
    /// # Errors
    /// If there is none and none can be started.
    pub(crate) fn connect_holder(self: &Arc<Self>) -> io::Result<()> {
        let mut connections = lock(&self.holder_connections);
        let connected = self.holder.connect()?;
        *connections += 1;
        let number = *connections;
        let unkept: Vec<_> = self
            .registry()
            .iter()
            .filter_map(|(name, entry)| {
                let inode = entry
                    .output
                    .filter(|inode| !connected.pipes.contains(inode))?;
                Some((
                    name.clone(),
                    inode,
                    bounds_of(&entry.spec),
                    Arc::clone(&entry.cgroup),
                ))
            })
            .collect();
        for (workload, inode, bounds, cgroup) in unkept {
            let processes = cgroup.processes().unwrap_or_default();
            let Some(reader) = pipe::find(inode, &processes) else {
                // All of its processes have closed it, or are gone.
                continue;
            };
            if let Err(error) = self.holder.keep(&workload, bounds, (inode, &reader)) {
                // If the holder has died, whoever follows it sees that.
                tracing::warn!("{workload}: its output was not taken: {error}");
            }
        }
        let this = Arc::clone(self);
        self.runtime
            .spawn(this.follow_losses(connected.losses, number));
        Ok(())
    }

    /// Tells what is lost, and replaces a holder that has died.
    async fn follow_losses(self: Arc<Self>, losses: Losses, number: u64) {
        while let Some(loss) = losses.next().await {
            let what = match loss.bytes {
                0 => "its log cannot be written".to_owned(),
                bytes => format!("{} of its output were lost", Bytes(bytes)),
            };
            self.events.send(Event::Degraded {
                what: "logs".to_owned(),
                why: format!("{}: {what}: {}", loss.workload, loss.why),
            });
        }
        self.replace_holder(number).await;
    }

    /// Tries until there is a holder in the place of this connection's; 0 if there was none.
    pub(crate) async fn replace_holder(self: Arc<Self>, number: u64) {
        let mut told = false;
        let mut tries = tokio::time::interval(AGAIN);
        loop {
            tries.tick().await;
            let this = Arc::clone(&self);
            let connected = tokio::task::spawn_blocking(move || this.reconnect_holder(number));
            match connected.await {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut told, true) {
                        self.tell_of_no_holder(&error);
                    }
                }
            }
        }
    }

    fn tell_of_no_holder(&self, error: &io::Error) {
        self.events.send(Event::Degraded {
            what: "logs".to_owned(),
            why: format!(
                "the process that keeps the outputs cannot be started ({}); workloads that \
                 write more than 64 KiB wait until it can",
                describe(error)
            ),
        });
    }

    /// Replaces the holder of this connection, unless there is a newer connection or none is
    /// wanted any more.
    fn reconnect_holder(self: &Arc<Self>, number: u64) -> io::Result<()> {
        if *lock(&self.holder_connections) != number {
            return Ok(());
        }
        self.connect_holder()
    }

    /// The agent ends with its workloads: nobody replaces the holder from now on. Returns
    /// whether it has ended as well.
    pub(super) fn end_holder(&self) -> bool {
        *lock(&self.holder_connections) += 1;
        self.holder.end()
    }

    /// Has a changed manifest's bounds hold for the log.
    pub(super) fn bound_log(&self, workload: &WorkloadName, spec: &WorkloadSpec) {
        if let Err(error) = self.holder.set_bounds(workload, bounds_of(spec)) {
            // The next connection tells them anew.
            tracing::debug!("{workload}: the bounds of its log: {error}");
        }
    }

    /// The log is about to be read: what has been written to the pipe belongs to it.
    pub(crate) fn settle_outputs(&self) {
        if let Err(error) = self.holder.settle() {
            tracing::debug!("the outputs were not settled: {error}");
        }
    }
}

impl Registered {
    /// What an earlier version started writes its log itself.
    pub(super) fn tell_of_unbounded_log(&self, executor: &Executor, workload: &WorkloadName) {
        if self.output.is_none() {
            executor.events.send(Event::Degraded {
                what: "logs".to_owned(),
                why: format!(
                    "{workload}: an earlier version of enforcer has started it, and its log has \
                     no bound until it is restarted"
                ),
            });
        }
    }
}

pub(super) fn failed(stage: &str, error: &io::Error) -> StartError {
    StartError {
        stage: stage.to_owned(),
        errno: error.raw_os_error(),
        error: describe(error),
    }
}
