//! The workloads' outputs: a pipe for each instance, which the holder keeps and writes into
//! the workload's log. A holder that has died is replaced, and gets the pipes again.

use super::Executor;
use super::start::io_failure;
use crate::holder::End;
use crate::holder::{Holder, Report, Reports, Sent};
use enforcer_core::ReplicaId;
use enforcer_core::event::{AgentEvent, Event, StartError};
use enforcer_core::spec::{LogTarget, WorkloadSpec};
use enforcer_core::units::Bytes;
use enforcer_kernel::journal;
use enforcer_kernel::log_file::Bounds;
use enforcer_kernel::pipe::{self, OutputPipe};
use enforcer_kernel::spawn::describe;
use nix::unistd::{Gid, Uid};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The pause between two attempts to find or start a holder.
const AGAIN: Duration = Duration::from_secs(1);

/// The destination of a new instance's output.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    /// `None` where the holder does not take what is written.
    pub(super) pipe: Option<KeptPipe>,
    /// The holder was asked to take it, and has not replied yet.
    asked: Option<Sent>,
}

/// The pipe of an instance, as the agent knows it.
#[derive(Clone, Debug)]
pub(super) struct KeptPipe {
    pub(super) inode: u64,
    /// Never read here: for a new holder, and so that a program that has opened its output
    /// again, for writing alone, has a reader when the holder dies. `None` if it was not found.
    pub(super) reader: Option<Arc<OwnedFd>>,
}

pub(super) fn bounds_of(spec: &WorkloadSpec) -> Bounds {
    Bounds {
        max_size: spec.logs.max_size.0,
        keep: spec.logs.keep,
    }
}

impl Executor {
    /// Opens the destination of a new instance's output.
    pub(super) fn open_output(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        owner: Option<(Uid, Gid)>,
    ) -> Result<Output, StartError> {
        match spec.logs.to {
            LogTarget::File => self.open_pipe(workload, spec, owner),
            LogTarget::Journal => {
                let connected = journal::connect(&workload.file_name(), self.unit().as_deref());
                let file = connected
                    .map_err(|error| io_failure("connect its output to journald", &error))?;
                Ok(Output {
                    file,
                    pipe: None,
                    asked: None,
                })
            }
        }
    }

    /// Waits until the holder has taken the output. Without a holder the output is lost, and the agent
    /// reports that: the workload runs all the same, with the other destination that this returns.
    pub(super) fn settle_output(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        output: &mut Output,
    ) -> Result<Option<Output>, StartError> {
        let Some(asked) = output.asked.take() else {
            return Ok(None);
        };
        let Some(pipe) = &output.pipe else {
            return Ok(None);
        };
        let Some(reader) = &pipe.reader else {
            return Ok(None);
        };
        let taken = self.holder.reply(&asked).or_else(|error| {
            tracing::debug!("asking the holder once more: {error}");
            self.connect_holder()?;
            let pipe = (pipe.inode, &**reader);
            self.holder.keep(workload, bounds_of(spec), pipe)
        });
        match taken {
            Ok(()) => Ok(None),
            Err(error) => self.lose_output(workload, &error).map(Some),
        }
    }

    /// Returns the systemd unit that the workloads are in, as journald names it: the outermost one.
    /// `None` if they are in none.
    pub(crate) fn unit(&self) -> Option<String> {
        let components = self.tree.workloads().path().iter();
        let mut names = components.filter_map(|name| name.to_str());
        let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
        names.find(is_unit).map(str::to_owned)
    }

    /// Makes the pipe of a new instance and sends it to the holder.
    fn open_pipe(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        owner: Option<(Uid, Gid)>,
    ) -> Result<Output, StartError> {
        let made = pipe::output_pipe(owner);
        let OutputPipe {
            reader,
            writer,
            inode,
        } = made.map_err(|error| io_failure("make the pipe of its output", &error))?;
        let bounds = bounds_of(spec);
        let asked = self.ask_holder(|holder| holder.begin_keep(workload, bounds, (inode, &reader)));
        match asked {
            Ok(asked) => Ok(Output {
                file: writer,
                pipe: Some(KeptPipe {
                    inode,
                    reader: Some(Arc::new(reader)),
                }),
                asked: Some(asked),
            }),
            Err(error) => self.lose_output(workload, &error),
        }
    }

