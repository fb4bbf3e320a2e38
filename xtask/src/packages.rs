//! The distribution's packages, unpacked where they are wanted and installed nowhere.

use crate::initramfs::Archive;
use crate::process::run_quietly;
use crate::setup::say;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// These packages with all that they need, as on a host that has nothing.
pub(crate) fn closure(wanted: &[&str]) -> Result<Vec<String>> {
    resolve(wanted).or_else(|_| {
        refresh_package_lists()?;
        resolve(wanted)
    })
}

fn resolve(wanted: &[&str]) -> Result<Vec<String>> {
    let printed = run_quietly(
        Command::new("apt-get")
            .args(["-o", "Dir::State::status=/dev/null"])
            .args(["-o", "Debug::NoLocking=1", "--print-uris", "-qq"])
            .args(["install", "-y", "--no-install-recommends"])
            .args(wanted),
    )
    .context("failed to find what the packages need")?;
    // 'https://…' NAME_VERSION_ARCH.deb SIZE CHECKSUM
    let files = printed
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_whitespace().nth(1));
    let names: Vec<String> = files
        .filter_map(|file| file.split_once('_'))
        .map(|(name, _)| name.to_owned())
        .collect();
    if names.len() < wanted.len() {
        bail!("apt names no packages for {}", wanted.join(", "));
    }
    Ok(names)
}

/// Older packages still bring `/bin/…` and `/lib/…`: those become links into
/// `/usr`, as the distribution has them.
pub(crate) fn merge_into_usr(folder: &Path) -> Result<()> {
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

/// Brings the package lists up to date where this user may.
pub(crate) fn refresh_package_lists() -> Result<()> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        say("package lists");
        outcome = run_quietly(Command::new("apt-get").args(["update", "-q"])).map(drop);
    });
    outcome.context(
        "failed to refresh the package lists; as a user who may, run\n\n    sudo apt-get update\n",
    )
}

/// Downloads one package (apt checks its signature and checksum) and unpacks it.
pub(crate) fn download_package(package: &str, folder: &Path) -> Result<()> {
    unpack_packages(&[package.to_owned()], folder, |_| Ok(()))
}

/// The same for many, in one go; each is shown before it goes.
pub(crate) fn unpack_packages(
    packages: &[String],
    folder: &Path,
    mut each: impl FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let parcels = folder.join("parcel");
    std::fs::create_dir_all(&parcels)
        .with_context(|| format!("failed to create {}", parcels.display()))?;
    let download = || {
        run_quietly(
            Command::new("apt-get")
                .current_dir(&parcels)
                // Root's downloads would else be tried as another user, who may not write here.
                .args(["-o", "APT::Sandbox::User=root", "download", "-q"])
                .args(packages),
        )
    };
    if download().is_err() {
        refresh_package_lists()?;
        download()?;
    }
    let entries = std::fs::read_dir(&parcels)
        .with_context(|| format!("failed to read {}", parcels.display()))?;
    for entry in entries {
        let parcel = entry?.path();
        run_quietly(Command::new("dpkg").arg("-x").arg(&parcel).arg(folder))?;
        each(&parcel)?;
    }
    std::fs::remove_dir_all(&parcels)
        .with_context(|| format!("failed to clear {}", parcels.display()))?;
    Ok(())
}

/// Puts an unpacked tree, or a folder of it, into an archive.
pub(crate) fn add(archive: &mut Archive, tree: &Path, folder: &Path) -> Result<()> {
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
            archive.file(&place, &path)?;
        }
    }
    Ok(())
}
