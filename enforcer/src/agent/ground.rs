//! The preconditions of an agent: its lock, the state that another agent has left, its history, and
//! the demands of the manifest on the host.

use crate::fault::Fault;
use crate::settings::Settings;
use crate::store::database::Database;
use crate::store::handover::Legacy;
use crate::store::history::History;
use crate::store::journal::Journal;
use enforcer_core::event::{InstanceId, Seq};
use enforcer_core::spec::Manifest;
use enforcer_kernel::hierarchy::Inherited;
use enforcer_kernel::lock_file;
use nix::fcntl::Flock;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;

/// Returns the place of the workloads that were left. They cannot be moved elsewhere.
pub(super) fn inherited(settings: &Settings, legacy: &Legacy) -> Result<Inherited, Fault> {
    let Some((root, made_root)) = legacy.root.as_ref().filter(|(root, _)| root.exists()) else {
        return Ok(Inherited::default());
    };
    let workloads = legacy.workloads.iter();
    let inherited = Inherited {
        root: (!legacy.workloads.is_empty()).then(|| root.clone()),
        made_root: made_root.then(|| root.clone()),
        workloads: workloads.map(|left| left.workload.cgroup_path()).collect(),
    };
    match (&settings.cgroup_root, &inherited.root) {
        (Some(asked), Some(root)) if asked != root => Err(Fault::Failed(format!(
            "failed to use {}: the workloads of the agent before this one run below {}; \
             use that as --cgroup-root, or stop them first with `enforcer shutdown --workloads`",
            asked.display(),
            root.display()
        ))),
        _ => Ok(inherited),
    }
}

/// Takes the lock that allows one agent for a runtime folder.
pub(super) fn lock(settings: &Settings) -> Result<Flock<File>, Fault> {
    let folder = settings.runtime_dir();
    let path = folder.join("lock");
    let failed =
        |error: String| Fault::Failed(format!("failed to lock {}: {error}", path.display()));
    std::fs::create_dir_all(&folder).map_err(|error| failed(error.to_string()))?;
    lock_file::lock(&path).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => {
            failed("another agent holds it; stop that one, or use another --runtime-dir".to_owned())
        }
        _ => failed(error.to_string()),
    })
}

/// Returns the controllers that the manifest needs, each with a file that asks for it.
pub(super) fn asked(manifest: &Manifest) -> BTreeMap<&'static str, &'static str> {
    let of_workloads = manifest.workloads.values().map(|spec| &spec.limits);
    of_workloads
        .chain([&manifest.host.limits])
        .flat_map(|limits| limits.controllers().collect::<Vec<_>>())
        .collect()
}

/// Opens the history, with the events that the agent before this one could not write any more.
pub(super) fn open_history(
    settings: &Settings,
    boot_id: &str,
    legacy: &mut Legacy,
    database: Database,
) -> Arc<History> {
    let journal = Journal::open(&settings.runtime_dir().join("journal"));
    let mut journal = journal
        .inspect_err(|error| {
            tracing::error!("no journal: {error}; an agent that dies loses its last events");
        })
        .ok();
    let (seq, instance) = database.last();
    let journaled = journal.as_ref().and_then(|(_, left)| left.last());
    let known = Seq(seq).max(journaled.map_or(Seq(0), |record| record.seq));
    // An event that was reported and then lost in a power cut keeps its number.
    let reported = crate::alerting::last_delivered(&settings.state_dir().join("alerts"));
    legacy.last.0 = legacy.last.0.max(reported);
    legacy.last.0 = legacy.last.0.max(known);
    legacy.last.1 = legacy.last.1.max(InstanceId(instance));
    // Only the last decision of an agent can be in a checkpoint and not in the journal.
    let mut reported = std::mem::take(&mut legacy.reported);
    reported.retain(|record| record.seq > known);
    reported.sort_by_key(|record| record.seq);
    if let Some((journal, left)) = &mut journal {
        let reported: Vec<_> = reported.into_iter().map(Arc::new).collect();
        // The checkpoint is about to be replaced. After that this is the only record of the event.
        if let Err(error) = journal.append(&reported) {
            tracing::error!("failed to write the journal: {error}");
        }
        left.extend(reported);
        let instances = left.iter().filter_map(|record| record.instance);
        legacy.last.1 = instances.max().unwrap_or_default().max(legacy.last.1);
        left.retain(|record| record.seq > Seq(seq));
    }
    Arc::new(History::new(boot_id, journal, database))
}
