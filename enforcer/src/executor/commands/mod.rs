//! Short commands beside a workload: probes, hooks, remedies. Each runs as the
//! workload's user in a cgroup of its own below `probes/`, with a deadline, and its
//! whole tree is gone afterwards, whatever it left behind.

mod place;

pub(super) use place::{BEFORE_START, LIMITS, Places, RECOVERY};

use super::{Executor, launch, sandbox, view};
use crate::report::error_chain;
use enforcer_core::ReplicaId;
use enforcer_core::event::{
    AgentEvent, COMMAND_LIMIT, Event, ExitStatus, Hook, HostEvent, InstanceId, StartError,
    WorkloadEvent,
};
use enforcer_core::spec::WorkloadSpec;
use enforcer_core::units::{MonoTime, human_duration};
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::spawn::{Launch, Patience};
use enforcer_kernel::{clock, ready};
use place::{Kills, PATIENCE, Place};
use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;

/// The most commands that run at a time on the whole host.
pub(super) const MAX_CONCURRENT_COMMANDS: usize = 256;
/// The agent's own part, the start and the end of a command, may take this much longer than the
/// command's limit.
const OVERHEAD_LIMIT: Duration = Duration::from_secs(15);
/// The most characters of the output's last line that are kept.
const MAX_OUTPUT_CHARS: usize = 200;

