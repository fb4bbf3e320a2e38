//! What `/proc` says of a process. Every answer is a hint: the process may be
//! gone by the time it is used.

use procfs::process::{MMPermissions, MMapPath, Process};
use std::ops::Range;
use std::path::PathBuf;

/// Wherever this program was started from, and though it was replaced meanwhile.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// When a process started, in clock ticks since boot: with the pid, and within
/// one boot, it names a process.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    Some(process(pid)?.stat().ok()?.starttime)
}

/// Whether it has called exec since its fork: `PF_FORKNOEXEC`, which field 9 of
/// `/proc/PID/stat` shows (proc_pid_stat(5)).
pub(crate) fn has_executed(pid: u32) -> bool {
    const FORKED_ONLY: u32 = 0x40;
    let stat = process(pid).and_then(|process| process.stat().ok());
    stat.is_some_and(|stat| stat.flags & FORKED_ONLY == 0)
}

/// The process of a thread.
pub(crate) fn tgid_of(thread: u32) -> Option<u32> {
    u32::try_from(process(thread)?.status().ok()?.tgid).ok()
}

/// Its path in the cgroup v2 hierarchy, below the mount point.
pub(crate) fn cgroup_of(pid: u32) -> Option<String> {
    let groups = process(pid)?.cgroups().ok()?;
    groups
        .0
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .map(|group| group.pathname)
}

/// A process and all that it has started, as far as they are in that cgroup.
pub(crate) fn tree_in(main: u32, cgroup: &str) -> Vec<u32> {
    let all = procfs::process::all_processes().into_iter().flatten();
    let parents: Vec<(u32, u32)> = all
        .filter_map(|process| {
            let stat = process.ok()?.stat().ok()?;
            Some((
                u32::try_from(stat.pid).ok()?,
                u32::try_from(stat.ppid).ok()?,
            ))
        })
        .collect();
    let mut tree = vec![main];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        next += 1;
        let children = parents
            .iter()
            .filter(|(pid, of)| *of == parent && !tree.contains(pid));
        let found: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        tree.extend(found);
    }
    tree.retain(|pid| cgroup_of(*pid).as_deref() == Some(cgroup));
    tree
}

/// Its command name, resident size in bytes.
pub(crate) fn command_and_rss(pid: u32) -> Option<(String, u64)> {
    let stat = process(pid)?.stat().ok()?;
    Some((stat.comm, stat.rss * procfs::page_size()))
}

/// A command name as the kernel keeps it: up to 15 bytes, then NUL.
pub(crate) fn command_of(comm: &[u8]) -> String {
    let end = comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(comm.len());
    let name = String::from_utf8_lossy(&comm[..end]);
    // A program may call itself anything, and a terminal would obey.
    enforcer_core::text::printable(&name)
}

/// The user and the group that it runs as.
pub(crate) fn owner(pid: u32) -> Option<(u32, u32)> {
    let status = process(pid)?.status().ok()?;
    Some((status.euid, status.egid))
}

/// A file that is mapped so that its code can run.
#[derive(Clone, Debug)]
pub(crate) struct FileMapping {
    pub(crate) range: Range<u64>,
    /// Where in the file the range begins.
    pub(crate) offset: u64,
    pub(crate) file: PathBuf,
}

pub(crate) fn file_mappings(pid: u32) -> Vec<FileMapping> {
    let maps = process(pid).and_then(|process| process.maps().ok());
    let mappings = maps.into_iter().flatten();
    mappings
        .filter_map(|mapping| match mapping.pathname {
            MMapPath::Path(file) if mapping.perms.contains(MMPermissions::EXECUTE) => {
                Some(FileMapping {
                    range: mapping.address.0..mapping.address.1,
                    offset: mapping.offset,
                    file,
                })
            }
            _ => None,
        })
        .collect()
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}
