//! Directories that are made for a workload. Every step goes through a descriptor and follows no
//! link: what is above may belong to the workload's user.

use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// The reason why a directory cannot be a workload's.
#[derive(Debug)]
pub enum Refusal {
    Io(io::Error),
    /// It belongs to this user, who is another one.
    Foreign(u32),
    /// It is root's and has something in it.
    InUse,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => f.write_str(&crate::spawn::describe(error)),
            Self::Foreign(uid) => write!(f, "it is there, and belongs to the uid {uid}"),
            Self::InUse => f.write_str("it is there, belongs to root and is not empty"),
        }
    }
}

impl<E: Into<io::Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Io(error.into())
    }
}

/// Makes the directory and those above it, below a base that root alone can change. Returns whether it
/// was made now. One that is there already must be empty, or the owner's.
pub fn make(
    base: &Path,
    name: &str,
    mode: u32,
    owner: Option<(Uid, Gid)>,
) -> Result<bool, Refusal> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut folder: OwnedFd = nix::fcntl::open(base, flags & !OFlag::O_NOFOLLOW, Mode::empty())?;
    let mut is_new = false;
    for part in name.split('/') {
        let made = mkdirat(&folder, part, Mode::from_bits_truncate(0o755));
        is_new = match made {
            Ok(()) => true,
            Err(nix::Error::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        folder = openat(&folder, part, flags, Mode::empty())?;
    }
    let uid = owner.map(|(uid, _)| uid.as_raw());
    if !is_new {
        let present = fstat(&folder)?.st_uid;
        let is_owners = uid.is_none_or(|uid| uid == present);
        if !is_owners && present != 0 {
            return Err(Refusal::Foreign(present));
        }
        if !is_owners && !is_empty(&folder)? {
            return Err(Refusal::InUse);
        }
    }
    if let Some((uid, gid)) = owner {
        fchown(&folder, Some(uid), Some(gid))?;
    }
    // After the change of the owner, and without regard to the umask.
    fchmod(&folder, Mode::from_bits_truncate(mode))?;
    Ok(is_new)
}

fn is_empty(folder: &OwnedFd) -> Result<bool, Refusal> {
    let mut entries = Dir::from_fd(folder.as_fd().try_clone_to_owned()?)?;
    let mut entries = entries.iter();
    let is_own = |name: &std::ffi::CStr| matches!(name.to_bytes(), b"." | b"..");
    Ok(entries.all(|entry| entry.is_ok_and(|entry| is_own(entry.file_name()))))
}

/// Removes a directory with all that is in it, unless something is mounted there: that belongs to
/// someone else.
pub fn remove(base: &Path, name: &str) -> io::Result<()> {
    if let Some(mount) = mount_below(&base.join(name))? {
        let mount = mount.display();
        return Err(io::Error::other(format!("something is mounted on {mount}")));
    }
    // The path up to the last part may lead over links by now.
    let (above, last) = name.rsplit_once('/').unwrap_or(("", name));
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut folder: OwnedFd = nix::fcntl::open(base, flags & !OFlag::O_NOFOLLOW, Mode::empty())?;
    for part in above.split('/').filter(|part| !part.is_empty()) {
        folder = openat(&folder, part, flags, Mode::empty())?;
    }
    // The standard library removes what it finds without following a link (openat and unlinkat).
    let place = PathBuf::from(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&folder)
    ));
    match std::fs::remove_dir_all(place.join(last)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns a mount point at this path or below it.
fn mount_below(path: &Path) -> io::Result<Option<PathBuf>> {
    let mounts = procfs::process::Process::myself().and_then(|own| own.mountinfo());
    let mut mounts = mounts.map_err(io::Error::other)?.into_iter();
    Ok(mounts
        .find(|mount| mount.mount_point.starts_with(path))
        .map(|mount| mount.mount_point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_directory_is_made_with_those_above_it_and_follows_no_link() {
        let base = std::env::temp_dir().join(format!("directories-{}", std::process::id()));
        fs::create_dir_all(&base).expect("a folder");
        assert!(make(&base, "web/db", 0o700, None).expect("made"));
        assert!(!make(&base, "web/db", 0o750, None).expect("there"));
        let mode = |name: &str| {
            let metadata = fs::metadata(base.join(name)).expect("its metadata");
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!((mode("web"), mode("web/db")), (0o755, 0o750));
        symlink("/etc", base.join("web/link")).expect("a link");
        for name in ["web/link", "web/link/enforcer"] {
            assert!(
                matches!(make(&base, name, 0o700, None), Err(Refusal::Io(_))),
                "{name}"
            );
        }
        fs::write(base.join("web/file"), "").expect("a file");
        assert!(make(&base, "web/file", 0o700, None).is_err());
        fs::write(base.join("web/db/inside"), "").expect("a file");
        symlink("/etc", base.join("web/db/out")).expect("a link");
        remove(&base, "web/db").expect("removed");
        assert!(!base.join("web/db").exists() && base.join("web").exists());
        remove(&base, "web/db").expect("it is gone already");
        assert!(Path::new("/etc/passwd").exists());
        fs::remove_dir_all(base).expect("nothing");
    }

    /// Another user's directory is not taken, and neither is one of root's that is in use.
    #[test]
    fn a_directory_in_use_is_not_taken() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let base = std::env::temp_dir().join(format!("directories-of-{}", std::process::id()));
        fs::create_dir_all(&base).expect("a folder");
        let owner = |uid: u32| Some((Uid::from_raw(uid), Gid::from_raw(uid)));
        fs::create_dir(base.join("empty")).expect("a folder");
        assert!(!make(&base, "empty", 0o755, owner(1000)).expect("taken"));
        assert!(!make(&base, "empty", 0o755, owner(1000)).expect("its own"));
        assert!(matches!(
            make(&base, "empty", 0o755, owner(1001)),
            Err(Refusal::Foreign(1000))
        ));
        fs::create_dir_all(base.join("full/of")).expect("a folder");
        assert!(matches!(
            make(&base, "full", 0o755, owner(1000)),
            Err(Refusal::InUse)
        ));
        fs::remove_dir_all(base).expect("nothing");
    }
}
