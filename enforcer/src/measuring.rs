//! The history by itself, for `cargo xtask bench history`.

use crate::store::database::{Database, Retention};
use crate::store::history::History;
use crate::store::journal::Journal;
use enforcer_core::ReplicaId;
use enforcer_core::event::{Cause, Detail, Exit, InstanceId, Seq, Transition};
use enforcer_kernel::clock;
use std::path::Path;
use std::time::Duration;

/// A history in a folder of its own, and how many events it was given.
pub struct Measured {
    history: History,
    given: u64,
}

impl Measured {
    /// # Errors
    /// In words, if the folder can't be used.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let retention = Retention {
            age: Duration::from_secs(24 * 60 * 60),
            size: 1 << 30,
        };
        let database =
            Database::at(&folder.join("state"), retention).map_err(|error| error.to_string())?;
        let journal = Journal::open(&folder.join("journal")).map_err(|error| error.to_string())?;
        let history = History::new(&clock::boot_id(), Some(journal), database);
        Ok(Self { history, given: 0 })
    }

    /// Appends one event, as a workload's exit makes it.
    pub fn append(&mut self) {
        self.given += 1;
        let transition = Transition {
            seq: Seq(self.given),
            workload: ReplicaId::parse("web"),
            instance: Some(InstanceId(self.given)),
            reason: Some(Cause::Exit),
            caused_by: Some(Seq(self.given - 1)),
            detail: Detail::Exit(Exit {
                code: Some(3),
                signal: None,
                oom_killed: false,
            }),
        };
        let now = clock::wall_now();
        let records = self.history.records_of(vec![transition], |_| now);
        self.history.append(records);
    }

    /// Returns whether a power cut would lose none of them.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.history.durable() == Seq(self.given)
    }
}
