//! What runs, written to the runtime folder before it runs: an agent that dies
//! leaves no process that nobody knows of. The folder is on tmpfs: a reboot
//! clears it together with the processes.

use enforcer_core::WorkloadName;
use enforcer_core::event::{CgroupId, InstanceId};
use serde::Serialize;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

#[derive(Debug)]
pub(crate) struct Instances {
    folder: PathBuf,
    boot_id: String,
}

/// One running instance.
#[derive(Debug, Serialize)]
pub(crate) struct RunningInstance<'a> {
    pub(crate) workload: &'a WorkloadName,
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    /// In clock ticks since boot: with pid and boot id it names the process.
    pub(crate) start_ticks: u64,
    pub(crate) cgroup: CgroupId,
    pub(crate) boot_id: &'a str,
}

impl Instances {
    pub(crate) fn open(folder: PathBuf, boot_id: String) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder, boot_id })
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Replaces the workload's record in one step: a reader sees the old one or
    /// the new one.
    pub(crate) fn record(&self, instance: &RunningInstance<'_>) -> io::Result<()> {
        let path = self.path(instance.workload);
        let draft = path.with_extension("new");
        fs::write(&draft, serde_json::to_vec(instance)?)?;
        fs::rename(draft, path)
    }

    pub(crate) fn forget(&self, workload: &WorkloadName) {
        // A record without a process is harmless: it names no process of this start time.
        let _ = fs::remove_file(self.path(workload));
    }

    fn path(&self, workload: &WorkloadName) -> PathBuf {
        self.folder.join(format!("{workload}.json"))
    }
}
