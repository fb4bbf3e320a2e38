//! Limits of the whole system, from `/proc/sys`.

use super::proc_text;

/// Returns the most files that a process may have open: `fs.nr_open` of sysctl(8).
pub fn most_open_files() -> u64 {
    let text = proc_text::read("/proc/sys/fs/nr_open").unwrap_or_default();
    // The kernel's own default: include/uapi/linux/fs.h, fs/file.c.
    text.trim().parse().unwrap_or(1_048_576)
}

/// Returns the number of threads that the kernel has numbers and memory for: the lower of its `pid_max` and
/// `threads-max` (proc(5)); 0 if that cannot be read.
pub fn most_threads() -> u64 {
    let read = |name: &str| {
        let text = proc_text::read(&format!("/proc/sys/kernel/{name}"));
        text.ok()?.trim().parse::<u64>().ok()
    };
    let found = ["pid_max", "threads-max"].into_iter().filter_map(read);
    found.min().unwrap_or(0)
}
