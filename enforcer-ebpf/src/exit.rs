//! Writes the exit status of watched processes into a map, for an agent that starts later.
//!
//! The kernel passes `sched:sched_process_exit` when the last thread leaves. Since Linux 7.0
//! a task can preempt a program at a tracepoint, and meanwhile the kernel does not start that
//! program again on the same CPU (it counts these cases in `recursion_misses`). So
//! `sched:sched_process_free` writes a status that is still missing. It runs after the process
//! was reaped, in a callback of RCU, which no task can preempt.

use crate::WATCHED;
use crate::task::Task;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use enforcer_common::{EXITED, LIVES, NEVER_RAN, TICKS_PER_SECOND};

const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn process_exit(context: RawTracePointContext) -> i32 {
    keep_status(Task(context.arg::<*const u8>(0) as u64));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_free")]
pub(crate) fn process_free(context: RawTracePointContext) -> i32 {
    let task = Task(context.arg::<*const u8>(0) as u64);
    // The leader is the last to be freed; of the others it may be gone.
    if task.tid() == task.tgid() {
        keep_status(task);
    }
    0
}

#[inline(always)]
fn keep_status(task: Task) {
    let Some(watch) = WATCHED.get_ptr_mut(task.tgid()) else {
        return;
    };
    if !task.is_group_dead() {
        return;
    }
    // SAFETY: the kernel keeps the entry until this program ends. Programs that run at the
    // same time write the same values.
    let watch = unsafe { &mut *watch };
    let leader = task.leader();
    // The number may have been given to another process by now.
    if watch.state != LIVES || watch.start_ticks != leader.start_ns() / NANOS_PER_TICK {
        return;
    }
    watch.status = task.status();
    watch.state = if leader.has_executed() {
        EXITED
    } else {
        NEVER_RAN
    };
}
