//! The position of each target in the history, kept over restarts in a file for each target, below
//! the state folder. A file that cannot be written costs a second delivery after the next start,
//! and no alert.

use enforcer_core::event::Seq;
use enforcer_kernel::replacement::{Survives, replace};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
struct Kept {
    schema: u32,
    delivered: Seq,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    file: PathBuf,
    delivered: Seq,
    /// A failure to keep the position was already reported.
    unkept: bool,
}

/// Returns the last event that any target has received. No number up to it may be given again.
pub(crate) fn last_delivered(folder: &Path) -> Seq {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let kept = files.filter_map(|file| {
        let text = fs::read(file.path()).ok()?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        Some(kept.delivered)
    });
    kept.max().unwrap_or_default()
}

impl Cursor {
    /// Reads the cursor of a target, whose name has the form of a workload's. If the file cannot be
    /// read, the cursor is at the beginning, and the error comes with it: delivery twice is better
    /// than never.
    pub(super) fn of(folder: &Path, name: &str) -> Result<Self, (Self, String)> {
        let file = folder.join(format!("{name}.json"));
        let place = file.display().to_string();
        let read = fs::read(&file);
        let at = |delivered: Seq| Self {
            file,
            delivered,
            unkept: false,
        };
        let read = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(at(Seq(0))),
            Err(error) => Err(error),
            Ok(text) => serde_json::from_slice::<Kept>(&text).map_err(io::Error::from),
        };
        match read {
            Ok(kept) => Ok(at(kept.delivered)),
            Err(error) => Err((at(Seq(0)), format!("failed to read {place}: {error}"))),
        }
    }

    pub(super) fn delivered(&self) -> Seq {
        self.delivered
    }

    /// Moves the position past this event. It is kept only if the event was for this target.
    pub(super) fn advance(&mut self, seq: Seq, keep: bool) {
        self.delivered = seq;
        if !keep {
            return;
        }
        match self.keep() {
            Ok(()) => self.unkept = false,
            Err(error) if !self.unkept => {
                self.unkept = true;
                let file = self.file.display();
                tracing::warn!(
                    "failed to write {file}: {error}; after a restart, alerts may be sent twice"
                );
            }
            Err(_) => {}
        }
    }

    fn keep(&self) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(folder)?;
        }
        let kept = Kept {
            schema: 1,
            delivered: self.delivered,
        };
        let text = serde_json::to_vec(&kept)?;
        replace(&self.file, &text, 0o600, Survives::PowerCut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_is_known_to_the_next() {
        let folder = std::env::temp_dir().join(format!("cursor-{}", std::process::id()));
        let of = |name: &str| Cursor::of(&folder, name).expect("a cursor");
        let mut cursor = of("pager");
        assert_eq!(cursor.delivered(), Seq(0));
        cursor.advance(Seq(7), true);
        cursor.advance(Seq(9), false);
        assert_eq!(cursor.delivered(), Seq(9));
        assert_eq!(of("pager").delivered(), Seq(7));
        fs::write(folder.join("pager.json"), "{").expect("a file");
        let (anew, why) = Cursor::of(&folder, "pager").expect_err("damaged");
        assert_eq!(anew.delivered(), Seq(0));
        assert!(why.contains("pager.json: EOF"), "{why}");
        fs::remove_dir_all(folder).expect("a folder");
    }
}
