//! The maps that all programs share, and the globals that the agent sets before
//! it loads them. Each hook has a file of its own.
//!
//! On the host's own target the crate is an empty program: editors and `cargo check
//! --workspace` read it there.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod cpu_sample;
mod exit;
mod mark_victim;
mod moved;
mod task;

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use enforcer_common::{Record, Watch};

/// OOM marks, and at most one move of each watched process: no flood of another kind can starve them.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// The records that found the ring full, by CPU. The agent exports their sum. The second slot has
/// the number that agents have reported.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// The workloads' main processes, put here by the agent; how they exited is kept here
/// until it is read. A shell that forks a thousand times a second costs one look-up each.
#[map]
static WATCHED: HashMap<u32, Watch> = HashMap::with_max_entries(16_384, 0);

/// The watched processes that were moved since the agent has last looked.
#[map]
static MOVED: HashMap<u32, u32> = HashMap::with_max_entries(16_384, 0);

/// The cgroups of attached services. The value means nothing.
#[map]
static ATTACHED: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

/// The cgroups below the parent of all workloads that hold replicas. The value means nothing.
#[map]
static GROUPS: HashMap<u64, u32> = HashMap::with_max_entries(4096, 0);

/// The cgroup id of the parent of all workloads.
#[unsafe(no_mangle)]
static PARENT_CGROUP: Global<u64> = Global::new(0);

/// Writes a record, or counts it as lost.
#[inline(always)]
fn emit(record: &Record) -> bool {
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: a per-CPU slot; programs of this kind don't preempt each other on one CPU.
            unsafe { *lost += 1 };
        }
        return false;
    };
    entry.write(*record);
    entry.submit(0);
    true
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel's helpers are GPL-only; this is what it reads to allow them.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
