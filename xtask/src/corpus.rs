//! Programs that the tests run against the agent as their users have them: the
//! interpreters, compressors and compilers of the distribution, with all the
//! libraries they need, unpacked under `target/vm/corpus`, never installed.

use crate::initramfs::Archive;
use crate::kernels::{refresh_package_lists, unpack_packages};
use crate::process::{run_quietly, target};
use crate::setup::say;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What the tests start; apt finds what these need in turn.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "cpp",
    "curl",
    "dash",
    "gzip",
    "mawk",
    "perl-base",
    "python3",
    "stress-ng",
    "xz-utils",
];

/// Folders of packages that nothing of ours opens.
const UNUSED: &[&str] = &[
    "etc",
    "usr/include",
    "usr/lib/udev",
    "usr/share",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/python3",
    "var",
];

/// Held while the tree is looked at or made: the kernels' tests begin side by
/// side, and each of them wants it.
static MAKING: Mutex<()> = Mutex::new(());

/// The unpacked tree, made where it is missing.
pub(crate) fn tree() -> Result<PathBuf> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = target().join("vm/corpus");
    let stamp = folder.join("stamp");
    let wanted = format!("merged: {}", PACKAGES.join(" "));
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("failed to clear {}", folder.display()))?;
    }
    let packages = match closure() {
        Ok(packages) => packages,
        Err(_) => {
            refresh_package_lists()?;
            closure()?
        }
    };
    say(&format!(
        "{} packages for the tests' corpus of programs",
        packages.len()
    ));
    unpack_packages(&packages, &folder)?;
    merge_into_usr(&folder)?;
    for unused in UNUSED {
        let path = folder.join(unused);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("failed to clear {}", path.display()))?;
        }
    }
    // Where a kernel's own file systems go.
    for place in ["dev", "proc", "tmp"] {
        std::fs::create_dir_all(folder.join(place))
            .with_context(|| format!("failed to create {place}"))?;
    }
    std::fs::write(&stamp, wanted).context("failed to write the corpus' stamp")?;
    Ok(folder)
}

/// Everything that would be installed on a host that has nothing.
fn closure() -> Result<Vec<String>> {
    let printed = run_quietly(
        Command::new("apt-get")
            .args(["-o", "Dir::State::status=/dev/null"])
            .args(["-o", "Debug::NoLocking=1", "--print-uris", "-qq"])
            .args(["install", "-y", "--no-install-recommends"])
            .args(PACKAGES),
    )
    .context("failed to find what the corpus needs")?;
    // 'https://…' NAME_VERSION_ARCH.deb SIZE CHECKSUM
    let files = printed
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_whitespace().nth(1));
    let names: Vec<String> = files
        .filter_map(|file| file.split_once('_'))
        .map(|(name, _)| name.to_owned())
        .collect();
    if names.len() < PACKAGES.len() {
        bail!("apt names no packages for {}", PACKAGES.join(", "));
    }
    Ok(names)
}

/// Older packages still bring `/bin/…` and `/lib/…`: those become links into
/// `/usr`, as the distribution has them.
fn merge_into_usr(folder: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let merged = format!("usr/{name}");
        let (from, to) = (folder.join(name), folder.join(&merged));
        std::fs::create_dir_all(&to)
            .with_context(|| format!("failed to create {}", to.display()))?;
        if from.is_dir() {
            merge(&from, &to)?;
            std::fs::remove_dir_all(&from)
                .with_context(|| format!("failed to clear {}", from.display()))?;
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

/// Puts the tree into the VM's root.
pub(crate) fn pack(archive: &mut Archive) -> Result<()> {
    let tree = tree()?;
    add(archive, &tree, &tree)
}

fn add(archive: &mut Archive, tree: &Path, folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let place = path.strip_prefix(tree)?.to_string_lossy().into_owned();
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            archive.directory(&place)?;
            add(archive, tree, &path)?;
        } else if kind.is_symlink() {
            let to = std::fs::read_link(&path)?;
            archive.symlink(&place, &to.to_string_lossy())?;
        } else if kind.is_file() && place != "stamp" {
            archive.program(&place, &path)?;
        }
    }
    Ok(())
}
