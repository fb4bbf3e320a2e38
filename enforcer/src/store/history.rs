//! The last events of this agent, in memory, in the shape in which they are
//! told. What is older than the ring is gone with it.

use enforcer_core::event::{Cause, InstanceId, Seq, Transition};
use enforcer_core::{WorkloadName, event::Detail};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// Enough for a bad afternoon, at a few hundred bytes each.
const KEPT: usize = 4096;
/// A follower that lags behind by more misses some, and is told so.
const LAG: usize = 1024;

/// One event, as `events --json` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) seq: Seq,
    pub(crate) time: jiff::Timestamp,
    pub(crate) boot_id: Arc<str>,
    pub(crate) workload: Option<WorkloadName>,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) kind: &'static str,
    pub(crate) reason: Option<Cause>,
    pub(crate) caused_by: Option<Seq>,
    pub(crate) details: Detail,
}

/// What was decided at one moment.
pub(crate) type Batch = Arc<Vec<Arc<Record>>>;

#[derive(Debug)]
pub(crate) struct History {
    boot_id: Arc<str>,
    kept: Mutex<VecDeque<Arc<Record>>>,
    followers: broadcast::Sender<Batch>,
}

impl History {
    pub(crate) fn new(boot_id: &str) -> Self {
        Self {
            boot_id: boot_id.into(),
            kept: Mutex::default(),
            followers: broadcast::channel(LAG).0,
        }
    }

    pub(crate) fn append(
        &self,
        transitions: Vec<Transition>,
        time_of: impl Fn(&Transition) -> jiff::Timestamp,
    ) {
        if transitions.is_empty() {
            return;
        }
        let batch: Vec<Arc<Record>> = transitions
            .into_iter()
            .map(|transition| {
                Arc::new(Record {
                    time: time_of(&transition),
                    seq: transition.seq,
                    boot_id: Arc::clone(&self.boot_id),
                    workload: transition.workload,
                    instance: transition.instance,
                    kind: transition.detail.kind(),
                    reason: transition.reason,
                    caused_by: transition.caused_by,
                    details: transition.detail,
                })
            })
            .collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(batch.iter().cloned());
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        // Under the lock, so that a follower's first look and its first batch meet.
        let _ = self.followers.send(Arc::new(batch));
    }

    /// Everything kept, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Record>> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// What is kept, and everything that comes after it.
    pub(crate) fn follow(&self) -> (Vec<Arc<Record>>, broadcast::Receiver<Batch>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.followers.subscribe())
    }
}
