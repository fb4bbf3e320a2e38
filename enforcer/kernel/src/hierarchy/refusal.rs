//! The reasons why no workload can start on this host: the file, the error number and the cure, in
//! words that follow "failed to".

use crate::cgroupfs::{CgroupError, MOUNT_POINT};
use nix::errno::Errno;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    #[error(
        "use {path}: it is not a cgroup v2 hierarchy (found {found}); enforcer needs v2 alone: boot with the kernel \
         parameters `systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all`"
    )]
    NotV2 { path: String, found: &'static str },
    #[error(
        "write {} (errno {}: {}); the hierarchy is read-only here: `mount -o remount,rw {MOUNT_POINT}`, \
         or run enforcer on the host instead of in a container",
        path.display(), *errno as i32, errno.desc()
    )]
    ReadOnly { path: PathBuf, errno: Errno },
    #[error(
        "write {} (errno {}: {}); run enforcer as root, or in a delegated scope: \
         `systemd-run --user --scope -p Delegate=yes enforcer …`",
        path.display(), *errno as i32, errno.desc()
    )]
    NotPermitted { path: PathBuf, errno: Errno },
    #[error(
        "enable the controller `{controller}`: {} lists only `{available}`{}; {cure}",
        path.display(), needed_for(file)
    )]
    NoController {
        path: PathBuf,
        controller: String,
        available: String,
        file: Option<String>,
        cure: String,
    },
    #[error(
        "take over {}: {processes} processes are in it that no agent with this runtime folder has left; use that \
         agent's --runtime-dir, or end them with `echo 1 > {}/cgroup.kill`", path.display(), path.display()
    )]
    Occupied { path: PathBuf, processes: usize },
    #[error("hold {} for workloads: no service manager has delegated it (`Delegate=yes`)", .0.display())]
    NotDelegated(PathBuf),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("read {path}")]
    Read {
        path: &'static str,
        source: io::Error,
    },
}

fn needed_for(file: &Option<String>) -> String {
    file.as_ref()
        .map(|file| format!(", and `{file}` needs it"))
        .unwrap_or_default()
}

pub(super) fn cure(controller: &str) -> String {
    // v1 calls it by its first name.
    let v1_name = if controller == "io" {
        "blkio"
    } else {
        controller
    };
    let of_v1 = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let line = of_v1
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&v1_name));
    match line.as_deref() {
        Some([_, hierarchy, _, _]) if *hierarchy != "0" => {
            format!(
                "a cgroup v1 hierarchy holds it: boot with the kernel parameter `cgroup_no_v1={v1_name}`"
            )
        }
        Some([_, _, _, "0"]) => {
            format!("it is disabled: boot with the kernel parameter `cgroup_enable={controller}`")
        }
        Some(_) => format!(
            "its parent keeps it: enable it there with `echo +{controller} > cgroup.subtree_control`"
        ),
        None => "this kernel was built without it".to_owned(),
    }
}

pub(super) fn chain(error: &CgroupError) -> String {
    let number = error
        .errno()
        .map(|number| format!(": {}", Errno::from_raw(number).desc()));
    format!("{error}{}", number.unwrap_or_default())
}

/// Turns the errors that an administrator can cure into their own kinds, by number.
pub(super) fn refine(error: CgroupError) -> HierarchyError {
    let path = match &error {
        CgroupError::Create { path, .. }
        | CgroupError::Write { path, .. }
        | CgroupError::Open { path, .. } => path.clone(),
        _ => return error.into(),
    };
    match error.errno().map(Errno::from_raw) {
        Some(errno @ Errno::EROFS) => HierarchyError::ReadOnly { path, errno },
        Some(errno @ (Errno::EACCES | Errno::EPERM)) => {
            HierarchyError::NotPermitted { path, errno }
        }
        _ => error.into(),
    }
}
