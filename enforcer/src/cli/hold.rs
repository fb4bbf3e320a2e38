//! `hold`: the one process of the unit that owns the workloads' cgroup. systemd can't put
//! a process into a cgroup that hands controllers down, so the agent's own unit, which is
//! restarted, is another one.

use super::{Fault, workload};
use crate::kernel::{hierarchy, signal};
use crate::service;
use crate::settings::Settings;
use std::time::Duration;

/// Where nobody knows another; the manifest's default as well.
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn hold(settings: &Settings) -> Result<(), Fault> {
    let failed = |error: &dyn std::error::Error| {
        Fault::Failed(format!("failed to {}", crate::executor::error_chain(error)))
    };
    let ends = signal::hold_ends().map_err(|error| failed(&error))?;
    hierarchy::make_room().map_err(|error| failed(&error))?;
    service::ready();
    ends.wait().map_err(|error| failed(&error))?;
    // Whoever stops this unit means what is in it. Killed, it leaves all as it is.
    if let Err(fault) = workload::shutdown(settings, true) {
        fault.print();
        eprintln!(
            "what runs gets {} s, for nobody knows its graces",
            GRACE.as_secs()
        );
    }
    // An agent may have been killed, or stopped by itself, while it was at it.
    hierarchy::end_what_is_left(GRACE).map_err(|error| failed(&error))
}
