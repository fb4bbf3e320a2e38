//! Folders of unpacked packages that a guest boots from or finds beside the tests.

use crate::apt::Release;
use crate::process::target;
use crate::progress::say;
use crate::unpack;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Held while a tree is looked at or made: boots that begin side by side want the same.
static MAKING: Mutex<()> = Mutex::new(());

/// An entry of a tree.
pub(crate) struct Contents<'a> {
    /// The folder's name below `target/vm`.
    pub(crate) name: &'a str,
    /// The packages by name; apt adds what they need.
    pub(crate) packages: &'a [&'a str],
    /// Files and folders that nothing here opens.
    pub(crate) unused: &'a [&'a str],
}

/// The tree with these contents, made where it is missing or where they have changed.
///
/// `each` sees every package file, and `finish` the whole tree.
///
/// # Errors
/// If a package cannot be had, or `each` or `finish` fails.
pub(crate) fn ensure(
    release: &Release,
    contents: &Contents<'_>,
    mut each: impl FnMut(&Path, &Path) -> Result<()>,
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = target().join("vm").join(contents.name);
    let stamp = folder.join("stamp");
    let (packages, unused) = (contents.packages.join(" "), contents.unused.join(" "));
    let wanted = format!("{}: {packages}; without {unused}", release.name);
    if std::fs::read_to_string(&stamp).is_ok_and(|present| present == wanted) {
        return Ok(folder);
    }
    unpack::clear(&folder)?;
    let packages = release.closure(contents.packages)?;
    say(
        "setup",
        &format!("{}: downloading {} packages", contents.name, packages.len()),
    );
    unpack::packages(release, &packages, None, &folder, |file| {
        each(file, &folder)
    })?;
    unpack::merge_into_usr(&folder)?;
    for unused in contents.unused {
        unpack::clear(&folder.join(unused))?;
    }
    finish(&folder)?;
    std::fs::write(&stamp, wanted).context("failed to write a stamp")?;
    Ok(folder)
}
