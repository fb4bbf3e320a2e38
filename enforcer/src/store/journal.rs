//! The events that are not in the database yet, in files on tmpfs. An agent that dies loses no
//! event, although it never waits for a disk. The next agent reads them first.
//!
//! ```text
//! journal/FIRST.jsonl    one event a line, from this one on
//! ```

use enforcer_core::event::Seq;
use enforcer_model::Record;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is longer gets no more lines.
const SEGMENT: u64 = 256 * 1024;
/// The most segments of the journal. They bound what a database that cannot be written leaves
/// behind, at a few hundred bytes an event.
const MOST: usize = 64;

#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    current: Option<(File, u64)>,
    /// The first event of each file, oldest first.
    segments: VecDeque<Seq>,
}

impl Journal {
    /// Opens the folder; what an agent before this one has left in it comes along, in order.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Vec<Arc<Record>>)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            let first = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(first) = first {
                found.push(Seq(first));
            }
        }
        found.sort();
        let this = Self {
            folder: folder.to_owned(),
            current: None,
            segments: found.into(),
        };
        let mut left: Vec<Arc<Record>> = Vec::new();
        for segment in &this.segments {
            let bytes = fs::read(this.path(*segment)).unwrap_or_default();
            left.extend(decode(&bytes).into_iter().map(Arc::new));
        }
        Ok((this, left))
    }

    /// Writes what was decided at one moment.
    pub(crate) fn append(&mut self, batch: &[Arc<Record>]) -> io::Result<()> {
        let Some(first) = batch.first() else {
            return Ok(());
        };
        let mut text = Vec::new();
        for record in batch {
            serde_json::to_writer(&mut text, record)?;
            text.push(b'\n');
        }
        let (mut file, length) = match self.current.take() {
            Some((file, length)) if length < SEGMENT => (file, length),
            _ => {
                let mut options = File::options();
                options.append(true).create(true).mode(0o600);
                let file = options.open(self.path(first.seq))?;
                self.segments.push_back(first.seq);
                (file, 0)
            }
        };
        let outcome = file.write_all(&text);
        let written = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.current = Some((file, length.saturating_add(written)));
        outcome?;
        while self.segments.len() > MOST {
            if let Some(oldest) = self.segments.pop_front() {
                let _ = fs::remove_file(self.path(oldest));
            }
        }
        Ok(())
    }

    /// Removes the files of which every event is in the database. All events up to this one are
    /// there.
    pub(crate) fn committed(&mut self, last: Seq) {
        // A file ends where the next one begins.
        while let Some(next) = self.segments.get(1)
            && next.0 <= last.0 + 1
        {
            if let Some(oldest) = self.segments.pop_front() {
                let _ = fs::remove_file(self.path(oldest));
            }
        }
    }

    fn path(&self, first: Seq) -> PathBuf {
        self.folder.join(format!("{}.jsonl", first.0))
    }
}

/// Returns the records in the complete lines of a file.
pub(crate) fn decode(bytes: &[u8]) -> Vec<Record> {
    let text = String::from_utf8_lossy(bytes);
    // The last line of a dead agent may be cut. Its event was not reported yet.
    let lines = text.lines();
    let whole = lines.filter_map(|line| serde_json::from_str(line).ok());
    whole.collect()
}
