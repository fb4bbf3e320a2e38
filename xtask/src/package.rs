//! The Debian package: the agent with its units, its manual, what completes its command
//! line, and an example to begin with.

use crate::compile::{HOST, agent};
use crate::process::{run_quietly, target};
use crate::tools;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How well a package is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// For the network. It takes half a minute.
    Best,
    /// For a test. An emulated guest takes seconds to unpack the best one.
    Fast,
}

/// Builds the package, and returns where it lies; a later revision replaces an earlier.
pub(crate) fn debian(revision: u32, compression: Compression) -> Result<PathBuf> {
    let cargo_deb = tools::cargo_deb()?;
    let agent = agent()?;
    // cargo-deb finds what lies beside the binary, wherever the target folder is.
    let folder = target().join(HOST).join("release/package");
    write_texts(&agent, &folder)?;
    let file = folder.join(format!("enforcer_{revision}.deb"));
    run_quietly(
        Command::new(cargo_deb)
            .args(["--quiet", "--no-build", "--no-strip", "--no-dbgsym"])
            .args(["--package", "enforcer", "--target", HOST])
            .args(match compression {
                Compression::Best => &[][..],
                Compression::Fast => &["--fast", "--compress-type", "gz"],
            })
            .args(["--deb-revision", &revision.to_string(), "--output"])
            .arg(&file)
            .current_dir(crate::process::root()),
    )?;
    Ok(file)
}

/// Writes the manual pages and completions, which the agent itself prints.
fn write_texts(agent: &Path, folder: &Path) -> Result<()> {
    let pages = folder.join("man");
    if pages.exists() {
        std::fs::remove_dir_all(&pages)
            .with_context(|| format!("failed to clear {}", pages.display()))?;
    }
    std::fs::create_dir_all(&pages)
        .with_context(|| format!("failed to create {}", pages.display()))?;
    run_quietly(Command::new(agent).args(["man", "--folder"]).arg(&pages))?;
    for shell in ["bash", "fish", "zsh"] {
        let script = run_quietly(Command::new(agent).args(["completions", shell]))?;
        let file = folder.join(format!("enforcer.{shell}"));
        std::fs::write(&file, script)
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}
