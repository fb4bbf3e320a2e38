//! Examines CPU-clock samples of the workloads' threads. A thread that is on a CPU at every sample,
//! while its count of voluntary sleeps does not change, is spinning, however often it is preempted
//! or throttled in between. What is counted is CPU time, not samples. Each streak gives one record.
//! The agent decides later whether the thread loops, polls or works.

use crate::task::Task;
use aya_ebpf::helpers::bpf_get_current_task;
use aya_ebpf::macros::{map, perf_event};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::PerfEventContext;
use enforcer_common::Suspect;

/// Suspects, and nothing else: samples can't starve kills and exits.
#[map]
static SUSPECTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// The suspects that found the ring full, by CPU. Their streaks go on, and are reported at their
/// next sample.
#[map]
static SUSPECTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// The CPU time that a thread may use between two sleeps, in nanoseconds, by cgroup id. A workload
/// that is missing here is not watched.
#[map]
static BUDGETS: HashMap<u64, u64> = HashMap::with_max_entries(16_384, 0);

/// The streaks by thread id. On a busy host the least recently sampled threads are dropped first:
/// they hardly run.
#[map]
static STREAKS: LruHashMap<u32, Streak> = LruHashMap::with_max_entries(8192, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct Streak {
    start_ns: u64,
    nvcsw: u64,
    /// The thread's CPU time when the streak began.
    cpu_ns: u64,
    reported: u64,
}

#[perf_event]
pub(crate) fn cpu_sample(_context: PerfEventContext) -> u32 {
    // SAFETY: returns the current task, which stays while it is current.
    let task = Task(unsafe { bpf_get_current_task() });
    let workload = task.workload();
    if workload == 0 {
        return 0;
    }
    // SAFETY: a copy of a value that is written whole.
    let Some(budget) = (unsafe { BUDGETS.get(workload) }).copied() else {
        return 0;
    };
    let now = Streak {
        start_ns: task.start_ns(),
        nvcsw: task.nvcsw(),
        cpu_ns: task.cpu_ns(),
        reported: 0,
    };
    let tid = task.tid();
    let Some(known) = STREAKS.get_ptr_mut(tid) else {
        // A full table only forgets an older thread.
        let _ = STREAKS.insert(tid, now, 0);
        return 0;
    };
    // SAFETY: the entry of the thread that runs here: no other CPU writes it.
    let streak = unsafe { &mut *known };
    if streak.start_ns != now.start_ns || streak.nvcsw != now.nvcsw {
        *streak = now;
        return 0;
    }
    let spun = now.cpu_ns.wrapping_sub(streak.cpu_ns);
    if streak.reported != 0 || spun < budget {
        return 0;
    }
    let suspect = Suspect {
        tgid: task.tgid(),
        tid,
        cgroup: workload,
        start_ns: now.start_ns,
        cpu_ns: spun,
        nvcsw: now.nvcsw,
        comm: task.comm(),
    };
    match SUSPECTS.reserve::<Suspect>(0) {
        Some(mut entry) => {
            entry.write(suspect);
            entry.submit(0);
            streak.reported = 1;
        }
        None => {
            if let Some(lost) = SUSPECTS_LOST.get_ptr_mut(0) {
                // SAFETY: a per-CPU slot; samples don't preempt each other on one CPU.
                unsafe { *lost += 1 };
            }
        }
    }
    0
}
