//! The sockets by which programs say how they are (sd_notify(3)). The agent makes one for each
//! instance that a `notify` probe waits for, and the holder listens at it.

use super::Executor;
use super::drift::relative;
use super::instances::Instance;
use super::launch;
use super::start::io_failure;
use crate::holder::{Said, Speaker};
use enforcer_core::ReplicaId;
use enforcer_core::event::{Event, InstanceEvent, InstanceId, StartError};
use enforcer_core::spec::{Check, WorkloadSpec};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::notify;
use nix::unistd::{Gid, Uid, geteuid};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Returns whether a probe waits for what the program says.
pub(super) fn is_asked_for(spec: &WorkloadSpec) -> bool {
    let mut probes = spec.probes.values();
    probes.any(|probe| matches!(probe.check, Check::Notify { .. }))
}

/// Returns the longest time between two `WATCHDOG=1`.
fn watchdog(spec: &WorkloadSpec) -> Option<Duration> {
    let mut probes = spec.probes.values();
    probes.find_map(|probe| match probe.check {
        Check::Notify { within } => within,
        _ => None,
    })
}

/// Returns the variables by which the program finds the socket, as sd_notify(3) and
/// sd_watchdog_enabled(3) name them.
pub(super) fn environment(
    folder: &Path,
    name: &ReplicaId,
    spec: &WorkloadSpec,
) -> Vec<(String, Vec<u8>)> {
    if !is_asked_for(spec) {
        return Vec::new();
    }
    let folder = super::view::folder_of(folder, spec);
    let path = path_of(folder, name).into_os_string().into_encoded_bytes();
    let socket = ("NOTIFY_SOCKET".to_owned(), path);
    let watchdog = watchdog(spec).map(|within| {
        let micros = within.as_micros().to_string();
        ("WATCHDOG_USEC".to_owned(), micros.into_bytes())
    });
    std::iter::once(socket).chain(watchdog).collect()
}

/// Returns the path of a workload's socket.
fn path_of(folder: &Path, workload: &ReplicaId) -> PathBuf {
    folder.join("notify").join(workload.file_name())
}

impl Executor {
    /// Makes the socket of a new instance, if it needs one, and has the holder listen.
    pub(super) fn open_notices(
        self: &Arc<Self>,
        (workload, instance): (&ReplicaId, InstanceId),
        spec: &WorkloadSpec,
        owner: Option<(Uid, Gid)>,
        cgroup: &Cgroup,
    ) -> Result<(), StartError> {
        if !is_asked_for(spec) {
            return Ok(());
        }
        let made = self.make_socket((workload, instance), owner, cgroup);
        let listens = made.and_then(|(speaker, socket)| {
            self.ask_holder(|holder| holder.listen(&speaker, &socket))
        });
        listens.map_err(|error| io_failure("open the socket of its notifications", &error))
    }

    fn make_socket(
        &self,
        (workload, instance): (&ReplicaId, InstanceId),
        owner: Option<(Uid, Gid)>,
        cgroup: &Cgroup,
    ) -> io::Result<(Speaker, OwnedFd)> {
        let path = path_of(&self.runtime_dir, workload);
        if let Some(folder) = path.parent() {
            self.make_passable(folder)?;
        }
        let socket = notify::bind_for(&path, owner)?;
        let speaker = Speaker {
            workload: workload.clone(),
            instance,
            home: relative(cgroup.path()),
            uid: owner.map_or(geteuid(), |(uid, _)| uid).as_raw(),
        };
        Ok((speaker, socket))
    }

    /// Makes a folder in the agent's own. Everyone may go through both, and no one may look into it.
    pub(super) fn make_passable(&self, folder: &Path) -> io::Result<()> {
        match std::fs::DirBuilder::new().mode(0o711).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for folder in [folder, &self.runtime_dir] {
            let mode = std::fs::metadata(folder)?.permissions().mode();
            if mode & 0o011 != 0o011 {
                let passable = std::fs::Permissions::from_mode(mode & 0o7777 | 0o011);
                std::fs::set_permissions(folder, passable)?;
            }
        }
        Ok(())
    }

    /// Makes the socket of a running instance once more: the holder that had it is gone, and with it
    /// what the instance has said.
    pub(super) fn reopen_notices(&self, workload: &ReplicaId, instance: &Instance) {
        if !is_asked_for(&instance.spec) {
            return;
        }
        let owner = launch::owner(&instance.spec);
        let owner = owner.map_err(|error| io::Error::other(error.error));
        let made = owner
            .and_then(|owner| self.make_socket((workload, instance.id), owner, instance.cgroup()));
        let listens = made.and_then(|(speaker, socket)| self.holder.listen(&speaker, &socket));
        if let Err(error) = listens {
            tracing::warn!("{workload}: nothing listens to its notifications: {error}");
        }
    }

    /// Closes the socket of a workload that has ended.
    pub(super) fn close_notices(&self, workload: &ReplicaId, spec: &WorkloadSpec) {
        // The probe may have been taken out of the manifest since the start.
        let path = path_of(&self.runtime_dir, workload);
        if !is_asked_for(spec) && !path.exists() {
            return;
        }
        if let Err(error) = self.holder.ignore(workload) {
            tracing::debug!("{workload}: its notifications: {error}");
        }
        let _ = std::fs::remove_file(path);
    }

    /// Passes on what instances have said while no one was there to hear it.
    pub(crate) fn recall_notices(self: &Arc<Self>) {
        match self.holder.recall() {
            Ok(said) => said.into_iter().for_each(|said| self.report_said(said)),
            Err(error) => tracing::warn!("what the workloads have said is not known: {error}"),
        }
    }

    /// Passes on what an instance has said.
    pub(super) fn report_said(self: &Arc<Self>, said: Said) {
        let Said {
            workload,
            instance,
            notice,
        } = said;
        if let Some(pid) = notice.main_pid {
            self.change_main(&workload, instance, pid);
        }
        let event = InstanceEvent::Notified { notice };
        self.events.send(Event::Instance(workload, instance, event));
    }
}
