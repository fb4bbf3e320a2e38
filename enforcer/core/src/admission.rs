//! Which of many waiting things comes next. Today these are proofs: each stops a
//! thread now and then and keeps a CPU busy hashing, so only a few run at once.

use crate::cpu_loop::Thread;
use crate::name::WorkloadName;
use crate::units::MonoTime;

/// Proofs at a time, on the whole host.
pub(crate) const PROOFS_AT_ONCE: usize = 2;

/// A suspect that waits for its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) workload: WorkloadName,
    pub(crate) thread: Thread,
    /// Nothing is known of it yet.
    pub(crate) is_first: bool,
    pub(crate) priority: u8,
    pub(crate) since: MonoTime,
}

/// Those of which nothing is known first, so that what is hot for good doesn't keep
/// new ones waiting; then the most important workload's; then who waits longest.
pub(crate) fn next(waiting: impl Iterator<Item = Waiting>) -> Option<Waiting> {
    waiting.min_by_key(|entry| {
        (
            !entry.is_first,
            u8::MAX - entry.priority,
            entry.since,
            entry.thread,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_important_and_the_patient_come_first() {
        let entry = |tid, is_first, priority, since| Waiting {
            workload: WorkloadName::parse("web").expect("a name"),
            thread: Thread {
                pid: 1,
                tid,
                start_ticks: 0,
            },
            is_first,
            priority,
            since: MonoTime(since),
        };
        let mut queue = vec![
            entry(1, true, 50, 3),
            entry(2, true, 90, 9),
            entry(3, true, 50, 1),
            entry(4, false, 99, 0),
        ];
        let mut order = Vec::new();
        while let Some(found) = next(queue.iter().cloned()) {
            queue.retain(|entry| *entry != found);
            order.push(found.thread.tid);
        }
        assert_eq!(order, [2, 3, 1, 4]);
    }
}
