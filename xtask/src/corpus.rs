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

/// What the tests start; apt finds what these need in turn.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "cpp",
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

/// The unpacked tree, made where it is missing.
pub(crate) fn tree() -> Result<PathBuf> {
    let folder = target().join("vm/corpus");
    let stamp = folder.join("stamp");
    let wanted = PACKAGES.join(" ");
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
    for unused in UNUSED {
        let path = folder.join(unused);
        if path.exists() {
            std::fs::remove_dir_all(&path)
                .with_context(|| format!("failed to clear {}", path.display()))?;
        }
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

/// Puts the tree into the VM's root, with `/bin`, `/lib` and their kin as links
/// into `/usr`, as the distribution has them.
pub(crate) fn pack(archive: &mut Archive) -> Result<()> {
    let tree = tree()?;
    for (link, to) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        archive.symlink(link, to)?;
    }
    let mut made = vec![String::new()];
    add(archive, &tree, &tree, &mut made)
}

fn add(archive: &mut Archive, tree: &Path, folder: &Path, made: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("failed to read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let inside = path.strip_prefix(tree)?.to_string_lossy().into_owned();
        let place = place_of(&inside);
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            make(archive, &place, made)?;
            add(archive, tree, &path, made)?;
        } else if kind.is_symlink() {
            // The links that are the root's own are there already.
            if inside.contains('/') {
                parent(archive, &place, made)?;
                let to = std::fs::read_link(&path)?;
                archive.symlink(&place, &to.to_string_lossy())?;
            }
        } else if kind.is_file() && inside != "stamp" {
            parent(archive, &place, made)?;
            archive.program(&place, &path)?;
        }
    }
    Ok(())
}

/// Older packages still bring `/bin/…` and `/lib/…`.
fn place_of(inside: &str) -> String {
    let first = inside.split('/').next().unwrap_or("");
    if ["bin", "sbin", "lib", "lib64"].contains(&first) {
        format!("usr/{inside}")
    } else {
        inside.to_owned()
    }
}

fn parent(archive: &mut Archive, place: &str, made: &mut Vec<String>) -> Result<()> {
    match place.rsplit_once('/') {
        Some((folder, _)) => make(archive, folder, made),
        None => Ok(()),
    }
}

fn make(archive: &mut Archive, place: &str, made: &mut Vec<String>) -> Result<()> {
    if made.iter().any(|known| known == place) {
        return Ok(());
    }
    parent(archive, place, made)?;
    made.push(place.to_owned());
    archive.directory(place)
}
