//! Files of a workload that no one else sees: they are on a file system in memory, which only the
//! workload's processes have mounted.

use crate::account::Identity;
use crate::{clock, mounts, settings_file};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::fchown;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The most bytes of all credentials of a workload together.
const MOST_BYTES: u64 = 1 << 20;
/// The longest wait for the last process that can write to them.
const WRITERS_END: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("make the file system of its credentials")]
    FileSystem(#[source] io::Error),
    #[error("read its credential {name} from {path}")]
    File {
        name: String,
        path: String,
        source: io::Error,
    },
}

/// Makes a file system with a copy of each file, which the user alone may read, and which no one may
/// change. It is not attached yet. The copies do not pass through this process's memory.
///
/// # Errors
/// If a file cannot be read, or all of them together are longer than 1 MiB.
pub fn make(files: &BTreeMap<String, String>, user: &Identity) -> Result<OwnedFd, CredentialError> {
    let mount = in_memory(files.len()).map_err(CredentialError::FileSystem)?;
    let mut left = MOST_BYTES;
    for (name, path) in files {
        let copied = copy(&mount, name, path, user, left);
        left -= copied.map_err(|source| CredentialError::File {
            name: name.clone(),
            path: path.clone(),
            source,
        })?;
    }
    finish(&mount, user).map_err(CredentialError::FileSystem)?;
    Ok(mount)
}

/// Makes a file system whose pages are never written to swap: tmpfs with `noswap` (Linux 6.4), or
/// ramfs before that, which has no limit of its own.
fn in_memory(files: usize) -> io::Result<OwnedFd> {
    // Each file may use a page more than it has bytes. An extended attribute counts as an inode.
    let bytes = MOST_BYTES + files as u64 * 4096;
    let size = std::ffi::CString::new(bytes.to_string())?;
    let inodes = std::ffi::CString::new((2 * files + 2).to_string())?;
    let options = [
        (c"noswap", None),
        (c"size", Some(size.as_c_str())),
        (c"nr_inodes", Some(inodes.as_c_str())),
    ];
    let attributes = mounts::NO_SUID | mounts::NO_DEVICES | mounts::NO_EXEC;
    mounts::make(c"tmpfs", &options, attributes).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => mounts::make(c"ramfs", &[], attributes),
        _ => Err(error),
    })
}

/// Returns the number of bytes.
fn copy(mount: &OwnedFd, name: &str, path: &str, user: &Identity, most: u64) -> io::Result<u64> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = File::from(openat(mount, name, flags, Mode::S_IRUSR)?);
    let copied = settings_file::copy(path, user, &file, most)?;
    fchown(&file, Some(user.uid), Some(user.gid))?;
    // fchmod(2) ignores the umask.
    fchmod(&file, Mode::S_IRUSR)?;
    Ok(copied)
}

/// Gives the folder to the user, and makes all of it read-only.
fn finish(mount: &OwnedFd, user: &Identity) -> io::Result<()> {
    let folder = openat(
        mount,
        ".",
        OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    fchown(&folder, Some(user.uid), Some(user.gid))?;
    fchmod(&folder, Mode::S_IRUSR | Mode::S_IXUSR)?;
    drop(folder);
    // A process that was forked meanwhile may have the files open until it executes its program.
    let until = clock::now().after(WRITERS_END);
    loop {
        match mounts::make_read_only(mount, false) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && clock::now() < until => {
                clock::pause(WRITERS_END / 200);
            }
            made => return made,
        }
    }
}
