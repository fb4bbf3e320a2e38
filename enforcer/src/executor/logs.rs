//! The workloads' output, kept within its bounds.

use super::Executor;
use enforcer_core::WorkloadName;

impl Executor {
    /// Moves the heads of long logs away, one round at a time. A file is copied
    /// while nobody waits for the table.
    pub(crate) fn bound_logs(&self) {
        let Ok(_one) = self.bounding.try_lock() else {
            return;
        };
        let names: Vec<WorkloadName> = self.registry().keys().cloned().collect();
        for name in names {
            let taken = self
                .registry()
                .get_mut(&name)
                .and_then(|entry| Some((entry.log.take()?, entry.log_limits)));
            let Some((mut log, (max, keep))) = taken else {
                continue;
            };
            if let Err(error) = log.bound(max, keep) {
                tracing::warn!("{name}: failed to bound its log: {error}; it grows on");
            }
            if let Some(entry) = self.registry().get_mut(&name) {
                // A start may have opened it anew meanwhile.
                entry.log.get_or_insert(log);
            }
        }
    }
}
