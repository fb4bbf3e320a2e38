//! The order of proofs and of starts that wait. A proof stops a thread now and then and keeps a CPU
//! busy with hashes, and a thousand starts at once would be a storm, so only a few of either run at
//! a time.

use crate::cpu_loop::Thread;
use crate::name::ReplicaId;
use crate::units::MonoTime;
use std::time::Duration;

/// The number of proofs that may be under way on the whole host.
pub(crate) const PROOFS_AT_ONCE: usize = 2;

/// The time between two proofs of a crowd, which run one at a time: a hundred threads that spin
/// would otherwise keep the agent busy for minutes.
pub(crate) const ONE_OF_A_CROWD: Duration = Duration::from_secs(60);
/// The number of suspects in one workload that make a crowd.
pub(crate) const CROWD: usize = 6;

/// A suspect that waits for its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) workload: ReplicaId,
    pub(crate) thread: Thread,
    /// No proof of this thread was tried yet.
    pub(crate) is_first: bool,
    /// The workload has a crowd of suspects, and no rung of its ladder waits for this one.
    pub(crate) crowded: bool,
    pub(crate) priority: u8,
    pub(crate) since: MonoTime,
}

/// A start that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) workload: ReplicaId,
    /// A person asked for the start, and waits.
    pub(crate) by_hand: bool,
    /// The start does not wait for what the workload needs.
    pub(crate) at_once: bool,
    pub(crate) priority: u8,
}

/// Returns the start whose turn it is: a start by hand first, then that of the most important
/// workload. Among equals chance decides, so that none is always the last.
pub(crate) fn next_start(queued: &[Queued], noise: u64) -> Option<&Queued> {
    let rank = |queued: &&Queued| (queued.by_hand, queued.priority);
    let best = queued.iter().map(|queued| rank(&queued)).max()?;
    let equals: Vec<&Queued> = queued
        .iter()
        .filter(|queued| rank(queued) == best)
        .collect();
    let chosen = usize::try_from(noise >> 32).unwrap_or(0) % equals.len();
    equals.get(chosen).copied()
}

/// Returns the next suspect: first one without any proof, so that a thread that is hot for ever
/// does not keep new ones waiting; then that of the most important workload; then the one that has
/// waited longest.
pub(crate) fn next(waiting: impl Iterator<Item = Waiting>) -> Option<Waiting> {
    waiting.min_by_key(|entry| {
        (
            entry.crowded,
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
    fn the_important_start_first_and_chance_decides_among_equals() {
        let entry = |name, by_hand, priority| Queued {
            workload: ReplicaId::parse(name).expect("a name"),
            by_hand,
            at_once: by_hand,
            priority,
        };
        let mut queue = vec![
            entry("a", false, 10),
            entry("b", false, 50),
            entry("c", false, 50),
            entry("d", true, 0),
        ];
        let mut order = String::new();
        for noise in [0, 1 << 32, 0, 0] {
            let chosen = next_start(&queue, noise).expect("one is left").clone();
            queue.retain(|entry| *entry != chosen);
            order.push_str(&chosen.workload.to_string());
        }
        assert_eq!(order, "dcba");
        assert_eq!(next_start(&[], 0), None);
    }

    #[test]
    fn the_important_and_the_patient_come_first() {
        let entry = |tid, is_first, priority, since| Waiting {
            workload: ReplicaId::parse("web").expect("a name"),
            thread: Thread {
                pid: 1,
                tid,
                start_ticks: 0,
            },
            is_first,
            crowded: tid == 5,
            priority,
            since: MonoTime(since),
        };
        let mut queue = vec![
            entry(1, true, 50, 3),
            entry(2, true, 90, 9),
            entry(3, true, 50, 1),
            entry(4, false, 99, 0),
            entry(5, true, 99, 0),
        ];
        let mut order = Vec::new();
        while let Some(found) = next(queue.iter().cloned()) {
            queue.retain(|entry| *entry != found);
            order.push(found.thread.tid);
        }
        assert_eq!(order, [2, 3, 1, 4, 5]);
    }
}
