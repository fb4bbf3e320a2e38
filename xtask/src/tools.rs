//! The toolchain's parts that eBPF needs: the standard library's source, and a
//! bpf-linker that reads this very toolchain's LLVM bitcode.

use crate::process::{cargo, root, run_quietly, target};
use crate::progress::say;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const BPF_LINKER: &str = "0.13.0";
const CARGO_DEB: &str = "3.8.0";

/// Returns the toolchain that `rust-toolchain.toml` pins.
pub(crate) fn pinned_toolchain() -> Result<String> {
    let file = root().join("rust-toolchain.toml");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("failed to read {}", file.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .map(|value| value.trim_matches('"').to_owned())
        .with_context(|| format!("{} has no `channel`", file.display()))
}

fn sysroot() -> Result<PathBuf> {
    let printed = run_quietly(
        Command::new("rustc")
            .current_dir(root())
            .args(["--print", "sysroot"]),
    )?;
    Ok(PathBuf::from(printed.trim()))
}

/// The source of `core`, which is built anew for the eBPF target.
pub(crate) fn rust_src() -> Result<()> {
    if sysroot()?
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
    {
        return Ok(());
    }
    let toolchain = pinned_toolchain()?;
    say(
        "setup",
        "downloading rust-src, the source of Rust's core library",
    );
    run_quietly(Command::new("rustup").args([
        "component",
        "add",
        "rust-src",
        "--toolchain",
        &toolchain,
    ]))?;
    Ok(())
}

/// bpf-linker, built against the LLVM that this rustc ships: bitcode of one
/// LLVM can't be read by an older one, and the system's is older.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let toolchain = pinned_toolchain()?;
    let home = target().join(format!("tools/bpf-linker-{BPF_LINKER}-{toolchain}"));
    let program = home.join("bin/bpf-linker");
    if version_is(&program, BPF_LINKER) {
        return Ok(program);
    }
    say(
        "setup",
        &format!("building bpf-linker {BPF_LINKER}, about half a minute"),
    );
    let sysroot = sysroot()?;
    let prefix = home.join("llvm");
    let libraries = prefix.join("lib");
    std::fs::create_dir_all(&libraries)
        .with_context(|| format!("failed to create {}", libraries.display()))?;
    let link = libraries.join("libLLVM.so");
    if link.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(rustc_llvm(&sysroot.join("lib"))?, &link)
            .with_context(|| format!("failed to link {}", link.display()))?;
    }
    run_quietly(
        install()
            .args([
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--no-default-features",
            ])
            .args(["--features", "llvm-22", "--root"])
            .arg(&home)
            .arg("--target-dir")
            .arg(target().join("tools/build"))
            .env("LLVM_PREFIX", &prefix)
            .env(
                "RUSTFLAGS",
                format!("-Clink-arg=-Wl,-rpath,{}", sysroot.join("lib").display()),
            ),
    )?;
    if !version_is(&program, BPF_LINKER) {
        bail!("{} does not run after its installation", program.display());
    }
    Ok(program)
}

/// Makes a command that builds a tool. The tools work for seconds, so their optimisation would take
/// longer than it saves.
fn install() -> Command {
    let mut command = cargo("install");
    command
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    command
}

fn version_is(program: &Path, version: &str) -> bool {
    run_quietly(Command::new(program).arg("--version")).is_ok_and(|text| text.contains(version))
}

/// Returns the tool that makes the Debian package.
pub(crate) fn cargo_deb() -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let home = target().join(format!("tools/cargo-deb-{CARGO_DEB}"));
    let program = home.join("bin/cargo-deb");
    if version_is(&program, CARGO_DEB) {
        return Ok(program);
    }
    say(
        "setup",
        &format!("building cargo-deb {CARGO_DEB}, about half a minute"),
    );
    run_quietly(
        install()
            .args(["cargo-deb", "--version", CARGO_DEB, "--locked"])
            .args(["--no-default-features", "--features", "gzip"])
            // The compression is all that takes time.
            .args(["--config", "profile.release.package.zlib-rs.opt-level=2"])
            .arg("--root")
            .arg(&home)
            .arg("--target-dir")
            .arg(target().join("tools/build")),
    )?;
    if !version_is(&program, CARGO_DEB) {
        bail!("{} does not run after its installation", program.display());
    }
    Ok(program)
}

fn rustc_llvm(libraries: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(libraries)
        .with_context(|| format!("failed to read {}", libraries.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("libLLVM.so.")
        {
            return Ok(entry.path());
        }
    }
    bail!(
        "{} has no libLLVM.so.*: this rustc was not built with a shared LLVM",
        libraries.display()
    )
}
