//! The threads that were examined and have not slept since: each is asked whether it has.

use enforcer_core::ReplicaId;
use enforcer_core::cpu_loop::Thread;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use tokio::sync::Notify;

/// The most threads of one check: with a hundred spinning threads, each is checked every few
/// seconds.
const A_ROUND: usize = 16;

/// The examined threads, with the number of their sleeps at that time.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    threads: Mutex<Threads>,
    /// A thread was added.
    added: Notify,
}

#[derive(Debug, Default)]
struct Threads {
    known: BTreeMap<Thread, (ReplicaId, u64)>,
    /// The last thread that was checked. The next round begins after it.
    checked: Option<Thread>,
}

impl Followed {
    /// Follows a thread.
    pub(crate) fn add(&self, workload: ReplicaId, thread: Thread, sleeps: u64) {
        self.threads.lock().known.insert(thread, (workload, sleeps));
        self.added.notify_one();
    }

    /// Stops following a thread: the agent's own stops would look like sleeps.
    pub(crate) fn pause(&self, thread: Thread) {
        self.threads.lock().known.remove(&thread);
    }

    /// Waits until there is a thread to check.
    pub(crate) async fn any(&self) {
        while self.threads.lock().known.is_empty() {
            self.added.notified().await;
        }
    }

    /// Checks the next few threads, and removes those that have slept or are gone.
    pub(crate) fn ended(&self) -> Vec<(ReplicaId, Thread)> {
        let mut threads = self.threads.lock();
        let after = threads.checked.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = threads.known.range((after, Bound::Unbounded));
        let round: Vec<Thread> = rest
            .chain(&threads.known)
            .map(|(thread, _)| *thread)
            .take(A_ROUND.min(threads.known.len()))
            .collect();
        threads.checked = round.last().copied();
        let mut ended = Vec::new();
        for thread in round {
            let spins = threads.known.get(&thread).is_some_and(|(_, sleeps)| {
                enforcer_kernel::threads::counters(thread).is_some_and(|now| now.sleeps == *sleeps)
            });
            if !spins && let Some((workload, _)) = threads.known.remove(&thread) {
                ended.push((workload, thread));
            }
        }
        ended
    }
}
