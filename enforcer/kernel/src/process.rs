//! Reads `/proc` about a process. Every answer is a hint: the process may be gone when it is used.

use super::proc_text::{self, field};
use enforcer_model::ids::ProcessId;
use procfs::process::Process;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// The most bytes of `/proc/PID/maps` that are read. A process can make the file as long as it
/// likes.
const MAX_MAPS_BYTES: u64 = 4 << 20;

/// The path of this program. It is right wherever the program was started from, and even if the
/// file was replaced meanwhile.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Returns the start time of a process, in clock ticks since boot. With the pid it names a process
/// of this boot.
pub fn start_ticks(pid: u32) -> Option<u64> {
    Some(process(pid)?.stat().ok()?.starttime)
}

/// Returns the process that has this pid now.
pub fn identify(pid: u32) -> Option<ProcessId> {
    let start_ticks = start_ticks(pid)?;
    Some(ProcessId { pid, start_ticks })
}

/// Returns whether a process is there, running or as a zombie.
pub fn is_there(process: ProcessId) -> bool {
    identify(process.pid) == Some(process)
}

/// Returns whether a process has called exec since its fork (`PF_FORKNOEXEC` in field 9 of
/// `/proc/PID/stat`, proc_pid_stat(5)).
pub fn has_executed(pid: u32) -> bool {
    const FORKED_ONLY: u32 = 0x40;
    let stat = process(pid).and_then(|process| process.stat().ok());
    stat.is_some_and(|stat| stat.flags & FORKED_ONLY == 0)
}

/// Returns the text of `/proc/PID/stat`, or why it cannot be read, for a message.
pub(crate) fn stat_line(pid: u32) -> String {
    let line = proc_text::read(&format!("/proc/{pid}/stat"));
    line.unwrap_or_else(|error| error.to_string())
}

/// Returns what a process stands still in: a signal, or the kernel's function that it waits in.
/// `None` if it is gone or runs.
pub(crate) fn standstill(pid: u32) -> Option<String> {
    let read = |file: &str| proc_text::read(&format!("/proc/{pid}/{file}")).ok();
    let status = read("status")?;
    let state = field(&status, "State")?.chars().next()?;
    let function = read("wchan").filter(|name| !name.is_empty() && name != "0");
    let waits_in = |function: Option<String>| {
        function.map_or_else(String::new, |name| format!(", waiting in {name}"))
    };
    match state {
        'T' => Some("it was stopped by a signal (SIGSTOP)".to_owned()),
        't' => Some("it was stopped by a tracer".to_owned()),
        'D' => Some(format!("it is in state D{}", waits_in(function))),
        'S' => Some(format!("it sleeps{}", waits_in(function))),
        _ => None,
    }
}

/// Describes a standstill, with the pid and the name of the process.
pub fn describe_standstill(pid: u32) -> Option<String> {
    let name = command_and_rss(pid)?.0;
    let why = standstill(pid).unwrap_or_else(|| "it runs".to_owned());
    Some(format!("process {pid} ({name}): {why}"))
}

/// Returns the process of a thread.
pub fn tgid_of(thread: u32) -> Option<u32> {
    let status = proc_text::read(&format!("/proc/{thread}/status")).ok()?;
    field(&status, "Tgid")?.parse().ok()
}

/// Returns the path of a process's cgroup v2, below the mount point.
pub fn cgroup_of(pid: u32) -> Option<String> {
    let groups = process(pid)?.cgroups().ok()?;
    groups
        .0
        .into_iter()
        .find(|group| group.hierarchy == 0)
        .map(|group| group.pathname)
}

