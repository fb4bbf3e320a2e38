//! The parts of the cgroup tree that a service manager delegates: to a unit, to the scope of a
//! shell's agent, and to the holder of a unit.

use super::{HOLDER, HierarchyError, LEFT_BEHIND, check_mount, retreat};
use crate::cgroupfs::{Cgroup, MOUNT_POINT};
use crate::pidfd::PidFd;
use crate::{clock, process};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Set for the copy of ourselves that `systemd-run` starts.
const IN_SCOPE: &str = "ENFORCER_IN_SCOPE";

/// Returns whether `systemd-run` has started this process.
pub(super) fn in_scope() -> bool {
    std::env::var_os(IN_SCOPE).is_some()
}

/// Makes room for workloads in the cgroup that this process was started in.
pub fn make_room() -> Result<(), HierarchyError> {
    check_mount()?;
    let own = own_cgroup()?;
    if !is_delegated(&own) {
        return Err(HierarchyError::NotDelegated(own));
    }
    retreat(&Cgroup::open(&own)?, HOLDER)
}

/// Ends what is left beside this process's own leaf: SIGTERM, this grace, then the whole
/// tree. For a holder whose agent is gone.
pub fn end_what_is_left(grace: Duration) -> Result<(), HierarchyError> {
    let own = own_cgroup()?;
    let root = own.parent().unwrap_or(&own);
    let branches = ["workloads", "probes"].map(|branch| Cgroup::open(&root.join(branch)));
    let left: Vec<Cgroup> = branches.into_iter().flatten().collect();
    for branch in &left {
        signal_all(branch.path(), Signal::SIGTERM);
    }
    let begun = clock::now();
    let populated = |branch: &Cgroup| branch.is_populated().unwrap_or(false);
    while left.iter().any(populated) && clock::now().since(begun) < grace {
        clock::pause(Duration::from_millis(50));
    }
    // A process that hangs in one branch must not keep the other from being killed.
    let killed = left.iter().map(|branch| branch.kill_and_wait(LEFT_BEHIND));
    let killed: Vec<_> = killed.collect();
    Ok(killed.into_iter().collect::<Result<(), _>>()?)
}

/// Signals every process of a cgroup and of those below it.
fn signal_all(cgroup: &Path, signal: Signal) {
    let listed = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| line.parse().ok()) {
        let named = process::identify(pid).and_then(|process| PidFd::of(process).ok()?);
        if let Some(process) = named {
            // A process that has gone meanwhile needs no signal.
            let _ = process.signal(signal);
        }
    }
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        signal_all(&entry.path(), signal);
    }
}

/// Returns the cgroup of this process, as a path below the mount point.
pub(super) fn own_cgroup() -> Result<PathBuf, HierarchyError> {
    const FILE: &str = "/proc/self/cgroup";
    let text = std::fs::read_to_string(FILE)
        .map_err(|source| HierarchyError::Read { path: FILE, source })?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or("");
    Ok(Path::new(MOUNT_POINT).join(path.trim_end_matches(" (deleted)")))
}

/// Returns whether the cgroup is delegated: `systemd-run` has started this process, or the cgroup
/// has systemd's mark.
pub(super) fn is_delegated(cgroup: &Path) -> bool {
    in_scope() || has_delegation(cgroup)
}

/// Returns whether the cgroup has systemd's mark of delegation, an extended attribute (since systemd
/// 254 also for users; before, `trusted.delegate` only).
pub(super) fn has_delegation(cgroup: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(cgroup.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    [c"trusted.delegate", c"user.delegate"].iter().any(|name| {
        let mut value = [0u8; 4];
        // SAFETY: both strings end with NUL, and the buffer has the size that is passed.
        let length = unsafe {
            libc::getxattr(
                path.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        length == 1 && value[0] == b'1'
    })
}

/// Moves this process into a delegated scope. On a host with systemd, a process in a shell owns no
/// part of the tree, so it executes itself again through `systemd-run`. Returns if that is not
/// needed, and with an error if it failed.
pub fn enter_scope(requested: Option<&Path>) -> Result<(), HierarchyError> {
    let systemd = Path::new("/run/systemd/system").is_dir();
    if !systemd || requested.is_some() || check_mount().is_err() || is_delegated(&own_cgroup()?) {
        return Ok(());
    }
    let mut command = Command::new("systemd-run");
    if !geteuid().is_root() {
        command.arg("--user");
    }
    let source = command
        .args(["--scope", "--quiet", "--property=Delegate=yes", "--"])
        .arg(std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")))
        .args(std::env::args_os().skip(1))
        .env(IN_SCOPE, "1")
        .exec();
    Err(HierarchyError::Read {
        path: "systemd-run",
        source,
    })
}
