//! The one thread that writes the history: group commits, retention, and the handling of a full
//! disk, a damaged file or a locked one.

use super::{Database, Record, StoreError, text_of};
use crate::report::error_chain;
use crate::store::history::Batch;
use enforcer_core::event::Seq;
use enforcer_core::units::MonoTime;
use enforcer_kernel::clock;
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::sync::Notify;

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// The pause between two searches for events that are too old.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Events that wait for a database that can't be written; older ones are given up.
pub(crate) const BACKLOG: usize = 100_000;
/// The most events of one transaction.
const GROUP: usize = 5_000;
/// A reader that holds a snapshot keeps the log from being taken over; beyond this the
/// writer waits for it, rather than fill the disk.
const WAL_MOST: u64 = 256 << 20;
/// The longest wait of an ending agent for the last transaction.
const CLOSING: Duration = Duration::from_secs(5);

/// A change of the database's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Events wait, or are given up.
    Failing(String),
    /// The database is written again. This many events were lost meanwhile.
    Resumed { lost: u64 },
}

/// The changes that were not taken yet.
#[derive(Debug, Default)]
struct Troubles {
    waiting: Mutex<VecDeque<Trouble>>,
    added: Notify,
}

impl Troubles {
    fn add(&self, trouble: Trouble) {
        self.waiting.lock().push_back(trouble);
        self.added.notify_one();
    }
}

enum Work {
    Append(Batch),
    /// Write everything before this, and then answer.
    Close(Sender<()>),
}

#[derive(Debug)]
pub(crate) struct Writer {
    work: Sender<Work>,
    troubles: Arc<Troubles>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Close(_) => "Close",
        })
    }
}

impl Writer {
    pub(crate) fn append(&self, batch: Batch) {
        let _ = self.work.send(Work::Append(batch));
    }

    /// Takes the oldest change that was not taken yet.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.troubles.waiting.lock().pop_front()
    }

    /// Waits for the next change, and takes it.
    pub(crate) async fn next_trouble(&self) -> Trouble {
        loop {
            if let Some(trouble) = self.trouble() {
                return trouble;
            }
            self.troubles.added.notified().await;
        }
    }

    pub(crate) fn close(&self) {
        let (done, closed) = channel();
        if self.work.send(Work::Close(done)).is_ok() {
            let _ = closed.recv_timeout(CLOSING);
        }
    }
}

impl Database {
    /// Begins to write: first the events that were left, then the new ones. `committed` gets the
    /// last event that is on disk.
    pub(crate) fn write(
        &self,
        left: Vec<Arc<Record>>,
        committed: impl Fn(Seq) + Send + 'static,
    ) -> Writer {
        let (work, waiting) = channel();
        let troubles = Arc::<Troubles>::default();
        let mut thread = Thread {
            database: self.clone(),
            connection: None,
            backlog: left.into(),
            given_up: None,
            aside: None,
            retry: None,
            troubles: Arc::clone(&troubles),
            committed: Box::new(committed),
        };
        let spawned = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || thread.run(&waiting));
        if let Err(error) = spawned {
            troubles.add(Trouble::Failing(format!("no thread for it: {error}")));
        }
        Writer { work, troubles }
    }
}

struct Thread {
    database: Database,
    connection: Option<Connection>,
    backlog: VecDeque<Arc<Record>>,
    /// The first and the last event that there was no room for.
    given_up: Option<(Seq, Seq, u64)>,
    /// The words for a gap: the path under which the file with the earlier events was set aside.
    aside: Option<String>,
    /// The time of the next try after a failure.
    retry: Option<MonoTime>,
    troubles: Arc<Troubles>,
    committed: Box<dyn Fn(Seq) + Send>,
}

