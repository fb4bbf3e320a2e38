//! The manifests that an earlier version did not read: `*.yml`, beside `*.yaml`. Such a file may be
//! an old manifest that an operator has put away under that name. After an upgrade it starts nothing
//! until an operator runs `apply`.

use super::files;
use enforcer_kernel::replacement::{Survives, replace};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The names that are not read yet, on disk and here.
#[derive(Debug)]
pub(crate) struct Dormant {
    record: PathBuf,
    names: Mutex<BTreeSet<String>>,
}

impl Dormant {
    /// Returns the names that were found just now as well. Called before there is a history
    /// of this agent's own: one that is there is of an agent before.
    pub(crate) fn open(state_dir: &Path, manifest: &Path) -> (Self, BTreeSet<String>) {
        let record = state_dir.join("unread-manifests.json");
        let is_first = matches!(record.try_exists(), Ok(false));
        let mut found = BTreeSet::new();
        if is_first && state_dir.join("history.db").exists() {
            found = files::names_that_end_in(manifest, "yml");
        }
        // A record that cannot be read disables nothing.
        let known = std::fs::read(&record).unwrap_or_default();
        let names = match is_first {
            true => found.clone(),
            false => serde_json::from_slice(&known).unwrap_or_default(),
        };
        let this = Self {
            record,
            names: Mutex::new(names),
        };
        if is_first {
            this.write();
        }
        (this, found)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock()
    }

    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.lock().clone()
    }

    /// From now on all manifests are read.
    pub(crate) fn wake(&self) {
        let had_some = !std::mem::take(&mut *self.lock()).is_empty();
        if had_some {
            self.write();
        }
    }

    fn write(&self) {
        let text = serde_json::to_vec(&*self.lock()).unwrap_or_default();
        let folder = self.record.parent().unwrap_or(Path::new("/"));
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| replace(&self.record, &text, 0o600, Survives::PowerCut));
        if let Err(error) = written {
            tracing::warn!("failed to write {}: {error}", self.record.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lay_there_at_the_upgrade_waits_until_it_is_asked_for() {
        let place = std::env::temp_dir().join(format!("enforcer-dormant-{}", std::process::id()));
        let (state, folder) = (place.join("state"), place.join("workloads.d"));
        for path in [&state, &folder] {
            std::fs::create_dir_all(path).expect("a folder");
        }
        for name in ["web.yaml", "old.yml", ".hidden.yml"] {
            std::fs::write(folder.join(name), "").expect("a file");
        }
        std::fs::write(state.join("history.db"), "").expect("a history");
        let old = BTreeSet::from(["old.yml".to_owned()]);
        let (dormant, found) = Dormant::open(&state, &folder);
        assert_eq!((dormant.names(), found), (old.clone(), old.clone()));
        // A file that comes later is read, and the old one is not reported again.
        std::fs::write(folder.join("new.yml"), "").expect("a file");
        let (dormant, found) = Dormant::open(&state, &folder);
        assert_eq!((dormant.names(), found), (old, BTreeSet::new()));
        dormant.wake();
        let (dormant, _) = Dormant::open(&state, &folder);
        assert_eq!(dormant.names(), BTreeSet::new());
        std::fs::remove_dir_all(place).expect("the folder goes");
    }

    #[test]
    fn at_a_first_start_nothing_waits() {
        let place = std::env::temp_dir().join(format!("enforcer-first-{}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a folder");
        std::fs::write(place.join("web.yml"), "").expect("a file");
        let (dormant, _) = Dormant::open(&place.join("state"), &place);
        assert_eq!(dormant.names(), BTreeSet::new());
        std::fs::remove_dir_all(place).expect("the folder goes");
    }
}
