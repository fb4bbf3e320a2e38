//! Edges that only wake: an exit, a change of `memory.events`. Each passes on
//! what it saw and goes back to waiting; the core judges.

use crate::failpoint::failpoint;
use crate::inbox::Events;
use crate::report::error_chain;
use enforcer_core::ReplicaId;
use enforcer_core::event::{Event, HostEvent, InstanceEvent, InstanceId, WorkloadEvent};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::counters::{CounterReader, EventsFile};
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::pressure::Trigger;
use enforcer_kernel::ready;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::Interest;

/// Waits for the exit of a process of this workload. A pidfd becomes readable then.
pub(crate) async fn ended(pidfd: &Arc<PidFd>, workload: &ReplicaId) {
    match ready::watch(&**pidfd, Interest::READABLE) {
        Ok(readable) => {
            // An error would mean that the runtime is going down.
            let _ = readable.readable().await;
        }
        Err(error) => {
            tracing::warn!(
                "{workload}: no descriptor left to wait for its exit ({error}); a thread waits instead"
            );
            let pidfd = Arc::clone(pidfd);
            let waited = tokio::task::spawn_blocking(move || pidfd.wait_for_exit());
            let _ = waited.await;
        }
    }
}

/// Reports the exit of the main process once.
pub(crate) async fn exit(
    pidfd: Arc<PidFd>,
    events: Events,
    workload: ReplicaId,
    instance: InstanceId,
) {
    ended(&pidfd, &workload).await;
    failpoint!("exit-seen");
    events.send(Event::Instance(
        workload,
        instance,
        InstanceEvent::MainExited,
    ));
}

/// Reports each time when every task waited for memory, after what `read` returns then.
pub(crate) async fn stalls(
    trigger: Trigger,
    events: Events,
    read: Arc<impl Fn() -> Option<Event> + Send + Sync + 'static>,
) {
    let Ok(polled) = ready::watch(&trigger, Interest::PRIORITY) else {
        return;
    };
    while let Ok(mut stalled) = polled.ready(Interest::PRIORITY).await {
        stalled.clear_ready();
        let read = Arc::clone(&read);
        if let Ok(Some(measured)) = tokio::task::spawn_blocking(move || read()).await {
            events.send(measured);
        }
        events.send(Event::Host(HostEvent::Stalled));
    }
}

/// Reads the counters whenever the kernel says that one of them changed: kernfs
/// raises POLLPRI, at most every 10 ms (`cgroup_file_notify`). `met_limit` is called
/// if it is not a kill: the workload has met a limit.
pub(crate) async fn memory_events(
    cgroup: Arc<Cgroup>,
    counters: Arc<Mutex<CounterReader>>,
    events: Events,
    workload: ReplicaId,
    met_limit: impl Fn() + Send + 'static,
) {
    let opened = EventsFile::open(&cgroup)
        .and_then(|file| Ok((ready::watch(&file, Interest::PRIORITY)?, file)));
    let (polled, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(
                "{workload}: memory.events can't be polled: {error}; kills are reported when it exits"
            );
            return;
        }
    };
    let mut known = counters
        .lock()
        .read()
        .map(|counters| counters.oom_kill)
        .unwrap_or(0);
    loop {
        // The poll is armed by a read through this very descriptor.
        if let Err(error) = file.rearm() {
            tracing::debug!("{workload}: memory.events: {error}");
            return;
        }
        let read = counters.lock().read();
        match read {
            Ok(counters) if counters.oom_kill != known => {
                known = counters.oom_kill;
                events.send(Event::Workload(
                    workload.clone(),
                    WorkloadEvent::CountersRead { counters },
                ));
            }
            Ok(_) => met_limit(),
            Err(error) => {
                tracing::debug!("{workload}: {}", error_chain(&error));
                return;
            }
        }
        match polled.ready(Interest::PRIORITY).await {
            Ok(mut changed) => changed.clear_ready(),
            Err(_) => return,
        }
    }
}
