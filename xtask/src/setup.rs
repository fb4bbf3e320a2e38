//! Gets what the other commands need, each thing only if it is missing, each with a line
//! that says so.
//!
//! Everything lands below `target/`, except QEMU and `rust-src`: those are installed by the
//! system's and the toolchain's own installers.

use crate::kernels;
use crate::process::{find_program, run_quietly, target};
use crate::progress::say;
use crate::{apt, debian, tools, unpack};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

const QEMU: &str = "qemu-system-x86_64";

/// Gets everything: what `cargo xtask setup` does.
///
/// # Errors
/// If something cannot be had.
pub(crate) fn everything() -> Result<()> {
    tools::rust_src()?;
    say(
        "setup",
        &format!("bpf-linker: {}", tools::bpf_linker()?.display()),
    );
    say("setup", &format!("QEMU: {}", qemu()?));
    for kernel in kernels::matrix(None)?.kernels {
        say("setup", &format!("kernel {kernel}"));
    }
    busybox()?;
    crate::corpus::tree()?;
    for host in debian::HOSTS {
        if let Err(error) = host.tree() {
            say("setup", &format!("{} is unavailable: {error:#}", host.name));
        }
    }
    crate::prometheus::programs()?;
    tools::cargo_deb()?;
    say("setup", "ready");
    Ok(())
}

/// Returns the emulator's name, after installing it where that is needed and allowed.
///
/// # Errors
/// If it is missing and cannot be installed; the error has the command to install it.
pub(crate) fn qemu() -> Result<&'static str> {
    if find_program(QEMU).is_none() {
        install("qemu-system-x86")?;
        if find_program(QEMU).is_none() {
            bail!("{QEMU} is still not in PATH after installing qemu-system-x86");
        }
    }
    Ok(QEMU)
}

/// Returns a static busybox for the VM's shell; it stays below `target/`.
///
/// # Errors
/// If the package cannot be had.
pub(crate) fn busybox() -> Result<std::path::PathBuf> {
    let folder = target().join("vm/busybox");
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| folder.join(place));
    let find = || places.iter().find(|file| file.is_file()).cloned();
    if let Some(found) = find() {
        return Ok(found);
    }
    say("setup", "downloading busybox-static");
    let names = ["busybox-static".to_owned()];
    unpack::packages(&*apt::common()?, &names, None, &folder, |_| Ok(()))?;
    find().context("busybox-static holds no busybox")
}

fn install(package: &str) -> Result<()> {
    if run_quietly(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!(
            "{package} is missing; install it once with\n\n    sudo apt-get update && sudo apt-get install -y --no-install-recommends {package}\n"
        );
    }
    say("setup", &format!("installing {package}, about a minute"));
    let install = || {
        run_quietly(
            Command::new("apt-get")
                .args(["install", "-y", "--no-install-recommends", package])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    if install().is_err() {
        run_quietly(Command::new("apt-get").args(["update", "-q"]))?;
        install().with_context(|| format!("failed to install {package}"))?;
    }
    Ok(())
}

/// Returns the result of a thread; a panic there is an error here.
///
/// # Errors
/// With the thread's own error, or if it panicked.
pub(crate) fn joined<T>(thread: std::thread::Result<Result<T>>) -> Result<T> {
    thread.unwrap_or_else(|_| bail!("a thread of xtask panicked"))
}
