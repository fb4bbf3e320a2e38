//! An event of the kind that the test has asked for.

use enforcer_model::detail::Details;
use enforcer_model::ids::{Cause, InstanceId, Seq};
use enforcer_model::views::WorkloadView;
use enforcer_model::{Record, ReplicaId};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::Arc;

/// An event whose details have a known type.
#[derive(Clone, Debug)]
pub struct Event<D> {
    pub seq: Seq,
    pub time: Timestamp,
    pub boot_id: Arc<str>,
    pub workload: Option<ReplicaId>,
    pub instance: Option<InstanceId>,
    pub reason: Option<Cause>,
    pub caused_by: Option<Seq>,
    pub details: D,
}

impl<D: Details> Event<D> {
    /// Returns the event, if it is of this kind.
    ///
    /// # Panics
    /// If the event is of this kind, and has a shape that this version does not know.
    #[must_use]
    pub fn of(record: Record) -> Option<Self> {
        if record.detail.kind() != D::KIND.as_str() {
            return None;
        }
        let text = format!("{record:?}");
        let details = D::of(record.detail);
        Some(Self {
            seq: record.seq,
            time: record.time,
            boot_id: record.boot_id,
            workload: record.workload,
            instance: record.instance,
            reason: record.reason,
            caused_by: record.caused_by,
            details: details.unwrap_or_else(|| panic!("not of this version: {text}")),
        })
    }
}

/// Returns the main process of a workload that runs.
///
/// # Panics
/// If the workload doesn't run.
#[must_use]
pub fn pid_of(view: &WorkloadView) -> u32 {
    view.pid.unwrap()
}

/// Sends a signal to the main process of a workload that runs.
///
/// # Panics
/// If the workload doesn't run, or its process is gone.
pub fn send(view: &WorkloadView, signal: Signal) {
    let pid = i32::try_from(pid_of(view)).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Returns whether an event is of this workload.
#[must_use]
pub fn is_of(record: &Record, workload: &str) -> bool {
    let found = record.workload.as_ref();
    found.is_some_and(|found| found.to_string() == workload)
}
