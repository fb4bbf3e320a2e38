//! The memory and swap of the host, and the agent's own heap.

use enforcer_model::units::Bytes;
use procfs::{Current as _, Meminfo};

/// Gives memory that this process has freed back to the system. Otherwise it would stay resident,
/// and be copied at each fork.
pub fn give_back() {
    // SAFETY: no preconditions; it only returns free memory.
    unsafe { libc::malloc_trim(0) };
}

/// Returns the total memory and swap, from `/proc/meminfo`.
pub fn totals() -> Result<(Bytes, Bytes), procfs::ProcError> {
    let meminfo = Meminfo::current()?;
    Ok((Bytes(meminfo.mem_total), Bytes(meminfo.swap_total)))
}
