//! `sched:sched_process_exit`: the last thread of a watched process has left.
//! It runs before the task leaves its cgroup.

use crate::task::Task;
use crate::{WATCHED, emit};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use enforcer_common::{EXIT, Record};

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn process_exit(context: BtfTracePointContext) -> i32 {
    let task = Task(context.arg::<*const u8>(0) as u64);
    let tgid = task.tgid();
    if WATCHED.get_ptr(tgid).is_none() || !task.is_group_dead() {
        return 0;
    }
    // Two last threads may both see no thread left: who removes it, tells it.
    if WATCHED.remove(tgid).is_err() {
        return 0;
    }
    let record = Record {
        kind: EXIT,
        tgid,
        cgroup: task.workload(),
        // SAFETY: reads a clock.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        start_ns: task.start_ns(),
        status: task.status(),
        comm: task.comm(),
        ..Record::default()
    };
    if !emit(&record) {
        warn!(&context, "no room for the exit of {}", tgid);
    }
    0
}