    /// Returns an output for a workload that no holder serves, and reports that.
    fn lose_output(&self, workload: &ReplicaId, error: &io::Error) -> Result<Output, StartError> {
        self.events.send(Event::Agent(AgentEvent::Degraded {
            what: "logs".to_owned(),
            why: format!(
                "{workload}: no holder takes its output ({}); what it writes is lost until its next start",
                describe(error)
            ),
        }));
        let file = pipe::nowhere().map_err(|error| io_failure("open /dev/null", &error))?;
        Ok(Output {
            file,
            pipe: None,
            asked: None,
        })
    }

    /// Asks once more over a new connection, perhaps of a new holder, where the first try fails.
    pub(super) fn ask_holder<T>(
        self: &Arc<Self>,
        ask: impl Fn(&Holder) -> io::Result<T>,
    ) -> io::Result<T> {
        ask(&self.holder).or_else(|error| {
            tracing::debug!("asking the holder once more: {error}");
            self.connect_holder()?;
            ask(&self.holder)
        })
    }

    /// Finds the holder, or starts one, and gives it the pipes that it does not keep yet.
    ///
    /// # Errors
    /// If there is none and none can be started.
    pub(crate) fn connect_holder(self: &Arc<Self>) -> io::Result<()> {
        let mut connections = self.holder_connections.lock();
        let connected = self.holder.connect()?;
        *connections += 1;
        let number = *connections;
        for (workload, instance) in self.instances.all() {
            let heard = (workload.clone(), instance.id);
            if !connected.speakers.contains(&heard) {
                self.reopen_notices(&workload, &instance);
            }
            let Some(KeptPipe { inode, reader }) = instance.output.clone() else {
                continue;
            };
            let bounds = bounds_of(&instance.spec);
            let given = if connected.pipes.contains(&inode) {
                self.holder.set_bounds(&workload, bounds)
            } else {
                let processes = || instance.cgroup().all_processes();
                let search = || pipe::find(inode, instance.main.pid, &processes()).map(Arc::new);
                // No process has this pipe any more, so nothing more comes out of it.
                let Some(reader) = reader.or_else(search) else {
                    continue;
                };
                self.holder.keep(&workload, bounds, (inode, &reader))
            };
            if let Err(error) = given {
                // If the holder has died, `follow_reports` notices it.
                tracing::warn!("{workload}: its output was not taken: {error}");
            }
        }
        if let Some(other) = connected.other_logs {
            let (here, there) = (self.logs.display(), other.display());
            self.events.send(Event::Agent(AgentEvent::Degraded {
                what: "logs".to_owned(),
                why: format!(
                    "the holder writes them to {there}, and this agent reads {here}: give \
                     both the same --state-dir"
                ),
            }));
        }
        let ends = self.ends.lock().clone();
        if !ends.is_empty() {
            self.keep_deadlines(ends);
        }
        if let Err(error) = self.exchange_sockets() {
            tracing::warn!("the holder did not take the sockets: {error}");
        }
        self.take_all_waiting();
        self.recall_notices();
        let this = Arc::clone(self);
        self.runtime
            .spawn(this.follow_reports(connected.reports, number));
        Ok(())
    }

    /// Has the holder kill what still runs after these ends, if this agent does not.
    pub(crate) fn keep_deadlines(&self, ends: Vec<End>) {
        self.ends.lock().clone_from(&ends);
        if let Err(error) = self.holder.keep_deadlines(ends) {
            // A new connection tells them again.
            tracing::warn!(
                "the holder does not know the deadlines: {}",
                describe(&error)
            );
        }
    }

