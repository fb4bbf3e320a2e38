//! What comes before a start: the part of a recovery strategy that runs between two instances, and
//! the commands of `before_start`.

use super::commands::{BEFORE_START, RECOVERY, ShortCommand, outcome_of};
use super::{Executor, launch};
use enforcer_core::ReplicaId;
use enforcer_core::event::{
    COMMAND_LIMIT, Event, InstanceEvent, InstanceId, Remedy, StartError, WorkloadEvent,
};
use enforcer_core::spec::{Strategy, WorkloadSpec};
use enforcer_kernel::process::OWN_PROGRAM;
use std::sync::Arc;

/// Under this name the agent's own program empties folders, as the workload's user.
const CLEAR: &str = "clear";

impl Executor {
    pub(super) async fn run_remedy(
        self: Arc<Self>,
        (workload, instance): (ReplicaId, InstanceId),
        spec: Arc<WorkloadSpec>,
        remedy: Remedy,
    ) {
        let done = self
            .before_start((&workload, instance), &spec, remedy)
            .await;
        self.send(Event::Instance(
            workload,
            instance,
            InstanceEvent::Remedied { error: done.err() },
        ));
    }

    /// Carries out the remedy, and then the commands of `before_start`.
    async fn before_start(
        self: &Arc<Self>,
        (workload, instance): (&ReplicaId, InstanceId),
        spec: &Arc<WorkloadSpec>,
        remedy: Remedy,
    ) -> Result<(), StartError> {
        let commands = spec.before_start.clone();
        // A command sees the directories in the root of its workload.
        if !commands.is_empty() || spec.root.is_some() {
            self.make_directories_meanwhile(workload, spec).await?;
        }
        self.remedy(workload, spec, remedy).await?;
        if commands.is_empty() {
            return Ok(());
        }
        let of = (workload.clone(), instance);
        let is_aborted = || self.aborted.lock().contains(&of);
        let commands = (commands, COMMAND_LIMIT);
        let ran = self.run_in_order((workload, spec), BEFORE_START, commands, is_aborted);
        ran.await.map_err(|error| StartError {
            stage: "run the commands of before_start".to_owned(),
            errno: None,
            error,
        })
    }

    async fn make_directories_meanwhile(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &Arc<WorkloadSpec>,
    ) -> Result<(), StartError> {
        let (this, name, of) = (Arc::clone(self), workload.clone(), Arc::clone(spec));
        let make = move || this.make_directories(&name, &of, launch::owner(&of)?);
        let made = tokio::task::spawn_blocking(make).await;
        made.map_err(|error| StartError {
            stage: "make its directories".to_owned(),
            errno: None,
            error: error.to_string(),
        })?
    }

    async fn remedy(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &Arc<WorkloadSpec>,
        Remedy { strategy, failure }: Remedy,
    ) -> Result<(), StartError> {
        match strategy {
            Strategy::Restart => Ok(()),
            Strategy::Reset => self.reset(workload, spec).await,
            Strategy::Recreate => {
                let (this, name, spec) = (Arc::clone(self), workload.clone(), Arc::clone(spec));
                let done = tokio::task::spawn_blocking(move || this.recreate(&name, &spec));
                done.await.map_err(|error| StartError {
                    stage: "make its cgroup anew".to_owned(),
                    errno: None,
                    error: error.to_string(),
                })
            }
            Strategy::Run(command) => {
                let command = self.remedy_command(workload, spec, command, failure);
                if let Some(error) = outcome_of(self.run_command(command).await) {
                    let workload = workload.clone();
                    let error = format!("the command of the strategy `run`: {error}");
                    self.send(Event::Workload(
                        workload,
                        WorkloadEvent::RemedyFailed { error },
                    ));
                }
                Ok(())
            }
        }
    }

    fn remedy_command(
        &self,
        workload: &ReplicaId,
        spec: &Arc<WorkloadSpec>,
        command: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> ShortCommand {
        ShortCommand {
            workload: Some(workload.clone()),
            what: RECOVERY.into(),
            spec: Arc::clone(spec),
            command,
            environment,
            limit: COMMAND_LIMIT,
        }
    }

    /// Empties the reset paths with no other rights than the workload's own user has.
    async fn reset(
        self: &Arc<Self>,
        workload: &ReplicaId,
        spec: &Arc<WorkloadSpec>,
    ) -> Result<(), StartError> {
        let failed = |error: String| StartError {
            stage: "clear the reset paths".to_owned(),
            errno: None,
            error,
        };
        let of = Arc::clone(spec);
        let identity = tokio::task::spawn_blocking(move || launch::identity(&of)).await;
        let identity = identity.map_err(|error| failed(error.to_string()))??;
        let program = OWN_PROGRAM.to_owned();
        let mut command = vec![program, CLEAR.to_owned(), identity.home];
        command.extend(spec.recovery.reset_paths.iter().cloned());
        // This is enforcer's own program: nothing of the workload may reach it.
        let spec = Arc::new(WorkloadSpec {
            user: spec.user.clone(),
            group: spec.group.clone(),
            groups: spec.groups.clone(),
            commands: spec.commands,
            // The same files, which may be mounted elsewhere on the host.
            runtime_directory: spec.runtime_directory.clone(),
            state_directory: spec.state_directory.clone(),
            cache_directory: spec.cache_directory.clone(),
            root: spec.root.clone(),
            mounts: spec.mounts.clone(),
            tmpfs: spec.tmpfs.clone(),
            sandbox: spec.sandbox,
            private_tmp: spec.private_tmp,
            read_only_paths: spec.read_only_paths.clone(),
            read_write_paths: spec.read_write_paths.clone(),
            ..WorkloadSpec::default()
        });
        let command = self.remedy_command(workload, &spec, command, Vec::new());
        match outcome_of(self.run_command(command).await) {
            None => Ok(()),
            Some(error) => Err(failed(error)),
        }
    }

    /// Removes the cgroup, so that the next start makes a new one, and begins a new log. The old
    /// log is kept as an older one.
    fn recreate(self: &Arc<Self>, workload: &ReplicaId, spec: &WorkloadSpec) {
        self.remove_cgroup(workload);
        // The last words of the old instance belong to the old log.
        self.settle_outputs();
        self.set_log_aside(workload, spec);
    }
}
