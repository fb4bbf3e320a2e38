//! Which of many waiting things comes next: proofs, of which each stops a thread
//! now and then and keeps a CPU busy hashing; and starts, of which a thousand at
//! once would be a storm. Only a few of either run at a time.

use crate::cpu_loop::Thread;
use crate::name::WorkloadName;
use crate::units::MonoTime;
use std::time::Duration;

/// Proofs at a time, on the whole host.
pub(crate) const PROOFS_AT_ONCE: usize = 2;

/// One of a crowd is looked into this often, and none beside it: a hundred threads that
/// spin would otherwise keep the agent busy for minutes.
pub(crate) const ONE_OF_A_CROWD: Duration = Duration::from_secs(60);
/// So many suspects in one workload are a crowd.
pub(crate) const CROWD: usize = 6;

/// A suspect that waits for its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) workload: WorkloadName,
    pub(crate) thread: Thread,
    /// Nothing is known of it yet.
    pub(crate) is_first: bool,
    /// Its workload has many like it, and nothing waits for this one.
    pub(crate) crowded: bool,
    pub(crate) priority: u8,
    pub(crate) since: MonoTime,
}

/// A start that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) workload: WorkloadName,
    /// A person waits for it.
    pub(crate) by_hand: bool,
    /// It doesn't wait for what it needs.
    pub(crate) at_once: bool,
    pub(crate) priority: u8,
}

/// Whose turn it is: those asked for by hand first, then the most important; among
/// equals, chance decides, so that none is always the last.
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

/// Those of which nothing is known first, so that what is hot for good doesn't keep
/// new ones waiting; then the most important workload's; then who waits longest.
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
            workload: WorkloadName::parse(name).expect("a name"),
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
            order.push_str(chosen.workload.as_str());
        }
        assert_eq!(order, "dcba");
        assert_eq!(next_start(&[], 0), None);
    }

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
