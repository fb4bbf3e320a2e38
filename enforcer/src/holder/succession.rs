//! Turns a holder into a newer version of itself: the same process executes the new program, and
//! its pipes stay open. A service manager that watches the process sees no change.

use super::deadlines::End;
use super::notices::Inherited;
use super::sockets::InheritedSocket;
use enforcer_core::ReplicaId;
use enforcer_kernel::descriptors::set_close_on_exec;
use enforcer_kernel::log_file::Bounds;
use nix::unistd::fexecve;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// The state that a holder hands to its successor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Succession {
    pub(super) listener: RawFd,
    /// Workload, inode and descriptor.
    pub(super) pipes: Vec<(ReplicaId, u64, RawFd)>,
    pub(super) bounds: BTreeMap<ReplicaId, Bounds>,
    /// An older holder has none.
    #[serde(default)]
    pub(super) notices: Vec<Inherited>,
    #[serde(default)]
    pub(super) sockets: Vec<InheritedSocket>,
    #[serde(default)]
    pub(super) deadlines: Vec<End>,
}

impl Succession {
    fn path(runtime_dir: &Path) -> PathBuf {
        runtime_dir.join("succession.json")
    }

    /// Reads and removes the file that the program before this one wrote.
    pub(super) fn take(runtime_dir: &Path) -> io::Result<Self> {
        let path = Self::path(runtime_dir);
        let succession = serde_json::from_slice(&std::fs::read(&path)?)?;
        std::fs::remove_file(path)?;
        Ok(succession)
    }

    /// Becomes the program; returns only if that fails.
    pub(super) fn execute(&self, runtime_dir: &Path, program: &OwnedFd) -> io::Error {
        let descriptors = || {
            let pipes = self.pipes.iter().map(|(.., descriptor)| *descriptor);
            let notices = self.notices.iter().map(|one| one.descriptor);
            let sockets = self.sockets.iter().map(|one| one.descriptor);
            pipes.chain(notices).chain(sockets).chain([self.listener])
        };
        let begun = (|| {
            let path = Self::path(runtime_dir);
            std::fs::write(&path, serde_json::to_vec(self)?)?;
            for descriptor in descriptors() {
                set_close_on_exec(descriptor, false)?;
            }
            let before = std::env::args_os().filter(|argument| argument != SUCCEED);
            let arguments = before.chain([SUCCEED.into()]);
            let arguments: Result<Vec<CString>, _> = arguments
                .map(|argument| CString::new(argument.into_encoded_bytes()))
                .collect();
            let environment = std::env::vars_os().map(|(name, value)| {
                let mut pair = name.into_encoded_bytes();
                pair.push(b'=');
                pair.extend(value.into_encoded_bytes());
                CString::new(pair)
            });
            let environment: Result<Vec<CString>, _> = environment.collect();
            fexecve(program, &arguments?, &environment?)?;
            Ok(())
        })();
        for descriptor in descriptors() {
            let _ = set_close_on_exec(descriptor, true);
        }
        begun.err().unwrap_or_else(|| io::ErrorKind::Other.into())
    }
}

/// The option for a program that succeeds a holder.
const SUCCEED: &str = "--succeed";
