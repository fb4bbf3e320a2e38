//! The Debian packages: the agent, and the program of a fleet, each with its units, its manual, what
//! completes its command line, and an example to begin with.

use crate::compile::{HOST, agent, fleet};
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

/// Builds the agent's package, and returns where it lies; a later revision replaces an earlier.
pub(crate) fn debian(revision: u32, compression: Compression) -> Result<PathBuf> {
    let agent = agent()?;
    // cargo-deb finds what lies beside the binary, wherever the target folder is.
    let folder = target().join(HOST).join("release/package");
    write_texts(&agent, "enforcer", &folder)?;
    pack("enforcer", &folder, revision, compression)
}

/// Builds the package of a fleet, and returns where it lies.
pub(crate) fn debian_fleet(compression: Compression) -> Result<PathBuf> {
    let program = fleet()?;
    let folder = target().join(HOST).join("release/package-fleet");
    write_texts(&program, "enforcer-fleet", &folder)?;
    pack("enforcer-fleet", &folder, 1, compression)
}

fn pack(package: &str, folder: &Path, revision: u32, compression: Compression) -> Result<PathBuf> {
    let cargo_deb = tools::cargo_deb()?;
    let file = folder.join(format!("{package}_{revision}.deb"));
    run_quietly(
        Command::new(cargo_deb)
            .args(["--quiet", "--no-build", "--no-strip", "--no-dbgsym"])
            .args(["--package", package, "--target", HOST])
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

/// Writes the manual pages and completions, which the program itself prints.
fn write_texts(program: &Path, name: &str, folder: &Path) -> Result<()> {
    let pages = folder.join("man");
    if pages.exists() {
        std::fs::remove_dir_all(&pages)
            .with_context(|| format!("failed to clear {}", pages.display()))?;
    }
    std::fs::create_dir_all(&pages)
        .with_context(|| format!("failed to create {}", pages.display()))?;
    let mut manual = Command::new(program);
    manual.arg("man");
    // The agent prints one page without a folder.
    if name == "enforcer" {
        manual.arg("--folder");
    }
    run_quietly(manual.arg(&pages))?;
    for shell in ["bash", "fish", "zsh"] {
        let script = run_quietly(Command::new(program).args(["completions", shell]))?;
        let file = folder.join(format!("{name}.{shell}"));
        std::fs::write(&file, script)
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}
