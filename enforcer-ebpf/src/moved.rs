//! Reports that a watched process was moved into another cgroup.
//!
//! The kernel passes `cgroup:cgroup_attach_task` after a process, or one of its threads, was moved by a write
//! to `cgroup.procs` or `cgroup.threads`. A process that is created in a cgroup does not pass it.

use crate::task::Task;
use crate::{MOVED, WATCHED, emit};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use enforcer_common::{self as common, Record};

#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub(crate) fn process_moved(context: RawTracePointContext) -> i32 {
    let task = Task(context.arg::<*const u8>(2) as u64);
    let tgid = task.tgid();
    if WATCHED.get_ptr(tgid).is_none() {
        return 0;
    }
    // One record until the agent has looked, so that moves to and fro do not fill the ring.
    if MOVED.insert(tgid, 1, u64::from(BPF_NOEXIST)).is_err() {
        return 0;
    }
    let record = Record {
        kind: common::MOVED,
        tgid,
        ..Record::default()
    };
    if !emit(&record) {
        // The agent looks at every process when a record was lost.
        let _ = MOVED.remove(tgid);
    }
    0
}
