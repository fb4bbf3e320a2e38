//! Empties folders, with the rights of whoever calls it: below an open folder, by
//! descriptor, through no link, on no other file system. The folders stay.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// More levels are no cache.
const DEEPEST: usize = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClearError {
    #[error("open {path}")]
    Open { path: String, source: Errno },
    #[error("clear {0}: it is the user's home")]
    Home(String),
    #[error("clear {0}: it belongs to somebody else")]
    Owner(String),
    #[error("clear {path}: it has more than {DEEPEST} levels")]
    TooDeep { path: String },
    #[error("remove {name} in {path}")]
    Remove {
        path: String,
        name: String,
        source: Errno,
    },
}

/// Removes everything in a folder that belongs to the caller. A folder that isn't
/// there is empty.
pub(crate) fn clear(path: &str, home: &str) -> Result<(), ClearError> {
    let folder = match walk_to(path) {
        Ok(folder) => folder,
        Err(Errno::ENOENT) => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(ClearError::Open { path, source });
        }
    };
    let failed = |source| ClearError::Open {
        path: path.to_owned(),
        source,
    };
    let found = fstat(&folder).map_err(failed)?;
    if found.st_uid != geteuid().as_raw() {
        return Err(ClearError::Owner(path.to_owned()));
    }
    let same =
        |home: nix::sys::stat::FileStat| (home.st_dev, home.st_ino) == (found.st_dev, found.st_ino);
    if nix::sys::stat::stat(Path::new(home)).is_ok_and(same) {
        return Err(ClearError::Home(path.to_owned()));
    }
    empty(folder, path, found.st_dev, DEEPEST)
}

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Part by part, so that no part may be a link.
fn walk_to(path: &str) -> Result<OwnedFd, Errno> {
    let mut folder = open("/", FOLDER, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder = openat(&folder, part, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

fn empty(folder: OwnedFd, path: &str, device: u64, levels: usize) -> Result<(), ClearError> {
    let opened = |source| ClearError::Open {
        path: path.to_owned(),
        source,
    };
    if levels == 0 {
        let path = path.to_owned();
        return Err(ClearError::TooDeep { path });
    }
    let listed = folder.try_clone().map_err(|_| opened(Errno::EMFILE))?;
    let mut entries: Vec<(CString, bool)> = Vec::new();
    for entry in Dir::from_fd(listed).map_err(opened)?.iter() {
        let entry = entry.map_err(opened)?;
        let name = entry.file_name().to_owned();
        if [&b"."[..], b".."].contains(&name.as_bytes()) {
            continue;
        }
        let is_folder = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => {
                let found = fstatat(&folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
                found.is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFDIR)
            }
        };
        entries.push((name, is_folder));
    }
    for (name, is_folder) in entries {
        let shown = name.to_string_lossy().into_owned();
        let removed = |source| ClearError::Remove {
            path: path.to_owned(),
            name: shown.clone(),
            source,
        };
        if is_folder {
            let inner = openat(&folder, name.as_c_str(), FOLDER, Mode::empty()).map_err(removed)?;
            // Something else is mounted there.
            if fstat(&inner).map_err(removed)?.st_dev != device {
                return Err(removed(Errno::EXDEV));
            }
            empty(inner, &format!("{path}/{shown}"), device, levels - 1)?;
        }
        let flags = if is_folder {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        match unlinkat(folder.as_fd(), name.as_c_str(), flags) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(source) => return Err(removed(source)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_inside_goes_and_what_links_lead_to_stays() {
        let root = std::env::temp_dir().join(format!("enforcer-clear-{}", std::process::id()));
        let (cache, kept) = (root.join("cache"), root.join("kept"));
        fs::create_dir_all(cache.join("a/b")).expect("folders");
        fs::create_dir_all(&kept).expect("a folder");
        fs::write(cache.join("a/b/file"), "x").expect("a file");
        fs::write(kept.join("file"), "x").expect("a file");
        std::os::unix::fs::symlink(&kept, cache.join("link")).expect("a link");
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        clear(&path(&cache), "/nowhere").expect("a cleared folder");
        assert_eq!(fs::read_dir(&cache).expect("the folder").count(), 0);
        assert!(kept.join("file").exists());
        // Neither through a link, nor the home, nor another's.
        std::os::unix::fs::symlink(&kept, root.join("link")).expect("a link");
        let refused =
            |path: &str, home: &str| clear(path, home).expect_err("a refusal").to_string();
        assert!(refused(&path(&root.join("link")), "/nowhere").starts_with("open "));
        assert!(refused(&path(&kept), &path(&kept)).ends_with("it is the user's home"));
        assert!(clear(&path(&root.join("none")), "/nowhere").is_ok());
        fs::remove_dir_all(root).expect("the folder goes");
    }
}
