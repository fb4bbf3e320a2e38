//! How much memory and swap the host has.

use enforcer_core::units::Bytes;
use procfs::{Current as _, Meminfo};

/// Memory and swap in all, from `/proc/meminfo`.
pub(crate) fn totals() -> Result<(Bytes, Bytes), procfs::ProcError> {
    let meminfo = Meminfo::current()?;
    Ok((Bytes(meminfo.mem_total), Bytes(meminfo.swap_total)))
}
