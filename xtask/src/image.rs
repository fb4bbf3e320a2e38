//! Packs what a guest boots from: our init, the programs that a job needs, and the
//! kernel's modules, as an archive in `target/vm`.

use crate::compile::Programs;
use crate::initramfs::Archive;
use crate::kernels::Kernel;
use crate::process::{root, target};
use crate::progress::Phase;
use crate::unpack::add;
use crate::{corpus, debian, setup};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The contents of a guest beside the agent, its tests and its benchmarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing: the demo needs no other program.
    Demo,
    /// The programs of the tests' corpus.
    Tests,
    /// The corpus, and busybox for a person at the console.
    Shell,
    /// The corpus, and a whole Debian to compare with.
    WithDebian,
}

impl Contents {
    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Tests => "tests",
            Self::Shell => "shell",
            Self::WithDebian => "debian-beside",
        }
    }
}

/// The archives that this run has packed; several boots share one.
static PACKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Packs the image for a kernel, once in a run, and returns the archive's path.
///
/// # Errors
/// If a program cannot be read or the archive cannot be written.
pub(crate) fn pack(kernel: &Kernel, programs: &Programs, contents: Contents) -> Result<PathBuf> {
    let name = format!("{}-{}", contents.name(), kernel.series);
    let file = target().join(format!("vm/{name}.cpio"));
    let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
    if !packed.contains(&file) {
        let _phase = Phase::begin(&format!("pack {name}"));
        archive(kernel, programs, contents)?.write_to(&file)?;
        packed.insert(file.clone());
    }
    Ok(file)
}

fn archive(kernel: &Kernel, programs: &Programs, contents: Contents) -> Result<Archive> {
    let mut archive = Archive::new();
    match contents {
        Contents::Demo => {
            for folder in ["dev", "proc", "tmp", "usr", "usr/bin"] {
                archive.directory(folder)?;
            }
            archive.symlink("bin", "usr/bin")?;
        }
        Contents::Tests | Contents::Shell | Contents::WithDebian => {
            let tree = corpus::tree()?;
            add(&mut archive, &tree, "")?;
        }
    }
    for folder in ["etc", "etc/enforcer", "mnt", "root", "run", "sys", "var"] {
        archive.directory(folder)?;
    }
    // The kernel opens it for the first process before anything is mounted.
    archive.character_device("dev/console", (5, 1))?;
    archive.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    archive.text(
        "etc/group",
        "root:x:0:\nweb:x:1000:\nextra:x:2000:web\nnogroup:x:65534:\n",
    )?;
    let demo = root().join("docs/demo.yaml");
    let text = std::fs::read_to_string(&demo)
        .with_context(|| format!("failed to read {}", demo.display()))?;
    archive.text("etc/enforcer/demo.yaml", &text)?;
    archive.program("init", &programs.init)?;
    archive.program("usr/bin/enforcer", &programs.agent)?;
    archive.program("usr/bin/fixture", &programs.fixture)?;
    archive.program("usr/bin/bench", &programs.bench)?;
    archive.program("usr/bin/floor", &programs.floor)?;
    archive.program("usr/bin/attempts", &programs.attempts)?;
    archive.program("usr/bin/notifier", &programs.notifier)?;
    if contents != Contents::Demo {
        if let Some(agent) = &programs.agent_with_failpoints {
            archive.program("usr/bin/enforcer-with-failpoints", agent)?;
        }
        if let Some(agent) = &programs.agent_before {
            archive.program("usr/bin/enforcer-before", agent)?;
        }
        archive.program("usr/bin/runner", &programs.runner)?;
        archive.program("usr/bin/suite", &programs.suite)?;
    }
    archive.directory("usr/lib")?;
    add_modules(&mut archive, &kernel.modules)?;
    match contents {
        Contents::Demo => archive.symlink("lib", "usr/lib")?,
        Contents::Tests | Contents::Shell => {
            archive.program("usr/bin/busybox", &setup::busybox()?)?;
        }
        Contents::WithDebian => {
            let tree = debian::HOSTS[0].tree()?;
            archive.directory("debian")?;
            add(&mut archive, &tree, "debian")?;
        }
    }
    Ok(archive)
}

/// Packs the image that proves an accelerator: our init alone.
///
/// # Errors
/// If the archive cannot be written.
pub(crate) fn hello(programs: &Programs) -> Result<PathBuf> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "run", "tmp"] {
        archive.directory(folder)?;
    }
    archive.character_device("dev/console", (5, 1))?;
    archive.program("init", &programs.init)?;
    let file = target().join("vm/hello.cpio");
    archive.write_to(&file)?;
    Ok(file)
}

/// Adds a kernel's modules, where `tests/src/modules.rs` looks for them.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn add_modules(archive: &mut Archive, modules: &[PathBuf]) -> Result<()> {
    archive.directory("usr/lib/modules")?;
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("usr/lib/modules/{name}"), module)?;
    }
    Ok(())
}
