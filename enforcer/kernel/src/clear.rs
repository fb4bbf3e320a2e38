//! Empties folders with the rights of the caller. It works by descriptors below an open folder,
//! follows no link, and stays on one file system. The folders themselves stay.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, fstat, fstatat, stat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// The most entries that are listed at once. A folder may have more than fit into memory.
const AT_ONCE: usize = 1024;
/// The most levels of folders. A folder with more is not taken for a cache.
const DEEPEST: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    #[error("open {path}")]
    Open { path: String, source: Errno },
    #[error("clear {0}: expected a folder further down")]
    TooMuch(String),
    #[error("clear {0}: it is the user's home")]
    Home(String),
    #[error("clear {0}: it belongs to another user")]
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
pub fn clear(path: &str, home: &str) -> Result<(), ClearError> {
    let parts = path.split('/').filter(|part| !part.is_empty());
    if !path.starts_with('/') || parts.count() < 2 {
        return Err(ClearError::TooMuch(path.to_owned()));
    }
    let folder = match walk_to(path) {
        Ok(folder) => folder,
        Err(Errno::ENOENT) => return Ok(()),
        Err(source) => {
            let path = path.to_owned();
            return Err(ClearError::Open { path, source });
        }
    };
    let found = fstat(&folder).map_err(|source| ClearError::Open {
        path: path.to_owned(),
        source,
    })?;
    if found.st_uid != geteuid().as_raw() {
        return Err(ClearError::Owner(path.to_owned()));
    }
    let home = stat(Path::new(home)).ok();
    let home = home.map(|home| (home.st_dev, home.st_ino));
    empty(&folder, path, home, DEEPEST)
}

const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens a path part by part, so that no part may be a link. Folders on the way need not be
/// readable.
fn walk_to(path: &str) -> Result<OwnedFd, Errno> {
    let mut folder = open("/", FOLDER | OFlag::O_PATH, Mode::empty())?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder = openat(&folder, part, FOLDER | OFlag::O_PATH, Mode::empty())?;
    }
    openat(&folder, ".", FOLDER, Mode::empty())
}

/// Opens a folder in another, if nothing else is mounted there (openat2, Linux 5.6).
fn inner(folder: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS;
    openat2(folder, name, OpenHow::new().flags(FOLDER).resolve(resolve))
}

fn empty(
    folder: &OwnedFd,
    path: &str,
    home: Option<(u64, u64)>,
    levels: usize,
) -> Result<(), ClearError> {
    let opened = |source| ClearError::Open {
        path: path.to_owned(),
        source,
    };
    if levels == 0 {
        let path = path.to_owned();
        return Err(ClearError::TooDeep { path });
    }
    let here = fstat(folder).map_err(opened)?;
    if home == Some((here.st_dev, here.st_ino)) {
        return Err(ClearError::Home(path.to_owned()));
    }
    loop {
        let entries = list(folder).map_err(opened)?;
        if entries.is_empty() {
            return Ok(());
        }
        for (name, is_folder) in entries {
            let shown = name.to_string_lossy().into_owned();
            let removed = |source| ClearError::Remove {
                path: path.to_owned(),
                name: shown.clone(),
                source,
            };
            let mut flags = UnlinkatFlags::NoRemoveDir;
            if is_folder {
                let inner = inner(folder, &name).map_err(removed)?;
                empty(&inner, &format!("{path}/{shown}"), home, levels - 1)?;
                flags = UnlinkatFlags::RemoveDir;
            }
            match unlinkat(folder.as_fd(), name.as_c_str(), flags) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(source) => return Err(removed(source)),
            }
        }
    }
}

/// Returns some of a folder's entries, and whether each is a folder.
fn list(folder: &OwnedFd) -> Result<Vec<(CString, bool)>, Errno> {
    let mut listed = Dir::from_fd(openat(folder, ".", FOLDER, Mode::empty())?)?;
    let mut entries = Vec::new();
    for entry in listed.iter() {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        if [&b"."[..], b".."].contains(&name.as_bytes()) {
            continue;
        }
        let is_folder = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => {
                let found = fstatat(folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                found.st_mode & libc::S_IFMT == libc::S_IFDIR
            }
        };
        entries.push((name, is_folder));
        if entries.len() == AT_ONCE {
            break;
        }
    }
    Ok(entries)
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
