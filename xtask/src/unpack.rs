//! Unpacks packages into folders below `target/`; nothing is installed.

use crate::apt::Release;
use crate::initramfs::Archive;
use crate::process::run_quietly;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Downloads packages of a release and unpacks them into a folder; `each` sees every
/// package file before it is removed.
///
/// # Errors
/// If a package cannot be downloaded or unpacked, or `each` fails.
pub(crate) fn packages(
    release: &Release,
    names: &[String],
    suite: Option<&str>,
    folder: &Path,
    mut each: impl FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let downloads = folder.join("downloads");
    release.download(names, suite, &downloads)?;
    let entries = std::fs::read_dir(&downloads)
        .with_context(|| format!("failed to read {}", downloads.display()))?;
    for entry in entries {
        let file = entry?.path();
        run_quietly(Command::new("dpkg").arg("-x").arg(&file).arg(folder))?;
        each(&file)?;
    }
    clear(&downloads)
}

/// Removes a file, or a folder with all that it holds; one that is missing is no error.
///
/// # Errors
/// If it cannot be removed.
pub(crate) fn clear(place: &Path) -> Result<()> {
    use std::io::ErrorKind;
    let removed = match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => std::fs::remove_file(place),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to clear {}", place.display()))
        }
        _ => Ok(()),
    }
}

/// Moves `/bin/…` and `/lib/…` of older packages into `/usr` and links to them, as an
/// installed Debian has them.
///
/// # Errors
/// If a file cannot be moved.
pub(crate) fn merge_into_usr(folder: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let merged = format!("usr/{name}");
        let (from, to) = (folder.join(name), folder.join(&merged));
        std::fs::create_dir_all(&to)
            .with_context(|| format!("failed to create {}", to.display()))?;
        if from.is_symlink() {
            std::fs::remove_file(&from)
                .with_context(|| format!("failed to replace {}", from.display()))?;
        } else if from.is_dir() {
            merge(&from, &to)?;
            clear(&from)?;
        }
        std::os::unix::fs::symlink(&merged, &from)
            .with_context(|| format!("failed to link {}", from.display()))?;
    }
    Ok(())
}

fn merge(from: &Path, to: &Path) -> Result<()> {
    let entries =
        std::fs::read_dir(from).with_context(|| format!("failed to read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if place.is_dir() && entry.file_type()?.is_dir() {
            merge(&entry.path(), &place)?;
        } else {
            std::fs::rename(entry.path(), &place)
                .with_context(|| format!("failed to move {}", place.display()))?;
        }
    }
    Ok(())
}

/// Puts an unpacked tree into an archive, below a folder of it that is there, or at its root.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn add(archive: &mut Archive, tree: &Path, below: &str) -> Result<()> {
    add_folder(archive, (tree, below), tree)
}

fn add_folder(archive: &mut Archive, (tree, below): (&Path, &str), folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let inside = path.strip_prefix(tree)?;
        let place = Path::new(below).join(inside).to_string_lossy().into_owned();
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            archive.directory(&place)?;
            add_folder(archive, (tree, below), &path)?;
        } else if kind.is_symlink() {
            let to = std::fs::read_link(&path)?;
            archive.symlink(&place, &to.to_string_lossy())?;
        } else if kind.is_file() && inside != Path::new("stamp") {
            archive.file(&place, &path)?;
        }
    }
    Ok(())
}
