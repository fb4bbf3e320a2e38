//! The events: the last ones in memory, all of them in the database, and those that are not there
//! yet in the journal. No decision waits for any of these.

use super::database::{BACKLOG, Database, Writer};
use super::journal::Journal;
use super::query::Query;
use enforcer_core::event::{Seq, Transition};
use enforcer_model::Record;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;

/// Enough for a bad afternoon, at a few hundred bytes each.
const KEPT: usize = 4096;
/// The most events of one answer. A client that wants more asks by time.
const MOST: usize = 20_000;
/// The most decisions by which a follower may lag behind. One that lags further misses some events,
/// and gets a notice.
const LAG: usize = 1024;

/// The events of one decision.
pub(crate) type Batch = Arc<Vec<Arc<Record>>>;

#[derive(Debug)]
pub(crate) struct History {
    boot_id: Arc<str>,
    kept: Mutex<VecDeque<Arc<Record>>>,
    journal: Option<Arc<Mutex<Journal>>>,
    /// The last event up to which all are in the database.
    committed: Arc<AtomicU64>,
    database: Database,
    writer: Writer,
    followers: broadcast::Sender<Batch>,
}

impl History {
    /// Takes what an agent before this one has left in the journal.
    pub(crate) fn new(
        boot_id: &str,
        journal: Option<(Journal, Vec<Arc<Record>>)>,
        database: Database,
    ) -> Self {
        let (journal, left) = match journal {
            Some((journal, left)) => (Some(Arc::new(Mutex::new(journal))), left),
            None => (None, Vec::new()),
        };
        let written = journal.clone();
        let committed = Arc::new(AtomicU64::new(database.last_committed()));
        let reported = Arc::clone(&committed);
        let writer = database.write(left.clone(), move |seq| {
            reported.store(seq.0, Ordering::Relaxed);
            if let Some(journal) = &written {
                journal.lock().committed(seq);
            }
        });
        Self {
            boot_id: boot_id.into(),
            kept: Mutex::new(left.into()),
            journal,
            committed,
            database,
            writer,
            followers: broadcast::channel(LAG).0,
        }
    }

    /// Waits for the next change of the database's state, and takes it.
    pub(crate) async fn trouble(&self) -> super::database::Trouble {
        self.writer.next_trouble().await
    }

    /// Returns the records of a decision.
    pub(crate) fn records_of(
        &self,
        transitions: Vec<Transition>,
        time_of: impl Fn(&Transition) -> jiff::Timestamp,
    ) -> Vec<Arc<Record>> {
        let records = transitions.into_iter().map(|transition| {
            let time = time_of(&transition);
            Arc::new(record_of(transition, time, &self.boot_id))
        });
        records.collect()
    }

    pub(crate) fn append(&self, batch: Vec<Arc<Record>>) {
        if batch.is_empty() {
            return;
        }
        if let Some(journal) = &self.journal
            && let Err(error) = journal.lock().append(&batch)
        {
            tracing::error!(
                "failed to write the journal: {error}; if the agent dies now, its last events are not in the history"
            );
        }
        let batch = Arc::new(batch);
        self.writer.append(Arc::clone(&batch));
        let mut kept = self.kept.lock();
        kept.extend(batch.iter().cloned());
        // Events that the database lacks are nowhere else.
        let committed = Seq(self.committed.load(Ordering::Relaxed));
        while kept.len() > KEPT
            && let Some(oldest) = kept.front()
            && (oldest.seq <= committed || kept.len() > BACKLOG)
        {
            kept.pop_front();
        }
        // Under the lock, so that a follower's first look and its first batch meet.
        let _ = self.followers.send(batch);
    }

    /// Returns the last matching events, at most [`MOST`], oldest first. It reads the database, so
    /// it may take a while.
    pub(crate) fn find(&self, query: &Query) -> Vec<Arc<Record>> {
        let mut query = query.clone();
        query.last = Some(query.last.unwrap_or(MOST).min(MOST));
        let query = &query;
        let recent = self.recent();
        let before = recent.first().map(|record| record.seq);
        // Events in memory are not searched in the database: they may not be there yet.
        let mut found = match before {
            Some(before) if query.after.is_some_and(|after| after + 1 >= before.0) => Vec::new(),
            _ => self.database.find(query, before),
        };
        found.extend(recent.into_iter().filter(|record| query.takes(record)));
        let surplus = query
            .last
            .map_or(0, |last| found.len().saturating_sub(last));
        found.drain(..surplus);
        found
    }

    /// Returns the first `query.first` matching events after `query.after`, and none only if there
    /// are no more; `None` if that cannot be said now.
    pub(crate) fn page(&self, query: &Query) -> Option<Vec<Arc<Record>>> {
        let most = query.first.unwrap_or(MOST);
        let recent = self.recent();
        let before = recent.first().map(|record| record.seq);
        let mut query = query.clone();
        let mut found = Vec::new();
        while before.is_none_or(|before| query.after.unwrap_or(0) + 1 < before.0) {
            let selected = self.database.select(&query, before)?;
            found = selected.records;
            if selected.rows < most {
                break;
            }
            if !found.is_empty() {
                return Some(found);
            }
            // A whole page that another version wrote otherwise.
            query.after = selected.last.map(|seq| seq.0);
        }
        found.extend(recent.into_iter().filter(|record| query.takes(record)));
        found.truncate(most);
        Some(found)
    }

    /// Returns the matching events in memory.
    pub(crate) fn remembered(&self, query: &Query) -> Vec<Arc<Record>> {
        let recent = self.recent().into_iter();
        recent.filter(|record| query.takes(record)).collect()
    }

    pub(crate) fn of_this_boot(&self, query: &Query) -> Vec<Arc<Record>> {
        let found = self.find(query).into_iter();
        found
            .filter(|record| record.boot_id == self.boot_id)
            .collect()
    }

    /// Returns the event with this number.
    pub(crate) fn get(&self, seq: Seq) -> Option<Arc<Record>> {
        let query = Query {
            after: Some(seq.0.checked_sub(1)?),
            ..Query::default()
        };
        let recent = self.recent();
        let known = recent.iter().find(|record| record.seq == seq).cloned();
        known.or_else(|| {
            let found = self.database.find(&query, Some(Seq(seq.0 + 1)));
            found.into_iter().next()
        })
    }

    fn recent(&self) -> Vec<Arc<Record>> {
        self.kept.lock().iter().cloned().collect()
    }

    /// Returns the events in memory, and a receiver of all that come after them.
    pub(crate) fn follow(&self) -> (Vec<Arc<Record>>, broadcast::Receiver<Batch>) {
        let kept = self.kept.lock();
        (kept.iter().cloned().collect(), self.followers.subscribe())
    }

    /// Returns the last event that survives a power cut, with all before it.
    pub(crate) fn durable(&self) -> Seq {
        Seq(self.committed.load(Ordering::Relaxed))
    }

    /// Waits until everything is in the database, if it can be written at all.
    pub(crate) fn close(&self) {
        self.writer.close();
    }
}

/// Returns a decision as the history keeps it.
fn record_of(transition: Transition, time: jiff::Timestamp, boot_id: &Arc<str>) -> Record {
    Record {
        seq: transition.seq,
        time,
        boot_id: Arc::clone(boot_id),
        workload: transition.workload,
        instance: transition.instance,
        reason: transition.reason,
        caused_by: transition.caused_by,
        detail: transition.detail,
    }
}
