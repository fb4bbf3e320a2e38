//! The state that an agent leaves to the next one: the running instances, and the decisions about
//! them. It is written before a decision is carried out. It lies in the runtime folder on tmpfs, so
//! it outlives the agent, and goes with the processes at a reboot.
//!
//! ```text
//! state.json             the shape of all this, the boot, and whose the cgroup root is
//! instances/NAME.json    a process, recorded before it runs
//! workloads/NAME.json    a workload's checkpoint
//! groups/NAME.json       the replicas of a workload, and the rollout that is under way
//! limits/NAME.json       what the owner of an attached service was asked for, and what it had before
//! ```
//!
//! The core gives it its meaning.

use enforcer_core::event::{CgroupId, InstanceId, ProcessId, Seq};
use enforcer_core::group::Group;
use enforcer_core::owner::OwnerLimits;
use enforcer_core::{Checkpoint, ReplicaId, WorkloadName};
use enforcer_kernel::replacement::{Survives, replace};
use enforcer_model::Record;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folders.
const PARTS: [&str; 4] = ["instances", "workloads", "groups", "limits"];
/// Raised with every change that an older agent would misread.
const SCHEMA: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    #[error(
        "take over from a newer agent: {} has schema {found}, and this one knows {SCHEMA}; nothing was touched: \
         start that version again, or stop its workloads with it first", path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "read {}, which the agent before this one has left; nothing was touched: what runs is below the cgroup \
         `workloads`; end it, and remove this folder", path.display()
    )]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The folder, open for this agent.
#[derive(Debug)]
pub(crate) struct Handover {
    folder: PathBuf,
    boot_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    schema: u32,
    boot_id: String,
    /// The cgroup of all workloads, and whether an agent has made it. Then it is removed with the
    /// last workload.
    root: Option<(PathBuf, bool)>,
}

/// The part of the state that says whether the rest can be read.
#[derive(Debug, Deserialize)]
struct Shape {
    schema: u32,
}

/// One running instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunningInstance {
    pub(crate) workload: ReplicaId,
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    /// The start time in clock ticks since boot. With the pid and the boot id it names the process.
    pub(crate) start_ticks: u64,
    pub(crate) cgroup: CgroupId,
    /// The inode of the pipe that its output is; `None` if it writes elsewhere.
    #[serde(default)]
    pub(crate) output: Option<u64>,
    /// It has run, though it may never execute a program: it was forked by one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) has_run: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

impl RunningInstance {
    pub(crate) fn process(&self) -> ProcessId {
        ProcessId {
            pid: self.pid,
            start_ticks: self.start_ticks,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept<C, R> {
    /// The last record when this was written.
    seq: Seq,
    checkpoint: C,
    /// The events of this decision. They are in the same file as the checkpoint, so that neither
    /// exists without the other.
    #[serde(rename = "told")]
    reported: R,
}

/// A workload as it was left.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) workload: ReplicaId,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) instance: Option<RunningInstance>,
}

/// Everything that was left.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    pub(crate) workloads: Vec<Left>,
    /// The last that were given away.
    pub(crate) last: (Seq, InstanceId),
    /// The last events of each workload.
    pub(crate) reported: Vec<Record>,
    pub(crate) root: Option<(PathBuf, bool)>,
    pub(crate) groups: Vec<(WorkloadName, Group)>,
}

impl Handover {
    /// Reads what was left. What is of an earlier boot is gone with it.
    pub(crate) fn open(folder: &Path, boot_id: &str) -> Result<(Self, Legacy), HandoverError> {
        let this = Self {
            folder: folder.to_owned(),
            boot_id: boot_id.to_owned(),
        };
        let path = this.folder.join("state.json");
        let state = match read::<Shape>(&path)? {
            Some(Shape { schema }) if schema > SCHEMA => {
                return Err(HandoverError::Newer {
                    path,
                    found: schema,
                });
            }
            Some(_) => read::<State>(&path)?,
            None => None,
        };
        let legacy = match state.filter(|state| state.boot_id == boot_id) {
            Some(state) => Legacy {
                root: state.root,
                ..this.read_workloads()?
            },
            None => {
                this.clear();
                Legacy::default()
            }
        };
        for part in PARTS {
            let path = this.folder.join(part);
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path);
            made.map_err(|source| HandoverError::Io { path, source })?;
        }
        Ok((this, legacy))
    }

    /// Says what these files are, and where the workloads are.
    pub(crate) fn describe(&self, root: &Path, made: bool) -> Result<(), HandoverError> {
        let path = self.folder.join("state.json");
        let state = State {
            schema: SCHEMA,
            boot_id: self.boot_id.clone(),
            root: Some((root.to_owned(), made)),
        };
        write(&path, &state).map_err(|source| HandoverError::Io { path, source })
    }

    fn read_workloads(&self) -> Result<Legacy, HandoverError> {
        let mut legacy = Legacy::default();
        let entries = match fs::read_dir(self.folder.join("workloads")) {
            Ok(entries) => entries,
            Err(_) => return Ok(legacy),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // A draft that was never finished says nothing.
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let stem = path.file_stem().and_then(std::ffi::OsStr::to_str);
            let Some(workload) = stem.and_then(ReplicaId::from_file_name) else {
                continue;
            };
            let Some(kept) = read::<Kept<Checkpoint, Vec<Record>>>(&path)? else {
                continue;
            };
            let instance = read::<RunningInstance>(&self.instance(&workload))?;
            legacy.last.0 = legacy.last.0.max(kept.seq);
            legacy.last.1 = legacy.last.1.max(kept.checkpoint.instance());
            legacy.reported.extend(kept.reported);
            legacy.workloads.push(Left {
                workload,
                checkpoint: kept.checkpoint,
                instance,
            });
        }
        legacy.groups = self.read_groups()?;
        legacy
            .workloads
            .sort_by(|one, other| one.workload.cmp(&other.workload));
        Ok(legacy)
    }

