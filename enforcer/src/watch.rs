//! Edges that only wake: an exit, a change of `memory.events`. Each passes on
//! what it saw and goes back to waiting; the core judges.

use crate::executor::Executor;
use crate::failpoint::failpoint;
use crate::inbox::Events;
use crate::report::error_chain;
use enforcer_core::WorkloadName;
use enforcer_core::event::{Event, HostEvent, InstanceEvent, InstanceId, WorkloadEvent};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::counters::{CounterReader, EventsFile};
use enforcer_kernel::pidfd::PidFd;
use enforcer_kernel::pressure::Trigger;
use enforcer_kernel::ready;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::io::Interest;

/// Reports the exit of the main process once. A pidfd becomes readable then.
pub(crate) async fn exit(
    pidfd: Arc<PidFd>,
    events: Events,
    workload: WorkloadName,
    instance: InstanceId,
) {
    match ready::watch(&*pidfd, Interest::READABLE) {
        Ok(readable) => {
            // An error would mean that the runtime is going down.
            let _ = readable.readable().await;
        }
        Err(error) => {
            tracing::warn!(
                "{workload}: no descriptor left to wait for its exit ({error}); a thread waits instead"
            );
            let waited = tokio::task::spawn_blocking(move || pidfd.wait_for_exit());
            let _ = waited.await;
        }
    }
    failpoint!("exit-seen");
    events.send(Event::Instance(
        workload,
        instance,
        InstanceEvent::MainExited,
    ));
}

/// Reports each time when every task waited for memory, after the use of each workload.
pub(crate) async fn stalls(trigger: Trigger, executor: Arc<Executor>) {
    let Ok(polled) = ready::watch(&trigger, Interest::PRIORITY) else {
        return;
    };
    while let Ok(mut stalled) = polled.ready(Interest::PRIORITY).await {
        stalled.clear_ready();
        let this = Arc::clone(&executor);
        let read = tokio::task::spawn_blocking(move || this.measure_all());
        if let Ok(Some(measured)) = read.await {
            executor.send(measured);
        }
        executor.send(Event::Host(HostEvent::Stalled));
    }
}

/// Reads the counters whenever the kernel says that one of them changed: kernfs
/// raises POLLPRI, at most every 10 ms (`cgroup_file_notify`). If it is not a kill, the workload has
/// met a limit, and its use is read.
pub(crate) async fn memory_events(
    cgroup: Arc<Cgroup>,
    counters: Arc<Mutex<CounterReader>>,
    executor: Arc<Executor>,
    workload: WorkloadName,
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
                executor.send(Event::Workload(
                    workload.clone(),
                    WorkloadEvent::CountersRead { counters },
                ));
            }
            Ok(_) => executor.read_level_of(&workload),
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
