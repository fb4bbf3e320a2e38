//! `sched:sched_process_exit`: the last thread of a watched process has left. How is
//! kept in the map, so that it is found by an agent that wasn't there.

use crate::WATCHED;
use crate::task::Task;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use enforcer_common::{EXITED, LIVES, NEVER_RAN, TICKS_PER_SECOND};

const NANOS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_SECOND;

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn process_exit(context: BtfTracePointContext) -> i32 {
    let task = Task(context.arg::<*const u8>(0) as u64);
    let Some(watch) = WATCHED.get_ptr_mut(task.tgid()) else {
        return 0;
    };
    if !task.is_group_dead() {
        return 0;
    }
    // SAFETY: the entry stays while this program runs; two last threads that both see
    // no thread left write the same.
    let watch = unsafe { &mut *watch };
    let leader = task.leader();
    // The number may have been given to another process by now.
    if watch.state != LIVES || watch.start_ticks != leader.start_ns() / NANOS_PER_TICK {
        return 0;
    }
    watch.status = task.status();
    watch.state = if leader.has_executed() {
        EXITED
    } else {
        NEVER_RAN
    };
    0
}
