//! Counts the output that was lost, and decides when to report it: the first loss of a workload
//! at once, further ones once a minute.

use super::protocol::Reply;
use enforcer_core::ReplicaId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const REPORT_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Bytes that were not reported yet, and why the last of them were lost.
    unreported: BTreeMap<ReplicaId, (u64, String)>,
    /// The last report of each workload.
    reported: BTreeMap<ReplicaId, Instant>,
}

impl Losses {
    pub(super) fn add(&mut self, workload: ReplicaId, bytes: u64, why: String) {
        let entry = self.unreported.entry(workload).or_default();
        entry.0 = entry.0.saturating_add(bytes);
        entry.1 = why;
    }

    fn due_at(&self, now: Instant, workload: &ReplicaId) -> Instant {
        let last = self.reported.get(workload);
        last.map_or(now, |last| *last + REPORT_EVERY)
    }

    /// Returns the time of the next report; `None` if nothing was lost.
    pub(super) fn next_report(&self, now: Instant) -> Option<Instant> {
        let unreported = self.unreported.keys();
        unreported.map(|workload| self.due_at(now, workload)).min()
    }

    /// Takes the reports that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Reply> {
        let workloads = self.unreported.keys();
        let due = workloads.filter(|workload| self.due_at(now, workload) <= now);
        let due: Vec<ReplicaId> = due.cloned().collect();
        self.reported
            .retain(|_, last| now.duration_since(*last) < REPORT_EVERY);
        let reported = due.into_iter().filter_map(|workload| {
            let (bytes, why) = self.unreported.remove(&workload)?;
            self.reported.insert(workload.clone(), now);
            Some(Reply::Lost {
                workload,
                bytes,
                why,
            })
        });
        reported.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_is_reported_at_once_and_the_others_together() {
        let web = || ReplicaId::parse("web").expect("a name");
        let bytes = |reported: Vec<Reply>| -> Vec<u64> {
            let bytes = reported.into_iter().map(|reply| match reply {
                Reply::Lost { bytes, .. } => bytes,
                other => panic!("{other:?}"),
            });
            bytes.collect()
        };
        let mut losses = Losses::default();
        let begun = enforcer_kernel::clock::awake_now();
        assert_eq!(losses.next_report(begun), None);
        losses.add(web(), 3, "full".to_owned());
        assert_eq!(losses.next_report(begun), Some(begun));
        assert_eq!(bytes(losses.due(begun)), [3]);
        let later = begun + Duration::from_secs(59);
        losses.add(web(), 4, "full".to_owned());
        losses.add(web(), 5, "full".to_owned());
        assert_eq!(bytes(losses.due(later)), [0; 0]);
        let due = begun + REPORT_EVERY;
        assert_eq!(losses.next_report(later), Some(due));
        assert_eq!(bytes(losses.due(due)), [9]);
        assert_eq!(losses.next_report(due), None);
    }
}
