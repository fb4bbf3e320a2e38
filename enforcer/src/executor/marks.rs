//! Turns eBPF records into events: it finds the workload of the process, and reads the counters. If
//! the kernel reports only a pid, the owner is found here.

use crate::executor::Executor;
use crate::executor::instances::OpenCgroup;
use crate::report::error_chain;
use enforcer_common::{MARK, MOVED, Record};
use enforcer_core::ReplicaId;
use enforcer_core::event::{AgentEvent, CgroupId, Event, WorkloadEvent};
use enforcer_core::oom::{Asker, Victim};
use enforcer_core::units::Bytes;
use enforcer_kernel::bpf::EventRing;
use enforcer_kernel::inotify::Touched;
use enforcer_kernel::{process, ready};
use std::sync::Arc;
use tokio::io::Interest;

/// Waits for records, for as long as the agent lives.
pub(crate) async fn follow(ring: Arc<EventRing>, executor: Arc<Executor>) {
    let polled = match ready::watch(&*ring, Interest::READABLE) {
        Ok(polled) => polled,
        Err(error) => {
            let why = format!("the eBPF ring can't be polled: {error}");
            executor.send(Event::Agent(AgentEvent::Degraded {
                what: "ebpf".to_owned(),
                why,
            }));
            return;
        }
    };
    loop {
        let Ok(mut readable) = polled.readable().await else {
            return;
        };
        drain(&ring, &executor);
        readable.clear_ready();
    }
}

/// Passes on every record that waits.
pub(crate) fn drain(ring: &EventRing, executor: &Arc<Executor>) {
    ring.drain(|record| deliver(&record, executor));
    let lost = ring.newly_lost();
    if lost > 0 {
        executor.send(Event::Agent(AgentEvent::EventsLost(lost)));
        // A move may be among them.
        executor.touched(Touched::Everything);
    }
}

fn deliver(record: &Record, executor: &Arc<Executor>) {
    match record.kind {
        MARK => mark(record, executor),
        MOVED => executor.moved(record.tgid),
        other => tracing::warn!("an eBPF record of the unknown kind {other}"),
    }
}

fn mark(record: &Record, executor: &Executor) {
    let mut victim = victim_of(record);
    let owner = match record.cgroup {
        0 => owner_of_thread(executor, &mut victim),
        id => executor.instances.owner_of(CgroupId(id)),
    };
    if owner.is_none()
        && let Some((workload, counters)) = executor.owner_of_gone(CgroupId(record.cgroup))
    {
        let killed = WorkloadEvent::OomMark { victim, counters };
        executor.send(Event::Workload(workload, killed));
        return;
    }
    let Some((workload, cgroup)) = owner else {
        tracing::debug!(pid = record.tgid, "an OOM victim that is none of ours");
        return;
    };
    // The kernel counts before it marks: what is read now includes this kill.
    let read = cgroup.counters.lock().read();
    match read {
        Ok(counters) => executor.send(Event::Workload(
            workload,
            WorkloadEvent::OomMark { victim, counters },
        )),
        Err(error) => tracing::error!(
            "{workload}: failed to {}; the OOM kill will be reported later",
            error_chain(&error)
        ),
    }
}

/// Finds the owner of a record without a cgroup: an older kernel names only a thread. A dying
/// process stays in `/proc` until its parent waits for it, and only the agent waits for a main
/// process.
fn owner_of_thread(executor: &Executor, victim: &mut Victim) -> Option<(ReplicaId, OpenCgroup)> {
    let thread = victim.pid;
    if let Some(process) = process::tgid_of(thread) {
        victim.pid = process;
    }
    if let Some((command, rss)) = process::command_and_rss(victim.pid) {
        victim.command = command;
        victim.rss_bytes = Bytes(rss);
    }
    let cgroup = process::cgroup_of(victim.pid);
    let mut all = executor.instances.all().into_iter();
    let found = all.find(|(_, instance)| {
        let path = instance.cgroup().path();
        let path = path
            .strip_prefix(enforcer_kernel::cgroupfs::MOUNT_POINT)
            .unwrap_or(path);
        let inside = |cgroup: &String| {
            std::path::Path::new(cgroup.trim_start_matches('/')).starts_with(path)
        };
        instance.main.pid == victim.pid || cgroup.as_ref().is_some_and(inside)
    });
    found.map(|(name, instance)| (name, instance.open))
}

fn victim_of(record: &Record) -> Victim {
    let resident = record.anon_pages + record.file_pages + record.shmem_pages;
    Victim {
        pid: record.tgid,
        start_ns: record.start_ns,
        command: process::command_of(&record.comm),
        rss_bytes: Bytes::from_pages(resident),
        anon_bytes: Bytes::from_pages(record.anon_pages),
        file_bytes: Bytes::from_pages(record.file_pages + record.shmem_pages),
        kernel_bytes: Bytes(record.pgtables_bytes),
        swap_bytes: Bytes::from_pages(record.swap_pages),
        asker: Asker {
            pid: record.asker_tgid,
            command: process::command_of(&record.asker_comm),
            cgroup: CgroupId(record.asker_cgroup),
        },
        marked_ns: record.time_ns,
    }
}
