//! How much memory and swap the host has, and our own heap's share of it.

use enforcer_core::units::Bytes;
use procfs::{Current as _, Meminfo};

/// Returns what this process has freed to the system: else it would stay resident, and be
/// copied at each fork.
pub(crate) fn give_back() {
    // SAFETY: no preconditions; it only returns free memory.
    unsafe { libc::malloc_trim(0) };
}

/// The threads that the kernel has numbers and memory for: the lower of its `pid_max` and
/// `threads-max` (proc(5)); 0 if that cannot be read.
pub(crate) fn most_threads() -> u64 {
    let read = |name: &str| {
        let text = super::proc_text::read(&format!("/proc/sys/kernel/{name}"));
        text.ok()?.trim().parse::<u64>().ok()
    };
    let found = ["pid_max", "threads-max"].into_iter().filter_map(read);
    found.min().unwrap_or(0)
}

/// Memory and swap in all, from `/proc/meminfo`.
pub(crate) fn totals() -> Result<(Bytes, Bytes), procfs::ProcError> {
    let meminfo = Meminfo::current()?;
    Ok((Bytes(meminfo.mem_total), Bytes(meminfo.swap_total)))
}
