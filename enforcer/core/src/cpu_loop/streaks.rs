//! Streaks of CPU time without a sleep, as the eBPF program counts them, for
//! hosts where it can't run: from what `/proc` says once a second.

use super::Thread;
use enforcer_model::ReplicaId;
use std::collections::HashMap;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Streak {
    sleeps: u64,
    /// The thread's CPU time when the streak began.
    began: Duration,
    reported: bool,
    round: u64,
}

/// The threads of the last round.
#[derive(Clone, Debug, Default)]
pub struct Streaks {
    by_thread: HashMap<(ReplicaId, Thread), Streak>,
    round: u64,
}

impl Streaks {
    /// Begins a round. Threads that the last round did not see are dropped.
    pub fn begin_round(&mut self) {
        let last = self.round;
        self.by_thread.retain(|_, streak| streak.round == last);
        self.round += 1;
    }

    /// Observes a workload's thread: its number of sleeps and its CPU time. Returns the CPU time
    /// without a sleep if this observation is the first to reach the budget.
    pub fn observe(
        &mut self,
        (workload, thread): (&ReplicaId, Thread),
        sleeps: u64,
        cpu: Duration,
        budget: Duration,
    ) -> Option<Duration> {
        let round = self.round;
        let fresh = Streak {
            sleeps,
            began: cpu,
            reported: false,
            round,
        };
        let watched = (workload.clone(), thread);
        let streak = self.by_thread.entry(watched).or_insert(fresh);
        streak.round = round;
        if streak.sleeps != sleeps {
            *streak = fresh;
        }
        let spun = cpu.saturating_sub(streak.began);
        if streak.reported || spun < budget {
            return None;
        }
        streak.reported = true;
        Some(spun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_is_reported_to_each_that_watches_the_thread() {
        let thread = Thread {
            pid: 1,
            tid: 2,
            start_ticks: 3,
        };
        let mut streaks = Streaks::default();
        let budget = Duration::from_secs(2);
        let mut observe = |watcher: &str, cpu| {
            let watcher = ReplicaId::parse(watcher).expect("a name");
            streaks.begin_round();
            let spun = streaks.observe((&watcher, thread), 1, Duration::from_secs(cpu), budget);
            spun.is_some()
        };
        assert!(!observe("by-name", 0));
        assert!(observe("by-name", 2));
        assert!(!observe("by-name", 3));
        // Another workload takes its place.
        assert!(!observe("proved", 4));
        assert!(observe("proved", 6));
        assert!(!observe("proved", 7));
    }

    #[test]
    fn a_streak_is_reported_once_and_ends_with_a_sleep() {
        let thread = Thread {
            pid: 1,
            tid: 2,
            start_ticks: 3,
        };
        let mut streaks = Streaks::default();
        let mut reported = Vec::new();
        let web = ReplicaId::parse("web").expect("a name");
        // Second by second: CPU time used so far, and sleeps.
        for (second, cpu, sleeps) in [
            (0, 7, 1),
            (1, 8, 1),
            (2, 9, 1),
            (3, 10, 1),
            (4, 11, 2),
            (5, 12, 2),
            (6, 13, 2),
        ] {
            streaks.begin_round();
            let budget = Duration::from_secs(2);
            let web = (&web, thread);
            if let Some(spun) = streaks.observe(web, sleeps, Duration::from_secs(cpu), budget) {
                reported.push((second, spun.as_secs()));
            }
        }
        assert_eq!(reported, [(2, 2), (6, 2)]);
        streaks.begin_round();
        streaks.begin_round();
        assert!(streaks.by_thread.is_empty(), "gone threads are forgotten");
    }
}
