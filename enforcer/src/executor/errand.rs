//! Short commands beside a workload: probes, hooks, remedies. Each runs as the
//! workload's user in a cgroup of its own below `probes/`, with a ceiling and a
//! deadline, and its whole tree is gone afterwards, whatever it left behind.

use super::{Executor, error_chain, launch};
use crate::kernel::cgroupfs::Cgroup;
use crate::kernel::pidfd::PidFd;
use crate::kernel::{clock, limits, ready, spawn};
use enforcer_core::WorkloadName;
use enforcer_core::event::{COMMAND_LIMIT, ExitStatus};
use enforcer_core::limits::Limits;
use enforcer_core::spec::WorkloadSpec;
use enforcer_core::units::{Bytes, Limit, human_duration};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;

/// More is no check but a program of its own.
const MEMORY: Bytes = Bytes(128 << 20);
const PIDS: u64 = 64;
/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of its output, in its last line.
const SHOWN: usize = 200;

#[derive(Clone, Debug)]
pub(crate) struct Errand {
    /// `None` for one of the host's, which runs as the agent itself.
    pub(crate) workload: Option<WorkloadName>,
    /// Names its cgroup; there is never a second one of the same name.
    pub(crate) what: &'static str,
    pub(crate) spec: Arc<WorkloadSpec>,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) limit: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None` where it had to be ended.
    ended: Option<ExitStatus>,
    output: String,
    limit: Duration,
}

impl Ran {
    pub(crate) fn succeeded(&self) -> bool {
        self.ended == Some(ExitStatus::Code(0))
    }

    pub(crate) fn timed_out(&self) -> bool {
        self.ended.is_none()
    }

    pub(crate) fn describe(&self) -> String {
        let how = match self.ended {
            None => format!("no end within {}", human_duration(self.limit)),
            Some(ExitStatus::Code(code)) => format!("exited with code {code}"),
            Some(ExitStatus::Signal(signal)) => {
                format!("killed by {}", crate::kernel::signal::signal_name(signal))
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
    cgroup: Arc<Cgroup>,
    pidfd: Arc<PidFd>,
    output: File,
}

impl Executor {
    /// Runs a command to its end or to its deadline. An error is one of our own: it
    /// says nothing about the command.
    pub(crate) async fn run_errand(self: &Arc<Self>, errand: Errand) -> Result<Ran, String> {
        let limit = errand.limit;
        let until = clock::now().after(limit);
        let this = Arc::clone(self);
        let begun = tokio::task::spawn_blocking(move || this.begin_errand(&errand));
        let begun = begun.await.map_err(|error| error.to_string())??;
        let exited = ready::watch(&*begun.pidfd, Interest::READABLE);
        let left = until.since(clock::now());
        let in_time = match &exited {
            Ok(exited) => tokio::time::timeout(left, exited.readable()).await.is_ok(),
            Err(_) => false,
        };
        let ended = tokio::task::spawn_blocking(move || begun.finish(in_time));
        let (ended, output) = ended.await.map_err(|error| error.to_string())??;
        exited.map_err(|error| format!("failed to wait for it: {error}"))?;
        Ok(Ran {
            ended,
            output,
            limit,
        })
    }

    /// The same, from a thread that may wait.
    pub(super) fn run_errand_here(self: &Arc<Self>, errand: Errand) -> Result<Ran, String> {
        self.runtime.block_on(self.run_errand(errand))
    }

    fn begin_errand(&self, errand: &Errand) -> Result<Begun, String> {
        let started = |error: enforcer_core::event::StartError| {
            format!("failed to {}: {}", error.stage, error.error)
        };
        let launch = launch::errand(errand).map_err(started)?;
        let owner = errand
            .workload
            .as_ref()
            .map_or("host", WorkloadName::as_str);
        let cgroup = self.errand_cgroup(&format!("{owner}.{}", errand.what))?;
        let output =
            output_file().map_err(|error| format!("failed to take its output: {error}"))?;
        let waiting = spawn::spawn(&launch, &cgroup, &output)
            .map_err(|error| format!("failed to {}", error_chain(&error)))?;
        let pidfd = waiting.release(&errand.command[0]).map_err(started)?;
        Ok(Begun {
            cgroup,
            pidfd: Arc::new(pidfd),
            output,
        })
    }

    fn errand_cgroup(&self, name: &str) -> Result<Arc<Cgroup>, String> {
        if let Some(known) = super::lock(&self.errands).get(name) {
            return Ok(Arc::clone(known));
        }
        let failed = |error: &dyn std::error::Error| format!("failed to {}", error_chain(error));
        let cgroup = self
            .tree
            .probes()
            .ensure_child(name)
            .map_err(|error| failed(&error))?;
        let ceiling = Limits {
            memory_max: Some(Limit::At(MEMORY)),
            memory_oom_group: Some(true),
            pids_max: Some(Limit::At(PIDS)),
            ..Limits::default()
        };
        limits::apply(&cgroup, &ceiling).map_err(|error| failed(&error))?;
        let cgroup = Arc::new(cgroup);
        super::lock(&self.errands).insert(name.to_owned(), Arc::clone(&cgroup));
        Ok(cgroup)
    }

    /// A workload that goes takes the cgroups of its errands with it.
    pub(super) fn forget_errands(&self, workload: &WorkloadName) {
        let prefix = format!("{workload}.");
        let mut errands = super::lock(&self.errands);
        let names: Vec<String> = errands
            .keys()
            .filter(|name| name.starts_with(&prefix))
            .cloned()
            .collect();
        for name in names {
            let Some(cgroup) = errands.remove(&name) else {
                continue;
            };
            let gone = cgroup
                .kill_and_wait(PATIENCE)
                .and_then(|()| self.tree.probes().remove_child(&name));
            if let Err(error) = gone {
                tracing::warn!("{workload}: failed to {}", error_chain(&error));
            }
        }
    }

    /// A hook, beside everything else.
    pub(super) async fn run_hook(
        self: Arc<Self>,
        workload: WorkloadName,
        spec: Arc<WorkloadSpec>,
        hook: enforcer_core::event::Hook,
    ) {
        use enforcer_core::event::{Event, HOOK_LIMIT, Hook};
        let command = match hook {
            Hook::OnReady => &spec.on_ready,
            Hook::OnUnready => &spec.on_unready,
        };
        let errand = Errand {
            workload: Some(workload.clone()),
            what: hook.word(),
            command: command.clone().unwrap_or_default(),
            environment: Vec::new(),
            limit: HOOK_LIMIT,
            spec,
        };
        let error = outcome_of(self.run_errand(errand).await);
        self.send(Event::HookDone {
            workload,
            hook,
            error,
        });
    }

    /// A command of the host's.
    pub(super) async fn run_on_host(self: Arc<Self>, command: Vec<String>) {
        let errand = Errand {
            workload: None,
            what: "disk",
            spec: Arc::new(WorkloadSpec::default()),
            command,
            environment: Vec::new(),
            limit: COMMAND_LIMIT,
        };
        let error = outcome_of(self.run_errand(errand).await);
        self.send(enforcer_core::Event::HostCommandDone { error });
    }
}

/// What went wrong, if anything did.
pub(super) fn outcome_of(ran: Result<Ran, String>) -> Option<String> {
    match ran {
        Ok(ran) if ran.succeeded() => None,
        Ok(ran) => Some(ran.describe()),
        Err(error) => Some(error),
    }
}

/// Memory that is charged to whoever writes it, so that the command's own ceiling
/// bounds what it says.
fn output_file() -> nix::Result<File> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    memfd_create(c"output", MFdFlags::MFD_CLOEXEC).map(File::from)
}

impl Begun {
    /// Ends what has not ended, and reads what it said.
    fn finish(self, in_time: bool) -> Result<(Option<ExitStatus>, String), String> {
        let gone = self.cgroup.kill_and_wait(PATIENCE);
        let status = self
            .pidfd
            .wait()
            .map_err(|error| format!("failed to wait for it: {error}"))?;
        gone.map_err(|error| format!("failed to {}", error_chain(&error)))?;
        Ok((in_time.then_some(status), last_line(&self.output)))
    }
}

fn last_line(output: &File) -> String {
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let mut tail = [0; 4 * SHOWN];
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
        .take(SHOWN)
        .collect()
}
