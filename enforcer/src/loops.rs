//! Finds threads that do not sleep: in the sampler's ring, or, without one, in `/proc` once a
//! second. It also checks whether the examined threads have slept since. The core judges.

use crate::executor::Executor;
use enforcer_common::Suspect as Record;
use enforcer_core::cpu_loop::{LoopSource, Streaks, Suspect, Thread, gate, is_worth_sampling};
use enforcer_core::event::{AgentEvent, CgroupId, Event, WorkloadEvent};
use enforcer_kernel::bpf::suspects::SuspectRing;
use enforcer_kernel::cpus::{self, Announcements};
use enforcer_kernel::perf::cpu_clock::CpuClock;
use enforcer_kernel::{clock, process, ready, threads};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::time::MissedTickBehavior;

/// The time between two checks whether the examined threads have slept.
const FOLLOW: Duration = Duration::from_millis(500);
/// The time between two readings of `/proc` without a sampler.
const POLL: Duration = Duration::from_secs(1);
const NANOS_PER_TICK: u64 = 10_000_000;

/// Reports examined threads that sleep again.
pub(crate) async fn follow(executor: Arc<Executor>) {
    let mut tick = tokio::time::interval(FOLLOW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        executor.followed.any().await;
        tick.tick().await;
        for (workload, thread) in executor.followed.ended() {
            executor.send(Event::Workload(
                workload,
                WorkloadEvent::CpuStreakEnded { thread },
            ));
        }
    }
}

/// Passes on what the sampler finds, and keeps it on every CPU.
pub(crate) async fn sample(ring: Arc<SuspectRing>, mut sampler: CpuClock, executor: Arc<Executor>) {
    let degraded = |why: String| {
        Event::Agent(AgentEvent::Degraded {
            what: "cpu_loop".to_owned(),
            why,
        })
    };
    let polled = match ready::watch(&*ring, Interest::READABLE) {
        Ok(polled) => polled,
        Err(error) => {
            executor.send(degraded(format!(
                "the suspects' ring can't be polled: {error}"
            )));
            return;
        }
    };
    let announced = Announcements::open()
        .and_then(|socket| Ok((ready::watch(&socket, Interest::READABLE)?, socket)));
    let announced = announced
        .inspect_err(|error| {
            tracing::warn!("CPUs that come back will not be sampled: {error}");
        })
        .ok();
    let mut checked = (clock::now(), executor.cpu_time_of_all());
    loop {
        // Without a workload that is watched for loops, there is nothing to check.
        let next = executor.instances.least_loop_budget().map(gate);
        let next = next.map(|pause| checked.0.after(pause).since(clock::now()));
        tokio::select! {
            () = tokio::time::sleep(next.unwrap_or_default()), if next.is_some() => {
                let now = (clock::now(), executor.cpu_time_of_all());
                let used = now.1.saturating_sub(checked.1);
                let is_busy = is_worth_sampling(used, now.0.since(checked.0));
                checked = now;
                if let Err(error) = sampler.run(is_busy) {
                    executor.send(degraded(format!("the CPU clock can't be switched: {error}")));
                }
            }
            // Another workload may ask for an earlier check.
            () = executor.loops_watched.notified() => {}
            readable = polled.readable() => {
                let Ok(mut readable) = readable else { return };
                ring.drain(|record| deliver(&record, &executor));
                let lost = ring.newly_lost();
                if lost > 0 {
                    executor.send(Event::Agent(AgentEvent::EventsLost(lost)));
                }
                readable.clear_ready();
            }
            mut readable = next_announcement(announced.as_ref().map(|(polled, _)| polled)) => {
                let Some((_, socket)) = &announced else { continue };
                if let Err(error) = follow_cpus(&mut sampler, socket) {
                    executor.send(degraded(format!("a CPU can't be sampled: {error}")));
                }
                readable.clear_ready();
            }
        }
    }
}

type Polled = tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>;

async fn next_announcement(
    polled: Option<&Polled>,
) -> tokio::io::unix::AsyncFdReadyGuard<'_, std::os::fd::OwnedFd> {
    if let Some(polled) = polled
        && let Ok(ready) = polled.readable().await
    {
        return ready;
    }
    std::future::pending().await
}

fn follow_cpus(clock: &mut CpuClock, socket: &Announcements) -> std::io::Result<()> {
    // First: a word that comes after the list was read wakes us once more.
    let spoke = socket.take();
    let online = cpus::online()?;
    match spoke {
        Some(cpus) if cpus.is_empty() => return Ok(()),
        Some(cpus) => cpus.into_iter().for_each(|cpu| clock.reopen(cpu)),
        // It is not known which CPUs changed, so all clocks are opened anew.
        None => online.iter().for_each(|cpu| clock.reopen(*cpu)),
    }
    clock.reconcile(&online)
}

fn deliver(record: &Record, executor: &Executor) {
    let id = CgroupId(record.cgroup);
    let Some((workload, _)) = executor.instances.owner_of(id) else {
        tracing::debug!(tid = record.tid, "a suspect that is none of ours");
        return;
    };
    let suspect = Suspect {
        thread: Thread {
            pid: record.tgid,
            tid: record.tid,
            start_ticks: record.start_ns / NANOS_PER_TICK,
        },
        command: process::command_of(&record.comm),
        cpu: Duration::from_nanos(record.cpu_ns),
        source: LoopSource::Ebpf,
        sleeps: Some(record.nvcsw),
    };
    // The thread is followed from here on: it may sleep before its turn comes.
    let followed = &executor.followed;
    followed.add(workload.clone(), suspect.thread, record.nvcsw);
    executor.send(Event::Workload(
        workload,
        WorkloadEvent::CpuSuspect { suspect },
    ));
}

/// Finds suspects without eBPF, for as long as the agent lives.
pub(crate) async fn poll(executor: Arc<Executor>) {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let streaks = Arc::new(Mutex::new(Streaks::default()));
    loop {
        tick.tick().await;
        let (executor, streaks) = (Arc::clone(&executor), Arc::clone(&streaks));
        let round = tokio::task::spawn_blocking(move || read_all(&executor, &mut streaks.lock()));
        if round.await.is_err() {
            return;
        }
    }
}

fn read_all(executor: &Executor, streaks: &mut Streaks) {
    streaks.begin_round();
    for (workload, cgroup, budget) in executor.watched_for_loops() {
        for tid in cgroup.threads().unwrap_or_default() {
            let Some(pid) = process::tgid_of(tid) else {
                continue;
            };
            let Some(now) = threads::counters_of(pid, tid) else {
                continue;
            };
            let thread = Thread {
                pid,
                tid,
                start_ticks: now.start_ticks,
            };
            let spun = streaks.observe(
                (&workload, thread),
                now.sleeps,
                now.user + now.system,
                budget,
            );
            if let Some(cpu) = spun {
                let suspect = Suspect {
                    thread,
                    command: threads::command(pid, tid).unwrap_or_default(),
                    cpu,
                    source: LoopSource::Proc,
                    sleeps: Some(now.sleeps),
                };
                let followed = &executor.followed;
                followed.add(workload.clone(), thread, now.sleeps);
                let workload = workload.clone();
                executor.send(Event::Workload(
                    workload,
                    WorkloadEvent::CpuSuspect { suspect },
                ));
            }
        }
    }
}