impl Thread {
    fn run(&mut self, waiting: &Receiver<Work>) {
        let mut pruned = clock::now();
        // Events are removed by age only later: an agent that fails again and again must not do
        // that at each start.
        self.prune_if_possible(false);
        loop {
            // The events that were left are written first.
            let mut closing = None;
            if self.backlog.is_empty() || self.retry.is_some() {
                let patience = self.retry.map_or(PRUNE_EVERY, |at| at.since(clock::now()));
                match waiting.recv_timeout(patience) {
                    Ok(work) => closing = self.take(work),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            // Whatever has come meanwhile goes into the same transaction.
            while closing.is_none()
                && self.backlog.len() < GROUP
                && let Ok(work) = waiting.try_recv()
            {
                closing = self.take(work);
            }
            let due = self.retry.is_none_or(|at| at <= clock::now());
            if due || closing.is_some() {
                self.flush();
            }
            if clock::now().since(pruned) >= PRUNE_EVERY {
                pruned = clock::now();
                self.prune_if_possible(true);
            }
            if let Some(done) = closing {
                let _ = done.send(());
            }
        }
    }

    fn take(&mut self, work: Work) -> Option<Sender<()>> {
        match work {
            Work::Append(batch) => {
                self.backlog.extend(batch.iter().cloned());
                while self.backlog.len() > BACKLOG
                    && let Some(oldest) = self.backlog.pop_front()
                {
                    let (first, _, lost) = self.given_up.unwrap_or((oldest.seq, oldest.seq, 0));
                    self.given_up = Some((first, oldest.seq, lost + 1));
                }
                None
            }
            Work::Close(done) => Some(done),
        }
    }

    fn flush(&mut self) {
        if self.backlog.is_empty() {
            self.retry = None;
        }
        while !self.backlog.is_empty() {
            match self.commit() {
                Ok(last) => {
                    (self.committed)(last);
                    if self.retry.take().is_some() {
                        let lost = self.given_up.take().map_or(0, |(_, _, lost)| lost);
                        self.troubles.add(Trouble::Resumed { lost });
                    }
                }
                Err(error) => {
                    self.fail(error);
                    return;
                }
            }
        }
    }

    /// Writes one group of events in one transaction.
    fn commit(&mut self) -> Result<Seq, StoreError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.writable()?,
        };
        if self.database.damaged.swap(false, Ordering::Relaxed) {
            return Err(StoreError::Damaged(self.database.path.clone()));
        }
        self.database.hold_wal(&connection)?;
        let group: Vec<Arc<Record>> = self.backlog.iter().take(GROUP).cloned().collect();
        let given_up = self.given_up.map(|(first, last, _)| {
            let why = "the database could not be written";
            (first, last, why.to_owned())
        });
        // The events before this are in the other file.
        let before = group
            .first()
            .map_or(0, |record| record.seq.0.saturating_sub(1));
        let aside = self.aside.clone().filter(|_| before > 0);
        let aside = aside.map(|why| (Seq(1), Seq(before), why));
        let gaps: Vec<_> = aside.into_iter().chain(given_up).collect();
        insert(&connection, &group, &gaps).map_err(self.database.failed())?;
        self.aside = None;
        self.connection = Some(connection);
        self.backlog.drain(..group.len());
        Ok(group.last().map_or(Seq(0), |record| record.seq))
    }

    fn fail(&mut self, error: StoreError) {
        // The file is opened anew: its fault may be mended by then.
        self.connection = None;
        let mut why = error_chain(&error);
        if error.is_damage() {
            match self.database.set_aside() {
                Ok(aside) => {
                    let reported = format!("set aside as {}", aside.display());
                    why = format!("{why}; {reported}");
                    self.aside.get_or_insert(reported);
                }
                Err(error) => why = format!("{why}; and it can't be set aside: {error}"),
            }
        }
        // The error may differ at each try. The failure is reported once.
        if self.retry.is_none() {
            self.troubles.add(Trouble::Failing(why));
        }
        self.retry = Some(clock::now().after(RETRY));
    }

    fn prune_if_possible(&mut self, by_age: bool) {
        if self.connection.is_none() {
            self.connection = self.database.writable().ok();
        }
        let Some(connection) = &self.connection else {
            return;
        };
        let aged = match by_age {
            true => self.database.prune_by_age(connection),
            false => Ok(()),
        };
        if let Err(error) = aged.and_then(|()| self.database.prune(connection)) {
            let error = self.database.failed()(error);
            tracing::debug!("the history was not pruned: {}", error_chain(&error));
            if error.is_damage() {
                self.fail(error);
            }
        }
    }
}

