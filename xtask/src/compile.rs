//! Builds: the eBPF object, the agent around it, and the programs of the VM,
//! all in one target folder and each once.

use crate::apt;
use crate::process::{cargo, root, run, run_quietly, target};
use crate::progress::say;
use crate::tidy;
use crate::tools;
use crate::unpack;
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
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
    let built = target().join(BPF).join("bpf");
    let objects = target().join("bpf");
    copy_if_changed(&built.join("gate"), &objects.join("gate.o"))?;
    let object = objects.join("enforcer.o");
    copy_if_changed(&built.join("enforcer-ebpf"), &object)?;
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

/// Copies a file if its contents differ: a new time stamp would rebuild the agent.
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

/// Makes a command for the release build that everything shares. It is static, so that the same
/// binary runs on any host and in a VM without libraries.
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
    run(static_release("build").args(SHIPPED))?;
    let agent = target().join(HOST).join("release/enforcer");
    tidy::check_agent(&agent)?;
    Ok(agent)
}

/// The packages of the programs that ship. They are the same in each build, as [`GUEST`].
const SHIPPED: [&str; 6] = [
    "--package",
    "enforcer",
    "--package",
    "enforcer-client",
    "--package",
    "enforcer-fleet",
];

/// Compiles the program of a fleet, and returns the binary's path.
pub(crate) fn fleet() -> Result<PathBuf> {
    ebpf()?;
    run(static_release("build").args(SHIPPED))?;
    Ok(target().join(HOST).join("release/enforcer-fleet"))
}

/// The programs that a guest holds, and those that measure.
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    /// The agent that a test can make die at a place. Only the tests have it.
    pub(crate) agent_with_failpoints: Option<PathBuf>,
    pub(crate) init: PathBuf,
    pub(crate) fixture: PathBuf,
    /// Runs the tests of `suite`, several at a time.
    pub(crate) runner: PathBuf,
    pub(crate) suite: PathBuf,
    /// The tests of a host with systemd.
    pub(crate) system: PathBuf,
    pub(crate) bench: PathBuf,
    /// The static C program that benchmarks take as their floor.
    pub(crate) floor: PathBuf,
    /// The static C program that tries what a sandbox refuses.
    pub(crate) attempts: PathBuf,
    /// The static C program that speaks the protocol of sd_notify(3).
    pub(crate) notifier: PathBuf,
    /// Another build of the agent, to measure beside this one.
    pub(crate) agent_before: Option<PathBuf>,
    /// Runs on the host.
    pub(crate) calibrate: PathBuf,
}

/// The packages of a guest's programs. They are the same in each build, so that their dependencies
/// have the same features.
const GUEST: [&str; 8] = [
    "--package",
    "enforcer",
    "--package",
    "enforcer-client",
    "--package",
    "enforcer-fleet",
    "--package",
    "enforcer-tests",
];

/// Compiles what runs inside the VM for the tests.
///
/// # Errors
/// If something does not compile.
pub(crate) fn test_programs() -> Result<Programs> {
    ebpf()?;
    say("build", "the agent with failpoints");
    // It is for the tests alone: its own crate is compiled in parts, and with less care.
    let quickly = [
        "profile.release.package.enforcer.codegen-units=16",
        "profile.release.package.enforcer.opt-level=1",
    ];
    let quickly = quickly.iter().flat_map(|setting| ["--config", *setting]);
    run(static_release("build").args(GUEST).args(quickly).args([
        "--bin",
        "enforcer",
        "--features",
        "enforcer/failpoints",
    ]))?;
    let release = target().join(HOST).join("release");
    let agent = release.join("enforcer-with-failpoints");
    std::fs::copy(release.join("enforcer"), &agent)
        .with_context(|| format!("failed to write {}", agent.display()))?;
    Ok(Programs {
        agent_with_failpoints: Some(agent),
        ..vm_programs()?
    })
}

/// Compiles a static program of the tests with the C compiler that Rust links with.
fn in_c(name: &str) -> Result<PathBuf> {
    let file = target().join(name);
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"])
        .arg(&file)
        .arg(root().join(format!("tests/{name}/{name}.c"))))?;
    Ok(file)
}

