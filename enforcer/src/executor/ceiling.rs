//! The limits of all workloads together: their ceiling and their protections.

use super::Executor;
use crate::report::error_chain;
use enforcer_core::event::{AgentEvent, Event, LimitChange};
use enforcer_core::limits::Limits;
use enforcer_core::spec::Host;
use enforcer_core::units::{Bytes, Limit};
use enforcer_kernel::{limits, memory_info, system_limits};
use std::sync::Arc;

impl Executor {
    /// Writes the ceilings of all workloads together.
    pub(crate) fn write_host_limits(&self, host: &Host) -> Result<Vec<LimitChange>, String> {
        let (memory, swap) =
            memory_info::totals().map_err(|error| format!("read the host's memory: {error}"))?;
        let ceiling = host.ceiling(memory, swap, system_limits::most_threads());
        {
            let mut levels = self.host_levels.lock();
            levels.watch = host.watch.clone();
            levels.alerts = Arc::clone(&host.alerts);
        }
        self.alerts.send_replace(Arc::clone(&host.alerts));
        if ceiling.memory_max == Some(Limit::At(Bytes(0))) {
            return Err(format!(
                "keep the reserve: of {memory} nothing is left for workloads"
            ));
        }
        if let Some(root) = self.tree.own_root() {
            let protection = Limits {
                memory_low: ceiling.memory_low,
                memory_min: ceiling.memory_min,
                ..Default::default()
            };
            limits::apply(root, &protection).map_err(|error| error_chain(&error))?;
        }
        limits::apply(self.tree.workloads(), &ceiling).map_err(|error| error_chain(&error))
    }

    /// Reports a protection that has no effect, once for as long as that is so.
    pub(crate) fn report_of_protection(&self, host: &Host) {
        let above = self.tree.ancestors().get(1..).unwrap_or_default();
        let lacking = limits::unprotected(above, &host.limits);
        let before = std::mem::replace(&mut *self.unprotected.lock(), lacking.clone());
        for why in lacking.into_iter().filter(|why| !before.contains(why)) {
            let what = "protection".to_owned();
            self.send(Event::Agent(AgentEvent::Degraded { what, why }));
        }
    }
}
