//! A child of this same program ([`super::helper`]) that has given up every privilege before it
//! touches what a workload has written.

use super::helper;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

const UID: &str = "ENFORCER_CONFINE_UID";
const GID: &str = "ENFORCER_CONFINE_GID";
const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_ANSWER: u64 = 64 << 10;
const MEMORY: u64 = 256 << 20;

/// Runs a hidden command of this program as this user. Root becomes the user `nobody`. The descriptor
/// is its standard error.
pub fn run(
    command: &str,
    question: &[u8],
    (uid, gid): (u32, u32),
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<Vec<u8>> {
    let unprivileged = |id: u32| if id == 0 { NOBODY } else { id };
    let ids = [(UID, unprivileged(uid)), (GID, unprivileged(gid))];
    let ids = ids.map(|(name, id)| (name, id.to_string()));
    helper::ask(
        command,
        question,
        &ids,
        (PATIENCE, LONGEST_ANSWER),
        descriptor,
    )
}

/// The child's first act: no group, user or limit of ours is left afterwards.
pub fn confine() -> io::Result<()> {
    let id = |name: &str| {
        let text = std::env::var(name).map_err(io::Error::other)?;
        text.parse::<u32>().map_err(io::Error::other)
    };
    let (uid, gid) = (Uid::from_raw(id(UID)?), Gid::from_raw(id(GID)?));
    if Uid::effective().is_root() {
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    // SAFETY: takes only integers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    drop_capabilities()?;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_CPU, PATIENCE.as_secs()),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_NOFILE, 64),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Drops the capabilities that are left after the change of the user, or that an agent has which is
/// not root.
fn drop_capabilities() -> io::Result<()> {
    // SAFETY: takes only integers.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    // capget(2): version 3, this thread; two times three empty sets.
    let header = [0x2008_0522_u32, 0];
    let sets = [0u32; 6];
    // SAFETY: the kernel reads as much as version 3 has: 8 and 24 bytes.
    let emptied = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if cleared != 0 || emptied != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens a regular file of this owner; nothing that a link leads to.
pub fn open_owned(path: &Path, owner: u32) -> Option<File> {
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    (found.is_file() && found.uid() == owner).then_some(file)
}