/// Compiles what runs inside the VM.
///
/// # Errors
/// If something does not compile.
pub(crate) fn vm_programs() -> Result<Programs> {
    ebpf()?;
    say("build", "the agent and the VM's programs");
    let release = target().join(HOST).join("release");
    let agent = release.join("enforcer");
    run(static_release("build").args(GUEST).arg("--bins"))?;
    tidy::check_agent(&agent)?;
    let tests = test_binaries(&[
        "--package",
        "enforcer-tests",
        "--test",
        "vm",
        "--test",
        "system",
    ])?;
    let test = |name: &str| {
        let found = tests.iter().find(|(present, _)| present == name);
        found
            .map(|(_, file)| file.clone())
            .with_context(|| format!("cargo named no executable for the test `{name}`"))
    };
    Ok(Programs {
        agent,
        agent_with_failpoints: None,
        agent_before: None,
        init: release.join("init"),
        fixture: release.join("fixture"),
        runner: release.join("runner"),
        suite: test("vm")?,
        system: test("system")?,
        bench: release.join("bench"),
        attempts: in_c("attempts")?,
        notifier: in_c("notifier")?,
        floor: in_c("floor")?,
        calibrate: release.join("calibrate"),
    })
}

/// Compiles test binaries, and returns the name and the path of each.
fn test_binaries(selection: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let output = static_release("test")
        .args(selection)
        .args(["--no-run", "--message-format=json"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    if !output.status.success() {
        bail!("failed to compile the tests");
    }
    let mut found = Vec::new();
    // Each line is a JSON object. The artifact of a test has an "executable".
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("cargo printed {line}"))?;
        if let (Some(target), Some(executable)) = (message.target, message.executable) {
            found.push((target.name, executable));
        }
    }
    Ok(found)
}

/// The parts of cargo's messages that are read.
#[derive(Deserialize)]
struct Message {
    target: Option<CargoTarget>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct CargoTarget {
    name: String,
}

/// Compiles the tests that need no VM, in the build that the VM's programs share.
///
/// # Errors
/// If one does not compile.
pub(crate) fn build_host_tests() -> Result<()> {
    say("build", "the host's tests");
    test_binaries(&HOST_TESTED).map(drop)?;
    run_quietly(xtask_tests().arg("--no-run")).map(drop)
}

/// The packages whose tests run on the host in the release build.
const HOST_TESTED: [&str; 18] = [
    "--package",
    "enforcer",
    "--package",
    "enforcer-client",
    "--package",
    "enforcer-core",
    "--package",
    "enforcer-fleet",
    "--package",
    "enforcer-fleet-core",
    "--package",
    "enforcer-kernel",
    "--package",
    "enforcer-manifest",
    "--package",
    "enforcer-model",
    "--package",
    "enforcer-common",
];

/// Makes the command for xtask's own tests, which use the build that runs it.
fn xtask_tests() -> Command {
    let mut command = cargo("test");
    command.args(["--quiet", "--package", "xtask"]);
    command
}

/// Runs the tests that need no VM; returns what they printed.
///
/// # Errors
/// If one fails.
pub(crate) fn run_host_tests() -> Result<String> {
    let agent = run_quietly(static_release("test").args(HOST_TESTED))?;
    Ok(agent + &run_quietly(&mut xtask_tests())?)
}

/// Measures how many events a second this machine's disk takes.
pub(crate) fn history_bench() -> Result<()> {
    ebpf()?;
    let folder = target().join("bench-history");
    run(statically(&mut cargo("bench"))
        .args(["--package", "enforcer", "--bench", "history"])
        .args(["--features", "measuring", "--"])
        .arg(folder))
}

/// Measures the decisions of a fleet's scheduler, and a fleet over Debian's etcd, on this machine.
pub(crate) fn fleet_bench() -> Result<()> {
    run(statically(&mut cargo("bench")).args([
        "--package",
        "enforcer-fleet-core",
        "--bench",
        "scale",
    ]))?;
    ebpf()?;
    let folder = target().join("bench-fleet");
    let release = apt::debian("bookworm")?;
    let server = ["etcd-server".to_owned()];
    unpack::packages(&release, &server, None, &folder, |_| Ok(()))?;
    run(statically(&mut cargo("bench"))
        .args(["--package", "enforcer-fleet", "--bench", "etcd"])
        .env("ETCD", folder.join("usr/bin/etcd"))
        .env("FOLDER", folder.join("data")))
}

/// Checks formatting and clippy, for the host's crates and for the eBPF target.
pub(crate) fn lint() -> Result<()> {
    run(cargo("fmt").args(["--all", "--check"]))?;
    ebpf()?;
    let warnings = ["--", "-D", "warnings"];
    let mut clippy = static_release("clippy");
    clippy
        .args(["--workspace", "--exclude", "enforcer-ebpf"])
        .args(["--all-targets", "--all-features"])
        .args(warnings);
    run(&mut clippy)?;
    let mut clippy = cargo("clippy");
    bpf_environment(&mut clippy, &tools::bpf_linker()?);
    run(clippy
        .args(["--quiet", "--package", "enforcer-ebpf", "--profile", "bpf"])
        .args(warnings))
}