fn insert(
    connection: &Connection,
    group: &[Arc<Record>],
    gaps: &[(Seq, Seq, String)],
) -> rusqlite::Result<()> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let transaction = connection.unchecked_transaction()?;
    for (first, last, why) in gaps {
        transaction.execute(
            "INSERT INTO gaps (first_seq, last_seq, why) VALUES (?, ?, ?)",
            params![number(first.0), number(last.0), why],
        )?;
    }
    {
        // Events that a dead agent has committed may still be in its journal.
        let mut statement = transaction.prepare(
            "INSERT OR IGNORE INTO events \
             (seq, time, boot_id, workload, instance, kind, reason, caused_by, details) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        for record in group {
            let details = serde_json::to_string(&record.detail).unwrap_or_default();
            statement.execute(params![
                number(record.seq.0),
                text_of(record.time),
                &*record.boot_id,
                record.workload.as_ref().map(ToString::to_string),
                record.instance.map(|instance| number(instance.0)),
                record.detail.kind(),
                record.reason.map(|reason| reason.to_string()),
                record.caused_by.map(|seq| number(seq.0)),
                details,
            ])?;
        }
    }
    transaction.commit()
}

impl Database {
    /// Takes over a write-ahead log that is too large. SQLite does that itself, unless a reader
    /// holds the log; then this is an error.
    fn hold_wal(&self, connection: &Connection) -> Result<(), StoreError> {
        let wal = PathBuf::from(format!("{}-wal", self.path.display()));
        if fs::metadata(&wal).map_or(0, |found| found.len()) <= WAL_MOST {
            return Ok(());
        }
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy = connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0));
        match busy.map_err(self.failed())? {
            0 => Ok(()),
            _ => Err(StoreError::Held { path: wal }),
        }
    }

    /// Drops what is too old.
    pub(super) fn prune_by_age(&self, connection: &Connection) -> rusqlite::Result<()> {
        let oldest = clock::wall_now() - self.retention.age;
        // A tenth at a time: a clock that is wrong for a moment must not cost everything.
        connection.execute(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE time < ? ORDER BY seq \
             LIMIT max(1, (SELECT count(*) FROM events) / 10))",
            [text_of(oldest)],
        )?;
        Ok(())
    }

    /// Drops what is too much, and gives back what was dropped.
    fn prune(&self, connection: &Connection) -> rusqlite::Result<()> {
        let size = |connection: &Connection| -> rusqlite::Result<u64> {
            let read = |pragma: &str| {
                connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0))
            };
            let used = read("page_count")? - read("freelist_count")?;
            Ok(u64::try_from(used * read("page_size")?).unwrap_or(0))
        };
        // A tenth at a time: each round is short, and the last one takes little too much.
        while size(connection)? > self.retention.size {
            let sql = "DELETE FROM events WHERE seq <= (SELECT min(seq) + (max(seq) - min(seq)) / 10 FROM events)";
            if connection.execute(sql, [])? == 0 {
                break;
            }
        }
        // A row for each page that it gives back.
        let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }

    /// Renames a damaged file, so that it is kept beside a new one.
    fn set_aside(&self) -> std::io::Result<PathBuf> {
        let stamp = clock::wall_now().as_second();
        // Never over one that is there: that may be the real history.
        let numbered = |number: u32| {
            self.path
                .with_extension(format!("damaged-{stamp}-{number}"))
        };
        let free = (1..).map(numbered).find(|path| !path.exists());
        let aside = free.unwrap_or_else(|| numbered(0));
        fs::rename(&self.path, &aside)?;
        self.damaged.store(false, Ordering::Relaxed);
        // The write-ahead log may have more than the file.
        let log = |path: &Path| format!("{}-wal", path.display());
        let _ = fs::rename(log(&self.path), log(&aside));
        let _ = fs::remove_file(format!("{}-shm", self.path.display()));
        Ok(aside)
    }
}
