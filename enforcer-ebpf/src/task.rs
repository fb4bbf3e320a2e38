//! Reads a `task_struct` by offsets that the agent took from the running
//! kernel's BTF: rustc emits no relocations for them.

use crate::{ATTACHED, GROUPS, PARENT_CGROUP};
use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use enforcer_common::{ABSENT, COMM_LEN};

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: Global<u64> = Global::new(ABSENT);
    )*};
}

offsets! {
    TASK_PID,
    TASK_TGID,
    TASK_COMM,
    TASK_START_BOOTTIME,
    TASK_FLAGS,
    TASK_GROUP_LEADER,
    /// `nvcsw`: the number of the task's voluntary sleeps.
    TASK_NVCSW,
    /// `se.sum_exec_runtime`: CPU time in nanoseconds.
    TASK_SUM_EXEC_RUNTIME,
    TASK_EXIT_CODE,
    TASK_SIGNAL,
    TASK_MM,
    TASK_CGROUPS,
    SIGNAL_LIVE,
    SIGNAL_GROUP_EXIT_CODE,
    CSS_SET_DFL_CGRP,
    CGROUP_KN,
    CGROUP_LEVEL,
    /// `struct cgroup *ancestors[]`, since 6.1.
    CGROUP_ANCESTORS,
    KERNFS_NODE_ID,
    MM_PGTABLES_BYTES,
    /// The first counter of `mm_struct.rss_stat`.
    MM_RSS_STAT,
    /// The distance between two counters: 8, or the size of a `percpu_counter` since Linux 6.2.
    MM_RSS_STRIDE,
}

/// The most cgroups that are read on the way up from a process to the parent of all workloads.
const DEPTH: u64 = 8;

/// A `struct task_struct *` of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) u64);

/// A field of a kernel structure; 0 if the kernel has none, or it can't be read.
#[inline(always)]
fn read<T: Copy + Default>(base: u64, offset: &Global<u64>) -> T {
    let offset = offset.load();
    if base == 0 || offset == ABSENT {
        return T::default();
    }
    at(base.wrapping_add(offset))
}

#[inline(always)]
fn at<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address, and faults become an error.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}

impl Task {
    pub(crate) fn tgid(self) -> u32 {
        read(self.0, &TASK_TGID)
    }

    pub(crate) fn tid(self) -> u32 {
        read(self.0, &TASK_PID)
    }

    pub(crate) fn nvcsw(self) -> u64 {
        read(self.0, &TASK_NVCSW)
    }

    pub(crate) fn cpu_ns(self) -> u64 {
        read(self.0, &TASK_SUM_EXEC_RUNTIME)
    }

    pub(crate) fn comm(self) -> [u8; COMM_LEN] {
        read(self.0, &TASK_COMM)
    }

    pub(crate) fn start_ns(self) -> u64 {
        read(self.0, &TASK_START_BOOTTIME)
    }

    /// The process's first thread; it stays until all have left.
    pub(crate) fn leader(self) -> Self {
        Self(read(self.0, &TASK_GROUP_LEADER))
    }

    /// Returns whether the task has called exec since its fork (`PF_FORKNOEXEC` in
    /// `include/linux/sched.h`).
    pub(crate) fn has_executed(self) -> bool {
        const FORKED_ONLY: u32 = 0x40;
        read::<u32>(self.0, &TASK_FLAGS) & FORKED_ONLY == 0
    }

    /// True once no thread of the process is left (`kernel/exit.c`, `do_exit`
    /// decrements `live` before the tracepoint).
    pub(crate) fn is_group_dead(self) -> bool {
        let signal: u64 = read(self.0, &TASK_SIGNAL);
        read::<u32>(signal, &SIGNAL_LIVE) == 0
    }

    /// The process's wait status. A leader may have left earlier with a code of
    /// its own; `group_exit_code` is the one that `wait` reports then.
    pub(crate) fn status(self) -> u32 {
        let signal: u64 = read(self.0, &TASK_SIGNAL);
        match read::<u32>(signal, &SIGNAL_GROUP_EXIT_CODE) {
            0 => read(self.0, &TASK_EXIT_CODE),
            code => code,
        }
    }

    /// Pages of one kind: 0 file, 1 anonymous, 2 swapped, 3 shared
    /// (`include/linux/mm_types_task.h`).
    pub(crate) fn rss_pages(self, kind: u64) -> u64 {
        let mm: u64 = read(self.0, &TASK_MM);
        if mm == 0 || MM_RSS_STAT.load() == ABSENT {
            return 0;
        }
        let pages: i64 = read(mm + kind * MM_RSS_STRIDE.load(), &MM_RSS_STAT);
        // Batches of other CPUs may make the sum dip below zero for a moment.
        if pages < 0 { 0 } else { pages.unsigned_abs() }
    }

    pub(crate) fn pgtables_bytes(self) -> u64 {
        read(read(self.0, &TASK_MM), &MM_PGTABLES_BYTES)
    }

    /// The id of the cgroup of the workload, the replica or the attached service that this task is in or
    /// below; 0 if it is none of these.
    pub(crate) fn workload(self) -> u64 {
        let css_set: u64 = read(self.0, &TASK_CGROUPS);
        let cgroup: u64 = read(css_set, &CSS_SET_DFL_CGRP);
        let level = u64::from(read::<u32>(cgroup, &CGROUP_LEVEL));
        let ancestors = CGROUP_ANCESTORS.load();
        if cgroup == 0 || ancestors == ABSENT {
            return 0;
        }
        let parent = PARENT_CGROUP.load();
        let (mut child, mut grandchild) = (0, 0);
        for up in 0..DEPTH {
            if up > level {
                break;
            }
            let ancestor: u64 = at(cgroup + ancestors + (level - up) * 8);
            let id: u64 = read(read(ancestor, &CGROUP_KN), &KERNFS_NODE_ID);
            if id == parent {
                return match GROUPS.get_ptr(child) {
                    Some(_) => grandchild,
                    None => child,
                };
            }
            if ATTACHED.get_ptr(id).is_some() {
                return id;
            }
            (child, grandchild) = (id, child);
        }
        0
    }
}