    fn read_groups(&self) -> Result<Vec<(WorkloadName, Group)>, HandoverError> {
        let mut groups = Vec::new();
        let entries = fs::read_dir(self.folder.join("groups"));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let stem = path.file_stem().and_then(std::ffi::OsStr::to_str);
            if let Some(name) = stem.and_then(WorkloadName::parse)
                && let Some(group) = read::<Group>(&path)?
            {
                groups.push((name, group));
            }
        }
        groups.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(groups)
    }

    /// Replaces the checkpoint of a workload with replicas, or removes it.
    pub(crate) fn keep_group(&self, name: &WorkloadName, group: Option<&Group>) -> io::Result<()> {
        let path = self.folder.join(format!("groups/{name}.json"));
        match group {
            Some(group) => write(&path, group),
            None => remove_if_there(&path),
        }
    }

    /// Returns what the owner of an attached service was asked for.
    pub(crate) fn owner_limits(&self, workload: &ReplicaId) -> Option<OwnerLimits> {
        let path = self.limits(workload);
        let found = read::<OwnerLimits>(&path);
        found.unwrap_or_else(|error| {
            tracing::error!("{workload}: {error}; its limits are not given back");
            None
        })
    }

    /// Replaces what the owner of an attached service was asked for.
    pub(crate) fn keep_owner_limits(
        &self,
        workload: &ReplicaId,
        limits: &OwnerLimits,
    ) -> io::Result<()> {
        let path = self.limits(workload);
        match limits.is_empty() {
            true => remove_if_there(&path),
            false => write(&path, limits),
        }
    }

    /// Returns the workloads whose services' owners have set limits for enforcer.
    pub(crate) fn all_owner_limits(&self) -> Vec<ReplicaId> {
        let entries = fs::read_dir(self.folder.join("limits"));
        let names = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let names = names.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
        let names = names.filter_map(|path| ReplicaId::from_file_name(path.file_stem()?.to_str()?));
        names.collect()
    }

    fn limits(&self, workload: &ReplicaId) -> PathBuf {
        self.folder
            .join(format!("limits/{}.json", workload.file_name()))
    }

    /// Replaces the record of what runs in one step: a reader sees the old one or the
    /// new one.
    pub(crate) fn record(&self, instance: &RunningInstance) -> io::Result<()> {
        write(&self.instance(&instance.workload), instance)
    }

    pub(crate) fn forget(&self, workload: &ReplicaId) {
        // A record without a process is harmless: it names no process of this start time.
        let _ = fs::remove_file(self.instance(workload));
    }

    /// Replaces a workload's checkpoint, or removes it.
    pub(crate) fn keep(
        &self,
        workload: &ReplicaId,
        checkpoint: Option<&Checkpoint>,
        (seq, reported): (Seq, &[Arc<Record>]),
    ) -> io::Result<()> {
        let path = self
            .folder
            .join(format!("workloads/{}.json", workload.file_name()));
        match checkpoint {
            Some(checkpoint) => {
                let of_it = |record: &&Arc<Record>| record.workload.as_ref() == Some(workload);
                let kept = Kept {
                    seq,
                    checkpoint,
                    reported: reported.iter().filter(of_it).collect::<Vec<_>>(),
                };
                write(&path, &kept)
            }
            None => remove_if_there(&path),
        }
    }

    /// Removes the state: nothing is left to be taken over.
    fn clear(&self) {
        for part in PARTS {
            let _ = fs::remove_dir_all(self.folder.join(part));
        }
    }

    fn instance(&self, workload: &ReplicaId) -> PathBuf {
        self.folder
            .join(format!("instances/{}.json", workload.file_name()))
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HandoverError> {
    let path = path.to_owned();
    match fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(source) => Err(HandoverError::Damaged { path, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HandoverError::Io { path, source }),
    }
}

/// Returns whether these bytes may be one of the files.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode(bytes: &[u8]) -> bool {
    let state = serde_json::from_slice::<State>(bytes).is_ok();
    let instance = serde_json::from_slice::<RunningInstance>(bytes).is_ok();
    let kept = serde_json::from_slice::<Kept<Checkpoint, Vec<Record>>>(bytes);
    if let Ok(Kept { checkpoint, .. }) = kept {
        let again = serde_json::to_vec(&checkpoint).unwrap_or_default();
        assert!(serde_json::from_slice::<Checkpoint>(&again).is_ok());
        return true;
    }
    state || instance
}

fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    replace(path, &text, 0o600, Survives::Process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newer_is_refused_and_left_as_it_is() {
        let folder = std::env::temp_dir().join(format!("handover-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let text = r#"{"schema": 3, "boots": ["another shape"]}"#;
        fs::write(folder.join("state.json"), text).expect("a file");
        let error = Handover::open(&folder, "b").expect_err("it is newer");
        assert!(
            matches!(error, HandoverError::Newer { found: 3, .. }),
            "{error}"
        );
        let kept = fs::read_to_string(folder.join("state.json")).expect("the file");
        assert_eq!(kept, text);
        assert!(!folder.join("instances").exists());
        fs::remove_dir_all(folder).expect("to clean up");
    }
}
