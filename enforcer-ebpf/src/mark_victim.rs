//! `oom:mark_victim`: the kernel picked a victim. It runs in the context of the
//! task whose allocation failed, so the victim's cgroup is read from the victim,
//! never from the current task.

use crate::emit;
use crate::task::Task;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
};
use aya_ebpf::macros::{raw_tracepoint, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use aya_log_ebpf::debug;
use enforcer_common::{MARK, Record};

/// The program for kernels whose tracepoint has the victim's task as its parameter (6.1.130,
/// 6.6.80, 6.8 and later).
#[raw_tracepoint(tracepoint = "mark_victim")]
pub(crate) fn mark_victim_task(context: RawTracePointContext) -> i32 {
    let victim = Task(context.arg::<*const u8>(0) as u64);
    let workload = victim.workload();
    if workload == 0 {
        return 0;
    }
    let record = Record {
        tgid: victim.tgid(),
        cgroup: workload,
        start_ns: victim.start_ns(),
        file_pages: victim.rss_pages(0),
        anon_pages: victim.rss_pages(1),
        swap_pages: victim.rss_pages(2),
        shmem_pages: victim.rss_pages(3),
        pgtables_bytes: victim.pgtables_bytes(),
        comm: victim.comm(),
        ..asked_by_current()
    };
    // A record that finds no room is counted, and the agent reports the number.
    if emit(&record) {
        debug!(
            &context,
            "OOM victim {} in cgroup {}", record.tgid, record.cgroup
        );
    } else {
        debug!(&context, "no room for OOM victim {}", record.tgid);
    }
    0
}

/// The program for kernels whose tracepoint has only a thread id, at offset 8 of its record. The
/// agent finds the workload. Kills in other cgroups are reported as well.
#[tracepoint(category = "oom", name = "mark_victim")]
pub(crate) fn mark_victim_pid(context: TracePointContext) -> i32 {
    // SAFETY: both layouts of the record begin with the pid at this offset, and
    // the helper behind it checks the bounds.
    let Ok(pid) = (unsafe { context.read_at::<u32>(8) }) else {
        return 0;
    };
    let record = Record {
        tgid: pid,
        ..asked_by_current()
    };
    if !emit(&record) {
        debug!(&context, "no room for OOM victim {}", record.tgid);
    }
    0
}

#[inline(always)]
fn asked_by_current() -> Record {
    Record {
        kind: MARK,
        // SAFETY: reads a clock.
        time_ns: unsafe { bpf_ktime_get_boot_ns() },
        asker_tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        // SAFETY: reads the current task's cgroup.
        asker_cgroup: unsafe { bpf_get_current_cgroup_id() },
        asker_comm: bpf_get_current_comm().unwrap_or_default(),
        ..Record::default()
    }
}
