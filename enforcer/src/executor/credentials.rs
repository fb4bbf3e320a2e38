//! The mounts that a workload's processes see and others do not: the copies of its credentials.

use super::start::io_failure;
use super::{Executor, ShortCommand};
use enforcer_core::WorkloadName;
use enforcer_core::event::StartError;
use enforcer_core::spec::WorkloadSpec;
use enforcer_kernel::account::Identity;
use enforcer_kernel::credentials::{self, CredentialError};
use enforcer_kernel::spawn::{Attached, View};
use nix::unistd::geteuid;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the variable by which the program finds them, as systemd.exec(5) has it.
pub(super) fn environment(
    folder: &Path,
    name: &WorkloadName,
    spec: &WorkloadSpec,
) -> Option<(String, Vec<u8>)> {
    let path = || path_of(folder, name).into_os_string().into_encoded_bytes();
    (!spec.credentials.is_empty()).then(|| ("CREDENTIALS_DIRECTORY".to_owned(), path()))
}

/// Returns the folder that they are mounted on. On the host it is always empty.
fn path_of(folder: &Path, workload: &WorkloadName) -> PathBuf {
    folder.join("credentials").join(workload.as_str())
}

impl Executor {
    /// Returns what a process of a workload sees where no other process of it lives.
    pub(super) fn view_of_its_own(
        &self,
        workload: &WorkloadName,
        spec: &WorkloadSpec,
        user: &Identity,
    ) -> Result<View, StartError> {
        if spec.credentials.is_empty() {
            return Ok(View::Hosts);
        }
        if !geteuid().is_root() {
            return Err(StartError {
                stage: "mount its credentials".to_owned(),
                errno: None,
                error: "the agent is not root and can mount nothing".to_owned(),
            });
        }
        let folder = self.credentials_folder(workload);
        let folder =
            folder.map_err(|error| io_failure("make the folder of its credentials", &error))?;
        let file_system = credentials::make(&spec.credentials, user).map_err(|error| {
            let stage = error.to_string();
            match error {
                CredentialError::FileSystem(source) | CredentialError::File { source, .. } => {
                    io_failure(&stage, &source)
                }
            }
        })?;
        Ok(View::Own(vec![Attached {
            file_system,
            at: folder,
        }]))
    }

    fn credentials_folder(&self, workload: &WorkloadName) -> io::Result<CString> {
        let path = path_of(&self.runtime_dir, workload);
        if let Some(folder) = path.parent() {
            self.make_passable(folder)?;
        }
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(CString::new(path.into_os_string().into_encoded_bytes())?),
        }
    }

    pub(super) fn remove_credentials_folder(&self, workload: &WorkloadName) {
        // It is not there if the workload has none.
        let _ = std::fs::remove_dir(path_of(&self.runtime_dir, workload));
    }

    /// Returns what a short command sees: what the running instance sees, if there is one.
    pub(super) fn view_of_command(
        &self,
        command: &ShortCommand,
        is_of_instance: bool,
        user: &Identity,
    ) -> Result<View, StartError> {
        let Some(workload) = &command.workload else {
            return Ok(View::Hosts);
        };
        let instance = self.instances.get(workload).filter(|_| is_of_instance);
        if let Some(instance) = instance
            && let Some(main) = instance.pidfd
            && !main.has_exited()
        {
            return Ok(match instance.spec.credentials.is_empty() {
                true => View::Hosts,
                false => View::Of(main),
            });
        }
        self.view_of_its_own(workload, &command.spec, user)
    }
}
