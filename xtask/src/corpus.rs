//! Programs that the tests run against the agent as their users have them: the
//! interpreters, compressors and compilers of the distribution, with all the
//! libraries they need, unpacked under `target/vm/corpus`, never installed.

use crate::initramfs::Archive;
use crate::packages::{add, closure, merge_into_usr, unpack_packages};
use crate::process::target;
use crate::setup::say;
use anyhow::{Context as _, Result};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What the tests start; apt finds what these need in turn.
const PACKAGES: &[&str] = &[
    "bash",
    "coreutils",
    "cpp",
    "curl",
    "dash",
    "e2fsprogs",
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
    let packages = closure(PACKAGES)?;
    say(&format!(
        "{} packages for the tests' corpus of programs",
        packages.len()
    ));
    unpack_packages(&packages, &folder, |_| Ok(()))?;
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

/// Puts the tree into the VM's root.
pub(crate) fn pack(archive: &mut Archive) -> Result<()> {
    let tree = tree()?;
    add(archive, &tree, &tree)
}
