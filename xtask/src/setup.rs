//! Gets what the other commands need, each thing only if it is missing, each
//! with a line that says so. Nothing is put anywhere but under `target/`, save
//! what the system's and the toolchain's own installers keep.

use crate::process::{find_program, run_quietly};
use crate::{kernels, packages, tools};
use anyhow::{Context as _, Result, bail};
use std::process::Command;

/// All of it: what `cargo xtask setup` does.
pub(crate) fn everything() -> Result<()> {
    tools::rust_src()?;
    let linker = tools::bpf_linker()?;
    let qemu = qemu()?;
    say(&format!("bpf-linker: {}", linker.display()));
    say(&format!("QEMU: {qemu}"));
    for kernel in kernels::all()? {
        say(&format!("kernel {}: {}", kernel.series, kernel.package));
    }
    busybox()?;
    crate::corpus::tree()?;
    crate::debian::tree()?;
    crate::prometheus::programs()?;
    tools::cargo_deb()?;
    say("ready");
    Ok(())
}

pub(crate) fn say(text: &str) {
    eprintln!("setup: {text}");
}

/// The emulator's name, after installing it where that is needed and allowed.
pub(crate) fn qemu() -> Result<&'static str> {
    const QEMU: &str = "qemu-system-x86_64";
    if find_program(QEMU).is_none() {
        install("qemu-system-x86", "QEMU, about a minute")?;
        if find_program(QEMU).is_none() {
            bail!("{QEMU} is still not in PATH after installing qemu-system-x86");
        }
    }
    Ok(QEMU)
}

/// A static busybox for the VM's shell; it stays under `target/`.
pub(crate) fn busybox() -> Result<std::path::PathBuf> {
    let folder = crate::process::target().join("vm/busybox");
    let program = folder.join("bin/busybox");
    if !program.is_file() {
        say("busybox-static, for the VM's shell");
        packages::download_package("busybox-static", &folder)?;
    }
    Ok(program)
}

fn install(package: &str, told: &str) -> Result<()> {
    if run_quietly(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!(
            "{package} is missing; install it once with\n\n    sudo apt-get update && sudo apt-get install -y --no-install-recommends {package}\n"
        );
    }
    say(told);
    packages::refresh_package_lists()?;
    run_quietly(
        Command::new("apt-get")
            .args(["install", "-y", "--no-install-recommends", package])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(|| format!("failed to install {package}"))?;
    Ok(())
}
