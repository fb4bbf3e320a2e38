//! Programs that the tests run against the agent as their users have them: the
//! interpreters, compressors and compilers of the distribution, with all the libraries that
//! they need, unpacked under `target/vm/corpus`.

use crate::apt;
use crate::tree::{self, Contents};
use anyhow::{Context as _, Result};
use std::path::PathBuf;

/// The packages of the programs that the tests start. apt finds their dependencies.
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

/// Folders of packages that nothing here opens.
const UNUSED: &[&str] = &[
    "etc",
    "usr/include",
    "usr/lib/udev",
    "usr/share",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/python3",
    "var",
];

/// Returns the unpacked tree, and makes it if it is missing.
///
/// # Errors
/// If a package cannot be had.
pub(crate) fn tree() -> Result<PathBuf> {
    let contents = Contents {
        name: "corpus",
        packages: PACKAGES,
        unused: UNUSED,
    };
    tree::ensure(
        &*apt::common()?,
        &contents,
        |_, _| Ok(()),
        |folder| {
            // The kernel's own file systems are mounted there.
            for place in ["dev", "proc", "tmp"] {
                std::fs::create_dir_all(folder.join(place))
                    .with_context(|| format!("failed to create {place}"))?;
            }
            Ok(())
        },
    )
}
