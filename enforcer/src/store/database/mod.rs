//! The history on disk. A thread of its own writes it to SQLite, many events in one transaction.
//! Nothing waits for it. While it cannot be written, the events wait in the journal, and the agent
//! reports that.
//!
//! With `synchronous=FULL`, committed events survive a power cut. In WAL mode, readers and the
//! writer do not block each other.

mod writing;

pub(crate) use writing::{BACKLOG, Trouble, Writer};

use super::query::Query;
use enforcer_core::event::{Cause, Detail, InstanceId, Seq};
use enforcer_model::{Record, ReplicaId};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};
use serde_json::value::RawValue;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The most memory for pages of the database, in KiB, of each connection. The default is 2 MiB, and the
/// system keeps the file's pages anyway.
const CACHE_KIB: i32 = 256;
/// `PRAGMA user_version`: raised with every change that an older agent would misread.
const SCHEMA: i64 = 1;
/// The longest wait of a connection for another one's short lock.
const BUSY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(
        "use {}: it was written by a newer agent (schema {found}, this one knows {SCHEMA}); nothing was touched: \
         start that version again, or use another --state-dir", path.display()
    )]
    Newer { path: PathBuf, found: i64 },
    #[error("use {}", path.display())]
    Database {
        path: PathBuf,
        source: rusqlite::Error,
    },
    #[error("read {}: it is damaged", .0.display())]
    Damaged(PathBuf),
    #[error("write {}: another process reads it and does not end", path.display())]
    Held { path: PathBuf },
    #[error("make {}", path.display())]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl StoreError {
    /// Returns whether the file itself is damaged.
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Database { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            Self::Newer { .. } | Self::Held { .. } | Self::Folder { .. } => false,
        }
    }
}

/// The bounds of the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) age: Duration,
    /// Bytes.
    pub(crate) size: u64,
}

/// The database on disk.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    path: PathBuf,
    retention: Retention,
    /// A reader has found damage. The writer sets the file aside.
    damaged: Arc<AtomicBool>,
}

impl Database {
    /// Names the database in this folder, and refuses one of a newer agent. A folder that cannot be
    /// made stops no supervision.
    pub(crate) fn at(folder: &Path, retention: Retention) -> Result<Self, StoreError> {
        let this = Self {
            path: folder.join("history.db"),
            retention,
            damaged: Arc::default(),
        };
        if let Ok(connection) = this.reader()
            && let Ok(found) = version(&connection)
            && found > SCHEMA
        {
            return Err(StoreError::Newer {
                path: this.path,
                found,
            });
        }
        Ok(this)
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        |source| StoreError::Database {
            path: self.path.clone(),
            source,
        }
    }

    /// Opens it for writing, and makes it where there is none.
    fn writable(&self) -> Result<Connection, StoreError> {
        if let Some(folder) = self.path.parent() {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder);
            made.map_err(|source| StoreError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        // The history holds commands and their arguments. SQLite gives its other files the same
        // mode.
        let mut options = fs::File::options();
        let _ = options
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path);
        let connection = Connection::open_with_flags(&self.path, flags).map_err(self.failed())?;
        self.prepare(&connection).map_err(self.failed())?;
        Ok(connection)
    }

    fn prepare(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(BUSY)?;
        let new = version(connection)? == 0;
        if new {
            // This has an effect only while the file is empty.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS events (
                 seq       INTEGER PRIMARY KEY,
                 time      TEXT NOT NULL,
                 boot_id   TEXT NOT NULL,
                 workload  TEXT,
                 instance  INTEGER,
                 kind      TEXT NOT NULL,
                 reason    TEXT,
                 caused_by INTEGER,
                 details   TEXT NOT NULL
             ) STRICT;
             CREATE INDEX IF NOT EXISTS events_by_workload ON events (workload, seq);
             CREATE INDEX IF NOT EXISTS events_by_kind ON events (kind, seq);
             CREATE TABLE IF NOT EXISTS gaps (
                 first_seq INTEGER NOT NULL,
                 last_seq  INTEGER NOT NULL,
                 why       TEXT NOT NULL
             ) STRICT;",
        )?;
        if new {
            connection.pragma_update(None, "user_version", SCHEMA)?;
        }
        Ok(())
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(self.failed())?;
        connection.busy_timeout(BUSY).map_err(self.failed())?;
        let cached = connection.pragma_update(None, "cache_size", -CACHE_KIB);
        cached.map_err(self.failed())?;
        Ok(connection)
    }

    /// Returns the last event in the database; 0 if it cannot be read.
    pub(crate) fn last_committed(&self) -> u64 {
        let read = self.reader().and_then(|connection| {
            let sql = "SELECT coalesce(max(seq), 0) FROM events";
            let found = connection.query_row(sql, [], |row| row.get::<_, i64>(0));
            found.map_err(self.failed())
        });
        read.map_or(0, |seq| u64::try_from(seq).unwrap_or(0))
    }

    /// Returns the last numbers of an event and of an instance. If the file cannot be read now, it
    /// returns numbers that are certainly higher.
    pub(crate) fn last(&self) -> (u64, u64) {
        if !self.path.exists() {
            return (0, 0);
        }
        let read = self.reader().and_then(|connection| {
            let read = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
            let seq = read("SELECT coalesce(max(seq), 0) FROM events");
            let instance = read(
                "SELECT coalesce(max(instance), 0) FROM \
                 (SELECT instance FROM events WHERE kind = 'start' ORDER BY seq DESC LIMIT 100)",
            );
            let found = seq.and_then(|seq| Ok((seq, instance?)));
            found.map_err(self.failed())
        });
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        match read {
            Ok((seq, instance)) => (number(seq), number(instance)),
            Err(error) => {
                tracing::warn!("{}", crate::report::error_chain(&error));
                // A larger number would mean more than ten events a second since the epoch.
                let high = number(enforcer_kernel::clock::wall_now().as_second()) * 10;
                (high, high)
            }
        }
    }

    /// Returns the matching events before this one, oldest first; none if the database cannot be
    /// read.
    pub(crate) fn find(&self, query: &Query, before: Option<Seq>) -> Vec<Arc<Record>> {
        let selected = self.select(query, before);
        selected
            .map(|selected| selected.records)
            .unwrap_or_default()
    }

    /// Returns the matching events before this one; `None` if the database cannot be read.
    pub(crate) fn select(&self, query: &Query, before: Option<Seq>) -> Option<Selected> {
        if !self.path.exists() {
            return Some(Selected::default());
        }
        let inode = || fs::metadata(&self.path).map(|found| found.ino()).ok();
        let this_one = inode();
        let found = self
            .reader()
            .and_then(|connection| select(&connection, query, before).map_err(self.failed()));
        let reported = |error: &StoreError| {
            // Another file may have taken its place by now.
            if error.is_damage() && inode() == this_one {
                self.damaged.store(true, Ordering::Relaxed);
            }
            tracing::debug!("no history: {}", crate::report::error_chain(error));
        };
        found.inspect_err(reported).ok()
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The result of a search.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    pub(crate) records: Vec<Arc<Record>>,
    /// The number of rows, with those that this version cannot read.
    pub(crate) rows: usize,
    /// The last row's.
    pub(crate) last: Option<Seq>,
}

