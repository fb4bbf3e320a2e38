//! How a watched process ended is kept in the map, so that an agent finds it that was not
//! there.
//!
//! `sched:sched_process_exit` comes first: the last thread leaves. Since Linux 7.0 a
//! program at a tracepoint can be preempted, and while it is, the kernel does not start it
//! again on that CPU (`recursion_misses` of the program counts these). So
//! `sched:sched_process_free` writes what is still missing: it comes when the process was
//! reaped, from a callback of RCU that no task can preempt.

use crate::WATCHED;
use crate::task::Task;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use enforcer_common::{EXITED, LIVES, NEVER_RAN, TICKS_PER_SECOND};

const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn process_exit(context: BtfTracePointContext) -> i32 {
    keep_status(Task(context.arg::<*const u8>(0) as u64));
    0
}

#[btf_tracepoint(function = "sched_process_free")]
pub(crate) fn process_free(context: BtfTracePointContext) -> i32 {
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
    // SAFETY: the entry stays while this program runs; whoever else sees no thread left
    // writes the same.
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