/// Returns whether a process at `place` is in the cgroup `home`, or in one below it. Both have
/// the form that [`cgroup_of`] returns.
#[must_use]
pub fn is_home(place: &str, home: &str) -> bool {
    let below = place.strip_prefix(home);
    below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// Returns a process and all that it has started, as far as they are in that cgroup.
pub fn tree_in(main: u32, cgroup: &str) -> Vec<u32> {
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

/// Returns the command name and the resident size in bytes.
pub fn command_and_rss(pid: u32) -> Option<(String, u64)> {
    let stat = process(pid)?.stat().ok()?;
    Some((
        command_of(stat.comm.as_bytes()),
        stat.rss * procfs::page_size(),
    ))
}

/// Returns a command name as printable text. `comm` is the name as the kernel keeps it: up to 15
/// bytes, then NUL.
pub fn command_of(comm: &[u8]) -> String {
    let end = comm
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(comm.len());
    let name = String::from_utf8_lossy(&comm[..end]);
    // A program may call itself anything, and a terminal would obey.
    enforcer_model::text::printable(&name)
}

/// Returns the effective user and group of a process.
pub fn owner(pid: u32) -> Option<(u32, u32)> {
    let status = proc_text::read(&format!("/proc/{pid}/status")).ok()?;
    // Real, effective, saved and file-system ids.
    let effective = |key| field(&status, key)?.split_whitespace().nth(1)?.parse().ok();
    Some((effective("Uid")?, effective("Gid")?))
}

/// A file that is mapped so that its code can run.
#[derive(Clone, Debug)]
pub struct FileMapping {
    pub range: Range<u64>,
    /// The offset of the range in the file.
    pub offset: u64,
    pub file: PathBuf,
}

/// Returns the executable file mappings in which these addresses lie, as far as the first
/// [`MAX_MAPS_BYTES`] of the process's map say.
pub fn file_mappings(pid: u32, addresses: &[u64]) -> Vec<FileMapping> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let Ok(maps) = File::open(format!("/proc/{pid}/maps")) else {
        return Vec::new();
    };
    let lines = BufReader::new(maps.take(MAX_MAPS_BYTES)).split(b'\n');
    lines
        .map_while(Result::ok)
        .filter_map(|line| FileMapping::parse(&line))
        .filter(|mapping| {
            addresses
                .iter()
                .any(|address| mapping.range.contains(address))
        })
        .collect()
}

impl FileMapping {
    /// Reads a line of `/proc/PID/maps`: range, permissions, offset, device, inode, name
    /// (proc_pid_maps(5)). `None` if it is no executable mapping of a file.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let mut word = || std::str::from_utf8(words.next()?).ok();
        let (start, end) = word()?.split_once('-')?;
        let permissions = word()?;
        let offset = word()?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let name = words.nth(2)?.trim_ascii_start();
        (permissions.contains('x') && name.starts_with(b"/")).then_some(())?;
        Some(Self {
            range: number(start)?..number(end)?,
            offset: number(offset)?,
            file: PathBuf::from(OsStr::from_bytes(name)),
        })
    }
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_of_files_are_read_whatever_the_file_is_called() {
        let read = |line: &[u8]| FileMapping::parse(line).map(|found| found.file);
        assert_eq!(
            read(b"1000-2000 r-xp 00003000 fe:00 9     /usr/lib/libc.so.6"),
            Some(PathBuf::from("/usr/lib/libc.so.6"))
        );
        let odd = OsStr::from_bytes(b"/srv/\xff a").to_owned();
        assert_eq!(
            read(b"1000-2000 r-xp 00000000 fe:00 9     /srv/\xff a"),
            Some(PathBuf::from(odd))
        );
        for other in [
            &b"1000-2000 r--p 00000000 fe:00 9     /usr/lib/libc.so.6"[..],
            b"1000-2000 r-xp 00000000 00:00 0     [vdso]",
            b"1000-2000 r-xp 00000000 00:00 0 ",
            b"nonsense",
        ] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn only_the_mappings_of_the_addresses_are_kept() {
        let here = file_mappings as *const () as u64;
        let pid = std::process::id();
        let found = file_mappings(pid, &[here]);
        assert_eq!(found.len(), 1);
        assert!(found[0].range.contains(&here));
        assert!(file_mappings(pid, &[]).is_empty());
    }

    #[test]
    fn the_owner_and_the_process_of_a_thread_are_read() {
        let pid = std::process::id();
        let ids = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        assert_eq!(owner(pid), Some(ids));
        let thread = nix::unistd::gettid().as_raw().unsigned_abs();
        assert_eq!(tgid_of(thread), Some(pid));
    }
}