fn select(
    connection: &Connection,
    query: &Query,
    before: Option<Seq>,
) -> rusqlite::Result<Selected> {
    let mut sql =
        "SELECT seq, time, boot_id, workload, instance, kind, reason, caused_by, details \
                   FROM events WHERE 1"
            .to_owned();
    let mut values: Vec<Value> = Vec::new();
    let mut add = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(value);
        }
    };
    let number = |number: u64| Value::from(i64::try_from(number).unwrap_or(i64::MAX));
    match query.workload.as_deref() {
        // The replicas of a workload are between `web/` and `web0`, the next text after them. The name is
        // the first value, so `?1` means it.
        Some(name) if !name.contains('/') => add(
            " AND (workload = ?1 OR (workload >= ?1 || '/' AND workload < ?1 || '0'))",
            Some(Value::from(name.to_owned())),
        ),
        name => add(
            " AND workload = ?",
            name.map(str::to_owned).map(Value::from),
        ),
    }
    add(" AND kind = ?", query.kind.clone().map(Value::from));
    add(
        " AND time >= ?",
        query.since.map(|time| text_of(time).into()),
    );
    add(
        " AND time < ?",
        query.until.map(|time| text_of(time).into()),
    );
    add(" AND seq > ?", query.after.map(number));
    add(" AND seq < ?", before.map(|seq| number(seq.0)));
    // Without `first`, this selects the last ones, and then puts them in order.
    let (order, most) = match query.first {
        Some(first) => (" ORDER BY seq ASC LIMIT ?", Some(first)),
        None => (" ORDER BY seq DESC LIMIT ?", query.last),
    };
    sql.push_str(order);
    let most = most.map_or(-1, |most| i64::try_from(most).unwrap_or(-1));
    values.push(most.into());
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut found = Selected::default();
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        found.rows += 1;
        found.last = u64::try_from(seq).ok().map(Seq);
        found
            .records
            .extend(Stored::of(row)?.record().map(Arc::new));
    }
    if query.first.is_none() {
        found.records.reverse();
    }
    Ok(found)
}

/// Returns a text of constant width, so that texts sort like times.
fn text_of(time: jiff::Timestamp) -> String {
    format!("{time:.9}")
}

/// A row of the table `events`.
struct Stored {
    seq: i64,
    time: String,
    boot_id: String,
    workload: Option<String>,
    instance: Option<i64>,
    kind: String,
    reason: Option<String>,
    caused_by: Option<i64>,
    details: String,
}

impl Stored {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            time: row.get(1)?,
            boot_id: row.get(2)?,
            workload: row.get(3)?,
            instance: row.get(4)?,
            kind: row.get(5)?,
            reason: row.get(6)?,
            caused_by: row.get(7)?,
            details: row.get(8)?,
        })
    }

    /// Returns `None` for a row that another version wrote in a way that this one cannot read.
    fn record(self) -> Option<Record> {
        let number = |number: i64| u64::try_from(number).ok();
        let workload = match self.workload {
            Some(name) => Some(ReplicaId::parse(&name)?),
            None => None,
        };
        let reason = match self.reason {
            Some(cause) => Some(Cause::parse(&cause)?),
            None => None,
        };
        let details = RawValue::from_string(self.details).ok()?;
        Some(Record {
            seq: Seq(number(self.seq)?),
            time: self.time.parse().ok()?,
            boot_id: self.boot_id.into(),
            workload,
            instance: self.instance.and_then(number).map(InstanceId),
            reason,
            caused_by: self.caused_by.and_then(number).map(Seq),
            detail: Detail::read(&self.kind, details),
        })
    }
}

#[cfg(test)]
mod tests;
