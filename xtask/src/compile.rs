//! Builds: the eBPF object, the agent around it, and the programs of the VM,
//! all in one target folder and each once.

use crate::process::{cargo, run, target};
use crate::tools;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const HOST: &str = "x86_64-unknown-linux-gnu";
const BPF: &str = "bpfel-unknown-none";

/// Compiles the eBPF programs, and returns the object's path.
pub(crate) fn ebpf() -> Result<PathBuf> {
    tools::rust_src()?;
    let linker = tools::bpf_linker()?;
    let mut build = cargo("build");
    bpf_environment(&mut build, &linker);
    run(build.args(["--quiet", "--package", "enforcer-ebpf", "--profile", "bpf"]))?;
    let built = target().join(BPF).join("bpf/enforcer-ebpf");
    let object = target().join("bpf/enforcer.o");
    copy_if_changed(&built, &object)?;
    Ok(object)
}

/// Builds for the eBPF target on the pinned stable toolchain. `build-std` is
/// nightly's, hence the bootstrap switch, for this one package only.
fn bpf_environment(command: &mut Command, linker: &Path) {
    command
        .args(["--target", BPF, "-Z", "build-std=core"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Cdebuginfo=2\u{1f}-Clink-arg=--btf",
        );
}

/// A new time stamp would rebuild the agent; the same bytes need not.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes =
        std::fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("failed to create {}", folder.display()))?;
    }
    std::fs::write(to, bytes).with_context(|| format!("failed to write {}", to.display()))
}

/// One release build for everything that runs: static, so that the same binary
/// serves any host and a VM without a single library.
fn static_release(subcommand: &str) -> Command {
    let mut command = cargo(subcommand);
    statically(&mut command).arg("--release");
    command
}

fn statically(command: &mut Command) -> &mut Command {
    command
        .args(["--quiet", "--target", HOST])
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
}

/// Compiles the agent, and returns the binary's path.
pub(crate) fn agent() -> Result<PathBuf> {
    ebpf()?;
    run(static_release("build").args(["--package", "enforcer"]))?;
    Ok(target().join(HOST).join("release/enforcer"))
}

/// The programs that the VM holds.
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) init: PathBuf,
    pub(crate) fixture: PathBuf,
    pub(crate) suite: PathBuf,
    /// The tests of a host with systemd.
    pub(crate) system: PathBuf,
    pub(crate) bench: PathBuf,
    /// Runs on the host.
    pub(crate) calibrate: PathBuf,
}

/// Compiles what runs inside the VM.
pub(crate) fn vm_programs() -> Result<Programs> {
    let agent = agent()?;
    eprintln!("build: the VM's programs");
    run(static_release("build").args(["--package", "enforcer-tests", "--bins"]))?;
    let release = target().join(HOST).join("release");
    Ok(Programs {
        agent,
        init: release.join("init"),
        fixture: release.join("fixture"),
        suite: test_binary("enforcer-tests", "vm")?,
        system: test_binary("enforcer-tests", "system")?,
        bench: release.join("bench"),
        calibrate: release.join("calibrate"),
    })
}

/// Compiles one integration test and returns where it lies.
fn test_binary(package: &str, name: &str) -> Result<PathBuf> {
    let output = static_release("test")
        .args([
            "--package",
            package,
            "--test",
            name,
            "--no-run",
            "--message-format=json",
        ])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    if !output.status.success() {
        bail!("failed to compile the test `{name}` of {package}");
    }
    // One JSON object a line; the artifact of a test has an "executable".
    let printed = String::from_utf8_lossy(&output.stdout);
    let marker = "\"executable\":\"";
    printed
        .lines()
        .filter(|line| line.contains(&format!("\"name\":\"{name}\"")))
        .find_map(|line| {
            let start = line.find(marker)? + marker.len();
            let end = line[start..].find('"')? + start;
            Some(PathBuf::from(&line[start..end]))
        })
        .with_context(|| format!("cargo named no executable for the test `{name}`"))
}

/// Runs the tests that need no VM, in the build that the VM's programs share.
pub(crate) fn host_tests() -> Result<()> {
    ebpf()?;
    eprintln!("build: the host's tests");
    run(&mut static_release("test"))
}

/// How many events a second this machine's disk takes.
pub(crate) fn history_bench() -> Result<()> {
    ebpf()?;
    let folder = target().join("bench-history");
    run(statically(&mut cargo("bench"))
        .args(["--package", "enforcer", "--bench", "history", "--"])
        .arg(folder))
}

/// Formatting and clippy, for the host's crates and for the eBPF target.
pub(crate) fn lint() -> Result<()> {
    run(cargo("fmt").args(["--all", "--check"]))?;
    ebpf()?;
    let warnings = ["--", "-D", "warnings"];
    let mut clippy = static_release("clippy");
    clippy
        .args(["--workspace", "--exclude", "enforcer-ebpf", "--all-targets"])
        .args(warnings);
    run(&mut clippy)?;
    let mut clippy = cargo("clippy");
    bpf_environment(&mut clippy, &tools::bpf_linker()?);
    run(clippy
        .args(["--quiet", "--package", "enforcer-ebpf", "--profile", "bpf"])
        .args(warnings))
}
