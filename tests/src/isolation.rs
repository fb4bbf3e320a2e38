//! The parts of the system that a test has for itself: mounts, accounts and a network.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The file systems that a test finds empty, with their options.
const EMPTY: [(&str, &str, &str); 4] = [
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/mnt", "mode=755"),
    ("bpf", "/sys/fs/bpf", "mode=700"),
];

/// Copies the files of `/etc` into a folder that the test in this slot may change.
///
/// # Errors
/// If a file cannot be copied.
pub fn copy_accounts(slot: usize) -> io::Result<PathBuf> {
    let folder = PathBuf::from(format!("/etc-of-slot-{slot}"));
    fs::create_dir_all(folder.join("enforcer"))?;
    for entry in fs::read_dir("/etc")?.flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    Ok(folder)
}

/// Moves the calling process into namespaces of its own, with this folder as `/etc`. May run
/// between fork and exec.
///
/// # Errors
/// If the kernel refuses a namespace or a mount.
pub fn enter(accounts: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    for (kind, target, options) in EMPTY {
        let flags = MsFlags::empty();
        mount(Some(kind), target, Some(kind), flags, Some(options))?;
    }
    let bind = MsFlags::MS_BIND;
    mount(Some(accounts), "/etc", None::<&str>, bind, None::<&str>)?;
    crate::bring_up_loopback()
}
