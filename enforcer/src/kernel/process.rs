//! What `/proc` says of a process. Every answer is a hint: the process may be
//! gone by the time it is used.

use procfs::process::Process;

/// When a process started, in clock ticks since boot: with the pid, and within
/// one boot, it names a process.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    Some(process(pid)?.stat().ok()?.starttime)
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

/// Its command name, resident size in bytes.
pub(crate) fn command_and_rss(pid: u32) -> Option<(String, u64)> {
    let stat = process(pid)?.stat().ok()?;
    Some((stat.comm, stat.rss * procfs::page_size()))
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}
