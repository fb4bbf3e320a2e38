//! A path of a workload's, as its own processes see it: they may have another root, or mounts that the
//! host does not show.

use crate::mounts;
use crate::pidfd::PidFd;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A place that can be used under a path of the host's.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// The path leads through this descriptor.
    _held: Option<OwnedFd>,
}

impl Place {
    /// Returns a place that the host's processes see as the workload's do.
    pub fn of_host(path: &str) -> Self {
        Self {
            path: path.into(),
            _held: None,
        }
    }

    /// Finds a path in the files of a process. No link leads out of them (`RESOLVE_IN_ROOT`, Linux 5.6).
    ///
    /// # Errors
    /// `ESRCH` if the process is gone.
    pub fn of_process(pid: u32, process: &PidFd, path: &str) -> io::Result<Self> {
        let root = root_of(pid, process)?;
        Self::below(&root, path)
    }

    /// Finds a path in a folder. No link leads out of it.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub(crate) fn below(folder: &OwnedFd, path: &str) -> io::Result<Self> {
        let held = mounts::open_below(folder, &CString::new(path)?, 0)?;
        Ok(Self {
            path: path_of(held.as_fd()),
            _held: Some(held),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens the root of a process.
///
/// # Errors
/// `ESRCH` if the process is gone.
pub fn root_of(pid: u32, process: &PidFd) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty())?;
    // The number was still this process's when it was used.
    match process.has_exited() {
        true => Err(Errno::ESRCH.into()),
        false => Ok(root),
    }
}

/// Returns a path of an open file or folder.
pub fn path_of(folder: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_model::ids::ProcessId;

    #[test]
    fn a_path_is_found_in_the_files_of_a_process() {
        let pid = std::process::id();
        let start_ticks = crate::process::start_ticks(pid).expect("our own start");
        let own = PidFd::of(ProcessId { pid, start_ticks });
        let own = own.expect("a descriptor").expect("this process");
        let place = Place::of_process(pid, &own, "/proc/../etc/passwd").expect("a file");
        let text = std::fs::read_to_string(place.path()).expect("its text");
        assert!(text.contains("root:"));
        assert!(Place::of_process(pid, &own, "/no/such/file").is_err());
    }
}