#[derive(Clone, Debug)]
pub(crate) struct ShortCommand {
    /// `None` for one of the host's, which runs as the agent itself.
    pub(crate) workload: Option<ReplicaId>,
    /// Names its cgroup; a second one of the same name waits for the first.
    pub(crate) what: Cow<'static, str>,
    pub(crate) spec: Arc<WorkloadSpec>,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limit: Duration,
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None` where it had to be ended.
    ended: Option<ExitStatus>,
    /// The kernel killed a process of the command for lack of memory.
    oom_killed: bool,
    output: String,
    limit: Duration,
}

impl Ran {
    pub(crate) fn succeeded(&self) -> bool {
        self.ended == Some(ExitStatus::Code(0))
    }

    /// Returns whether the kernel's OOM killer ended it, at whichever limit, and not its deadline
    /// or another signal.
    pub(crate) fn was_oom_killed(&self) -> bool {
        self.oom_killed && self.ended == Some(ExitStatus::Signal(libc::SIGKILL))
    }

    pub(crate) fn timed_out(&self) -> bool {
        self.ended.is_none()
    }

    pub(crate) fn describe(&self) -> String {
        let how = match self.ended {
            Some(ExitStatus::Signal(_)) if self.was_oom_killed() => {
                "killed by the kernel: it needed more memory than a command may have".to_owned()
            }
            None => format!("no end within {}", human_duration(self.limit)),
            Some(ExitStatus::Unknown) => "it ended unseen".to_owned(),
            Some(ExitStatus::Code(code)) => format!("exited with code {code}"),
            Some(ExitStatus::Signal(signal)) => {
                format!("killed by {}", enforcer_model::signals::signal_name(signal))
            }
        };
        if self.output.is_empty() {
            return how;
        }
        format!("{how}: {}", self.output)
    }
}

/// A command under way.
struct Begun {
    place: Arc<Place>,
    pidfd: Arc<PidFd>,
    output: File,
    /// The counters of its cgroup before the command.
    kills_before: Kills,
}

impl Executor {
    /// Runs a command to its end or to its deadline. An error is one of our own: it
    /// says nothing about the command. There is an answer, whatever hangs.
    pub(crate) async fn run_command(
        self: &Arc<Self>,
        command: ShortCommand,
    ) -> Result<Ran, String> {
        let limit = command.limit;
        // This runs on its own, so that a late command is still cleaned up.
        let running = self
            .runtime
            .spawn(Arc::clone(self).carry_out_command(command));
        match tokio::time::timeout(limit + OVERHEAD_LIMIT, running).await {
            Ok(Ok(ran)) => ran,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it can neither be begun nor ended: something it needs hangs".to_owned()),
        }
    }

    async fn carry_out_command(self: Arc<Self>, command: ShortCommand) -> Result<Ran, String> {
        let limit = command.limit;
        let until = clock::now().after(limit);
        let left = || until.since(clock::now());
        let turn = tokio::time::timeout(left(), Arc::clone(&self.command_permits).acquire_owned());
        let _one_of_many = turn
            .await
            .map_err(|_| "too many commands are under way".to_owned())?;
        let (this, workload, what) = (
            Arc::clone(&self),
            command.workload.clone(),
            command.what.clone(),
        );
        let ceiling = command.spec.commands;
        let found = move || this.command_place(workload.as_ref(), ceiling, &what);
        let place = tokio::task::spawn_blocking(found).await;
        let place = place.map_err(|error| error.to_string())??;
        let turn = tokio::time::timeout(left(), Arc::clone(&place.turn).lock_owned());
        let turn = turn
            .await
            .map_err(|_| "the one before it has not ended".to_owned())?;
        let owner = command.workload.clone();
        let what = command.what.clone();
        let ran = self.run_in_turn(command, Arc::clone(&place), until).await;
        drop(turn);
        if let Some(workload) = owner.filter(|workload| self.is_unwanted(workload, &what)) {
            let this = Arc::clone(&self);
            let removed = tokio::task::spawn_blocking(move || this.forget_place(&workload, &what));
            let _ = removed.await;
        }
        ran
    }

    /// Runs a command in its cgroup, which is empty again at the end.
    async fn run_in_turn(
        self: &Arc<Self>,
        command: ShortCommand,
        place: Arc<Place>,
        until: MonoTime,
    ) -> Result<Ran, String> {
        let limit = command.limit;
        let left = || until.since(clock::now());
        let (workload, what) = (command.workload.clone(), command.what.clone());
        let this = Arc::clone(self);
        let begin = move || {
            let instance = this.launch_of(&command);
            this.begin_command(&command, instance.as_deref(), place)
        };
        let begun = tokio::task::spawn_blocking(begin);
        let begun = begun.await.map_err(|error| error.to_string())??;
        let exited = ready::watch(&*begun.pidfd, Interest::READABLE);
        let begun_in_time = !left().is_zero();
        let in_time = match &exited {
            Ok(exited) => tokio::time::timeout(left(), exited.readable())
                .await
                .is_ok(),
            Err(_) => false,
        };
        let place = Arc::clone(&begun.place);
        let emptied = tokio::task::spawn_blocking(move || place.cgroup.kill_and_wait(PATIENCE));
        let emptied = emptied.await.map_err(|error| error.to_string())?;
        let exited = exited.map_err(|error| format!("failed to wait for it: {error}"))?;
        let gone = tokio::time::timeout(PATIENCE, exited.readable()).await;
        gone.map_err(|_| "it can't be killed".to_owned())?
            .map(drop)
            .map_err(|error| format!("failed to wait for it: {error}"))?;
        let status = begun.pidfd.wait();
        let status = status.map_err(|error| format!("failed to wait for it: {error}"))?;
        emptied.map_err(|error| format!("failed to {}", error_chain(&error)))?;
        if !begun_in_time {
            return Err(format!(
                "it could not be begun within {}",
                human_duration(limit)
            ));
        }
        let kills = begun.place.kills();
        let oom_killed = begun.kills_before.rose(kills);
        if oom_killed && !begun.kills_before.were_at_ceiling(kills) {
            let of = workload.map_or_else(|| "host".to_owned(), |name| name.to_string());
            let why = format!(
                "{of}: its command `{what}` was killed for want of memory that is not its own: \
                 of the host, or at a limit above all commands"
            );
            let what = "commands".to_owned();
            self.send(Event::Agent(AgentEvent::Degraded { what, why }));
        }
        Ok(Ran {
            oom_killed,
            ended: in_time.then_some(status),
            output: last_line(&begun.output),
            limit,
        })
    }

    /// Returns what the running instance was started with, if the command uses the same account
    /// and variables. An agent that has taken the instance over does not know it: then the first
    /// command reads the files of variables once more.
    fn launch_of(&self, command: &ShortCommand) -> Option<Arc<Launch>> {
        let workload = command.workload.as_ref()?;
        if command.what == BEFORE_START {
            // They belong to the instance that comes.
            return None;
        }
        let instance = self.instances.get(workload)?;
        let (spec, launch) = match instance.launch {
            Some(known) => known,
            None => {
                let launch = Arc::new(self.prepare_launch(workload, &instance.spec).ok()?);
                self.instances
                    .set_launch(workload, (instance.spec, launch))?
            }
        };
        let of = |spec: &WorkloadSpec| {
            let account = (spec.user.clone(), spec.group.clone());
            let files = spec.environment_files.clone();
            (account, spec.environment.clone(), files)
        };
        (of(&spec) == of(&command.spec)).then_some(launch)
    }

    /// Creates the process of a command, and waits until it executes its program.
    fn begin_command(
        &self,
        command: &ShortCommand,
        instance: Option<&Launch>,
        place: Arc<Place>,
    ) -> Result<Begun, String> {
        let started = |error: StartError| format!("failed to {}: {}", error.stage, error.error);
        let own = command
            .workload
            .as_ref()
            .and_then(|workload| view::environment(&self.runtime_dir, workload, &command.spec));
        let own = own.into_iter().collect();
        let launch = launch::short_command(command, instance, own).map_err(started)?;
        let output =
            output_file().map_err(|error| format!("failed to take its output: {error}"))?;
        let is_of_instance = command.what != BEFORE_START;
        let view = self.view_of_command(command, is_of_instance, &launch.identity);
        let view = view.map_err(started)?;
        place
            .cgroup
            .make_fit()
            .map_err(|error| format!("failed to {}", error_chain(&error)))?;
        let filtered = sandbox::filter_network(&command.spec, &place.cgroup, &place.network);
        filtered.map_err(|failure| started(failure.into()))?;
        let kills_before = place.kills();
        let waiting = self
            .fork_server
            .spawn(&launch, (&place.cgroup, &output, &view), &[], || ())
            .map_err(|error| format!("failed to {}", error_chain(&error)))?;
        let patience = Patience {
            until: clock::now().after(command.limit),
            limit: command.limit,
            is_aborted: &|| false,
            explain: &|| None,
        };
        let released = waiting.release(&command.command[0], &patience);
        let pidfd = released.map_err(started)?;
        Ok(Begun {
            kills_before,
            place,
            pidfd: Arc::new(pidfd),
            output,
        })
    }

    /// Runs the commands of a hook, beside everything else.
    pub(super) async fn run_hook(
        self: Arc<Self>,
        (workload, instance): (ReplicaId, InstanceId),
        spec: Arc<WorkloadSpec>,
        hook: Hook,
    ) {
        let commands = hook.commands(&spec);
        let of = (&workload, &spec);
        let commands = (commands, hook.limit());
        let ran = self.run_in_order(of, hook.as_str(), commands, || false);
        let error = ran.await.err();
        // Nothing else would remove it: the workload may be gone by now.
        let (this, name) = (Arc::clone(&self), workload.clone());
        let removed = tokio::task::spawn_blocking(move || this.forget_place(&name, hook.as_str()));
        let _ = removed.await;
        self.send(Event::Workload(
            workload,
            WorkloadEvent::HookDone {
                hook,
                instance,
                error,
            },
        ));
    }

    /// Runs commands one after another, until one fails. With several, its error names it.
    pub(super) async fn run_in_order(
        self: &Arc<Self>,
        (workload, spec): (&ReplicaId, &Arc<WorkloadSpec>),
        what: &'static str,
        (commands, limit): (Vec<Vec<String>>, Duration),
        is_aborted: impl Fn() -> bool,
    ) -> Result<(), String> {
        let are_several = commands.len() > 1;
        for command in commands {
            if is_aborted() {
                return Err("it was asked to stop".to_owned());
            }
            let name = command.first().cloned().unwrap_or_default();
            let command = ShortCommand {
                workload: Some(workload.clone()),
                what: what.into(),
                command,
                environment: Vec::new(),
                limit,
                spec: Arc::clone(spec),
            };
            if let Some(error) = outcome_of(self.run_command(command).await) {
                return Err(match are_several {
                    true => format!("{name}: {error}"),
                    false => error,
                });
            }
        }
        Ok(())
    }

    /// A command of the host's.
    pub(super) async fn run_on_host(self: Arc<Self>, command: Vec<String>) {
        let command = ShortCommand {
            workload: None,
            what: "disk".into(),
            spec: Arc::new(WorkloadSpec::default()),
            command,
            environment: Vec::new(),
            limit: COMMAND_LIMIT,
        };
        let error = outcome_of(self.run_command(command).await);
        self.send(Event::Host(HostEvent::CommandDone { error }));
    }
}

/// Returns the error of a command, if there is one.
pub(super) fn outcome_of(ran: Result<Ran, String>) -> Option<String> {
    match ran {
        Ok(ran) if ran.succeeded() => None,
        Ok(ran) => Some(ran.describe()),
        Err(error) => Some(error),
    }
}

/// Makes a file in memory. The kernel charges its pages to the writer, so the command's own ceiling
/// bounds its output.
fn output_file() -> nix::Result<File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    memfd_create(c"output", MFdFlags::MFD_CLOEXEC).map(File::from)
}

fn last_line(output: &File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let mut tail = [0; 4 * MAX_OUTPUT_CHARS];
    let from = length.saturating_sub(u64::try_from(tail.len()).unwrap_or(0));
    let read = output.read_at(&mut tail, from).unwrap_or(0);
    let text = String::from_utf8_lossy(&tail[..read]).into_owned();
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("");
    last.chars()
        .filter(|c| !c.is_control())
        .take(MAX_OUTPUT_CHARS)
        .collect()
}
