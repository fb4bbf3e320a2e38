//! Starts an agent under test: its folder, its arguments and its environment.

use super::{ENFORCER, WITH_FAILPOINTS};
use crate::slot;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Each agent has a folder of its own.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// The program of this test's agents, if it is not the one that ships.
static PROGRAM: OnceLock<&str> = OnceLock::new();

/// A preparation of the process that becomes an agent.
pub type Preparation = fn() -> nix::Result<()>;

thread_local! {
    /// For the next agent only.
    static PREPARATION: std::cell::Cell<Option<Preparation>> = const { std::cell::Cell::new(None) };
    /// For the next agent only.
    static LOG_LEVEL: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Has the next agent of this test log more.
pub fn log_at(level: &'static str) {
    LOG_LEVEL.set(Some(level));
}

/// Has the next agent of this test begin in a mount namespace of its own, as this leaves
/// it.
pub fn prepare(preparation: Preparation) {
    PREPARATION.set(Some(preparation));
}

/// Returns whether the next agent of this test has a preparation.
pub(super) fn is_prepared() -> bool {
    PREPARATION.get().is_some()
}

/// A mount namespace of its own for what this command starts, as it is left.
pub fn in_own_namespace(command: &mut Command, preparation: Preparation) {
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).or_else(|error| {
                // The first root of an initramfs has no parent to detach from.
                if error == nix::Error::EINVAL {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
            Ok(preparation()?)
        });
    }
}

pub(super) fn spawn(
    folder: &Path,
    arguments: &[String],
    daemon: bool,
    environment: &[(&str, &str)],
) -> Child {
    let mut command = command(folder);
    if let Some(level) = LOG_LEVEL.with(std::cell::Cell::take) {
        command.env("ENFORCER_LOG", level);
    }
    command.envs(environment.iter().copied());
    if let Some(preparation) = PREPARATION.with(std::cell::Cell::take) {
        in_own_namespace(&mut command, preparation);
    }
    let log = |name: &str| {
        let mut log = File::options();
        log.append(true)
            .create(true)
            .open(folder.join(name))
            .unwrap()
    };
    command
        .args(arguments)
        .args(match daemon {
            true => ["daemon", "--manifest"],
            false => ["run", "-f"],
        })
        .arg(folder.join("manifest.yaml"))
        .stdin(Stdio::null())
        .stdout(log("lines"))
        .stderr(log("log"))
        .spawn()
        .unwrap()
}

/// Returns a new folder under `/tmp` for one agent.
///
/// # Panics
/// If it can't be made.
#[must_use]
pub fn folder() -> PathBuf {
    let folder = next_folder();
    NEXT.fetch_add(1, Ordering::Relaxed);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the folder that the next agent will have.
#[must_use]
pub fn next_folder() -> PathBuf {
    PathBuf::from(format!("/tmp/agent-{}", NEXT.load(Ordering::Relaxed)))
}

/// Has every agent of this process be this program.
pub fn use_program(program: &'static str) {
    PROGRAM.get_or_init(|| program);
}

/// Has every agent of this test be the build that has failpoints.
pub fn use_failpoints() {
    use_program(WITH_FAILPOINTS);
}

/// Returns whether this test's agents have failpoints.
pub(super) fn has_failpoints() -> bool {
    PROGRAM.get() == Some(&WITH_FAILPOINTS)
}

/// Returns the program with its folders below this one.
#[must_use]
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(PROGRAM.get().unwrap_or(&ENFORCER));
    command
        .env_clear()
        .env("RUST_BACKTRACE", "1")
        .env(
            "ENFORCER_LOG",
            std::env::var_os("ENFORCER_LOG").unwrap_or_else(|| "info".into()),
        )
        .env("ENFORCER_STATE_DIR", folder.join("state"))
        .env("ENFORCER_RUNTIME_DIR", folder.join("run"));
    if let Some(root) = slot::requested_root() {
        command.env("ENFORCER_CGROUP_ROOT", root);
    }
    command
}
