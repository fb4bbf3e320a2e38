//! The directories of a workload: made before it starts, and those below `/run` removed when it comes
//! to rest. Only what was made here is removed; a file in the runtime folder names it.

use super::Executor;
use enforcer_core::ReplicaId;
use enforcer_core::event::StartError;
use enforcer_core::spec::{DirectoryKind, WorkloadSpec};
use enforcer_kernel::directories;
use nix::unistd::{Gid, Uid, geteuid};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Returns the folder that the directories of a kind are in.
fn base(kind: DirectoryKind) -> PathBuf {
    let root = kind.base();
    if geteuid().is_root() {
        return root.into();
    }
    // As the XDG base directories of a user.
    let (variable, default) = match kind {
        DirectoryKind::Runtime => ("XDG_RUNTIME_DIR", ""),
        DirectoryKind::State => ("XDG_STATE_HOME", ".local/state"),
        DirectoryKind::Cache => ("XDG_CACHE_HOME", ".cache"),
    };
    match (std::env::var_os(variable), std::env::var_os("HOME")) {
        (Some(path), _) => path.into(),
        (None, Some(home)) => Path::new(&home).join(default),
        (None, None) => root.into(),
    }
}

/// Returns the path of a directory.
pub(super) fn path_of(kind: DirectoryKind, name: &str) -> PathBuf {
    base(kind).join(name)
}

/// Returns the variables that name the directories, as systemd.exec(5) has them.
pub(super) fn environment(spec: &WorkloadSpec) -> Vec<(String, Vec<u8>)> {
    let kinds = DirectoryKind::ALL.into_iter();
    kinds
        .filter_map(|kind| {
            let names = &spec.directories(kind)?.names;
            let base = base(kind);
            let paths: Vec<String> = names
                .iter()
                .map(|name| base.join(name).display().to_string())
                .collect();
            Some((kind.key().to_uppercase(), paths.join(":").into_bytes()))
        })
        .collect()
}

impl Executor {
    /// Makes the directories that the workload lacks.
    pub(super) fn make_directories(
        &self,
        workload: &ReplicaId,
        spec: &WorkloadSpec,
        owner: Option<(Uid, Gid)>,
    ) -> Result<(), StartError> {
        for kind in DirectoryKind::ALL {
            let Some(wanted) = spec.directories(kind) else {
                continue;
            };
            let base = base(kind);
            for name in &wanted.names {
                let is_new = directories::make(&base, name, wanted.mode.0, owner);
                let is_new = is_new.map_err(|refusal| StartError {
                    stage: format!("make its {} {}", kind.key(), base.join(name).display()),
                    errno: None,
                    error: refusal.to_string(),
                })?;
                if is_new && kind == DirectoryKind::Runtime {
                    self.note_made(workload, name).map_err(|error| {
                        super::start::io_failure("note which directories it has made", &error)
                    })?;
                }
            }
        }
        Ok(())
    }

    fn note_made(&self, workload: &ReplicaId, name: &str) -> io::Result<()> {
        let path = self.made_by(workload);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut all = fs::read_to_string(&path).unwrap_or_default();
        all.push_str(name);
        all.push('\n');
        fs::write(path, all)
    }

    fn made_by(&self, workload: &ReplicaId) -> PathBuf {
        self.runtime_dir
            .join("directories")
            .join(workload.file_name())
    }

    /// Removes the directories below `/run` that were made for the workload, the last one first.
    pub(super) fn remove_directories(&self, workload: &ReplicaId) {
        let path = self.made_by(workload);
        let Ok(made) = fs::read_to_string(&path) else {
            return;
        };
        for name in made.lines().rev() {
            if let Err(error) = directories::remove(&base(DirectoryKind::Runtime), name) {
                tracing::error!("{workload}: its runtime_directory {name} stays behind: {error}");
            }
        }
        let _ = fs::remove_file(path);
    }
}