    /// Passes on what the holder reports, and replaces a holder that has died.
    async fn follow_reports(self: Arc<Self>, reports: Reports, number: u64) {
        while let Some(report) = reports.next().await {
            // A newer connection reports it as well.
            if *self.holder_connections.lock() != number {
                return;
            }
            let loss = match report {
                Report::Lost(loss) => loss,
                Report::Said(said) => {
                    self.report_said(said);
                    continue;
                }
            };
            let what = match loss.bytes {
                0 => "its log cannot be written".to_owned(),
                bytes => format!("{} of its output were lost", Bytes(bytes)),
            };
            self.events.send(Event::Agent(AgentEvent::Degraded {
                what: "logs".to_owned(),
                why: format!("{}: {what}: {}", loss.workload, loss.why),
            }));
        }
        self.replace_holder(number).await;
    }

    /// Tries until there is a holder in the place of this connection's; 0 if there was none.
    pub(crate) async fn replace_holder(self: Arc<Self>, number: u64) {
        let mut reported = false;
        let mut tries = tokio::time::interval(AGAIN);
        loop {
            tries.tick().await;
            let this = Arc::clone(&self);
            let connected = tokio::task::spawn_blocking(move || this.reconnect_holder(number));
            match connected.await {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut reported, true) {
                        self.report_of_no_holder(&error);
                    }
                }
            }
        }
    }

    fn report_of_no_holder(&self, error: &io::Error) {
        self.events.send(Event::Agent(AgentEvent::Degraded {
            what: "logs".to_owned(),
            why: format!(
                "the process that keeps the outputs cannot be started ({}); workloads that \
                 write more than 64 KiB wait until it can",
                describe(error)
            ),
        }));
    }

    /// Replaces the holder of this connection, unless there is a newer connection or none is
    /// wanted any more.
    fn reconnect_holder(self: &Arc<Self>, number: u64) -> io::Result<()> {
        if *self.holder_connections.lock() != number {
            return Ok(());
        }
        self.connect_holder()
    }

    /// Ends the holder, because the agent ends with its workloads. From now on nothing replaces it.
    /// Returns whether the holder has ended.
    pub(super) fn end_holder(&self) -> bool {
        *self.holder_connections.lock() += 1;
        self.holder.end()
    }

    /// Sends the bounds of a changed manifest to the holder.
    pub(super) fn bound_log(self: &Arc<Self>, workload: &ReplicaId, spec: &WorkloadSpec) {
        if spec.logs.to == LogTarget::Journal {
            return;
        }
        let bounds = bounds_of(spec);
        if let Err(error) = self.ask_holder(|holder| holder.set_bounds(workload, bounds)) {
            // The next connection sends the bounds again.
            tracing::debug!("{workload}: the bounds of its log: {error}");
        }
    }

    /// Begins a new log. One that cannot be begun is no reason for not starting a workload.
    pub(super) fn set_log_aside(self: &Arc<Self>, workload: &ReplicaId, spec: &WorkloadSpec) {
        if spec.logs.to == LogTarget::Journal {
            return;
        }
        let bounds = bounds_of(spec);
        if let Err(error) = self.ask_holder(|holder| holder.set_aside(workload, bounds)) {
            self.events.send(Event::Agent(AgentEvent::Degraded {
                what: "logs".to_owned(),
                why: format!(
                    "{workload}: its log was not set aside: {}; the new instance goes on in it",
                    describe(&error)
                ),
            }));
        }
    }

    /// Waits until all output so far is in the logs.
    pub(crate) fn settle_outputs(self: &Arc<Self>) {
        if let Err(error) = self.ask_holder(Holder::settle) {
            tracing::debug!("the outputs were not settled: {error}");
        }
    }

    /// Reports an instance of an earlier version, which writes its log file itself.
    pub(super) fn report_unbounded_log(&self, workload: &ReplicaId) {
        let instance = self.instances.get(workload);
        let writes_itself = instance.is_some_and(|instance| {
            instance.output.is_none() && instance.spec.logs.to == LogTarget::File
        });
        if writes_itself {
            self.events.send(Event::Agent(AgentEvent::Degraded {
                what: "logs".to_owned(),
                why: format!(
                    "{workload}: an earlier version of enforcer has started it, and its log has \
                     no bound until it is restarted"
                ),
            }));
        }
    }
}
