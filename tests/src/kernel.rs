//! Reads the kernel's files as they are.

use std::fs;
use std::path::PathBuf;

/// Returns the parent of all workloads, as the agent makes it in the VM.
#[must_use]
pub fn workloads() -> PathBuf {
    crate::slot::root().join("workloads")
}

/// `uname -r`.
#[must_use]
pub fn release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    text.unwrap_or_default().trim().to_owned()
}

/// Returns the cgroup of the commands of all workloads.
#[must_use]
pub fn probes() -> PathBuf {
    workloads().with_file_name("probes")
}

/// Returns the path of a workload's cgroup below the hierarchy's root, as `/proc/PID/cgroup` has
/// it.
#[must_use]
pub fn path(workload: &str) -> String {
    format!("/{}/workloads/{workload}", crate::slot::root_name())
}

#[must_use]
pub fn cgroup(workload: &str) -> PathBuf {
    workloads().join(workload)
}

/// Returns a file of a workload's cgroup, trimmed; `None` if it is not there.
#[must_use]
pub fn read(workload: &str, file: &str) -> Option<String> {
    fs::read_to_string(cgroup(workload).join(file))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Returns a number of a flat keyed file.
#[must_use]
pub fn field(workload: &str, file: &str, key: &str) -> Option<u64> {
    let text = read(workload, file)?;
    let line = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)?;
    line.1.parse().ok()
}

/// Returns the processes of a workload's cgroup and of those below it.
#[must_use]
pub fn processes(workload: &str) -> Vec<u32> {
    fn collect(folder: &std::path::Path, found: &mut Vec<u32>) {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                collect(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    collect(&cgroup(workload), &mut found);
    found
}

/// A line of `/proc/PID/status`.
#[must_use]
pub fn status(pid: u32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}
