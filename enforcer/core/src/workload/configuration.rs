//! The answer to another version of a workload's spec, in any state.

use super::health::Levels;
use super::{After, Context, Lifecycle, Then, Workload};
use crate::drift::{Drifted, PLACE};
use crate::event::{Cause, ConfigChange, Detail, DriftFound, Reason, Seq};
use crate::plan::{Effect, SettingChange};
use crate::spec::WorkloadSpec;
use std::sync::Arc;

impl Workload {
    /// Takes another version of the workload's spec.
    pub(crate) fn configure(
        &mut self,
        context: &mut Context<'_>,
        spec: Arc<WorkloadSpec>,
        changes: Vec<SettingChange>,
    ) {
        let traced = !self.spec.is_traced() && spec.is_traced();
        let rewatched = self.spec.watch != spec.watch || self.spec.mode != spec.mode;
        let releveled = self.spec.watch.memory != spec.watch.memory
            || self.spec.watch.cpu != spec.watch.cpu
            || self.spec.limits.memory_max != spec.limits.memory_max;
        let observed = spec.mode != self.spec.mode;
        let reprobed = self.spec.probes != spec.probes || self.spec.mode != spec.mode;
        self.spec = spec;
        self.managed = true;
        let restart = changes
            .iter()
            .any(|change| change.effect == Effect::Restart);
        let seq = self.report(
            context,
            Some(Cause::Config),
            None,
            Detail::Config(ConfigChange::Changed(changes)),
        );
        if rewatched {
            self.rewatch_loops(context);
        }
        if traced {
            self.trace_loops(context);
        }
        if releveled && let Some(running) = self.state.running_mut() {
            running.levels = Levels::default();
        }
        if reprobed {
            self.reprobe(context, observed);
            self.ask_probes(context);
        }
        match self.state {
            // The workload was about to be removed, and is back.
            Lifecycle::Stopping(ref mut stopping) if stopping.after == After::Remove => {
                stopping.after = After::Restart(Cause::Config);
            }
            Lifecycle::Ending(ref mut ending) if ending.after == After::Remove => {
                ending.after = After::Restart(Cause::Config);
            }
            Lifecycle::Starting { ref mut then, .. }
                if then.is_some_and(|then| then.after == After::Remove) =>
            {
                *then = restart.then_some(Then {
                    after: After::Restart(Cause::Config),
                    cause: Cause::Config,
                    kill: false,
                });
            }
            // A workload that a person stopped stays stopped.
            Lifecycle::Stopping(ref stopping) if stopping.after == After::Stop => {}
            Lifecycle::Ending(ref ending) if ending.after == After::Stop => {}
            Lifecycle::Starting { .. }
            | Lifecycle::Running(_)
            | Lifecycle::Stopping(_)
            | Lifecycle::Ending(_)
                if restart =>
            {
                self.stop(context, After::Restart(Cause::Config), Cause::Config, false);
            }
            // The write queues behind a start that carries the older limits.
            Lifecycle::Starting { .. }
            | Lifecycle::Running(_)
            | Lifecycle::Stopping(_)
            | Lifecycle::Ending(_) => {
                self.write_limits(context, Cause::Config, seq);
            }
            // A job that has ended runs again if it is another one now.
            Lifecycle::Stopped | Lifecycle::Failed if restart && self.ended_by_itself() => {
                let cause = Cause::Config;
                self.start(context, Reason { cause, seq });
            }
            // The next start takes them with it.
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => {}
        }
    }

    /// Takes another version of the spec with a new instance, even if the version is the same. One that a
    /// person has stopped stays stopped.
    pub(crate) fn replace(
        &mut self,
        context: &mut Context<'_>,
        spec: Arc<WorkloadSpec>,
        changes: Vec<SettingChange>,
    ) {
        let restarts = changes
            .iter()
            .any(|change| change.effect == Effect::Restart);
        let was_broken = self.is_waiting() || matches!(self.state, Lifecycle::Failed);
        if !changes.is_empty() {
            self.configure(context, spec, changes);
        }
        if was_broken {
            // The new version does not wait for what the one before has used up.
            self.close_breaker(context);
            if self.is_waiting() || matches!(self.state, Lifecycle::Failed) {
                let cause = Cause::Config;
                let seq = Seq(*context.next_seq);
                self.start_at_once(context, Reason { cause, seq });
            }
        } else if !restarts && !self.comes_to_rest() {
            self.close_breaker(context);
            self.stop(context, After::Restart(Cause::Manual), Cause::Manual, false);
        }
    }

    /// Handles the kernel's answer to new limits. After a refusal, the next `apply` tries again,
    /// though the manifest has not changed.
    pub(crate) fn limits_written(
        &mut self,
        context: &mut Context<'_>,
        change: Option<ConfigChange>,
    ) {
        // They are answered in the order they were asked for.
        let under_way = self.writes_under_way.pop_front();
        let (cause, reported) = under_way.unwrap_or((Cause::Config, Vec::new()));
        self.limits_refused = match &change {
            Some(ConfigChange::LimitsRefused(why)) => Some(why.clone()),
            _ => None,
        };
        match change {
            Some(ConfigChange::Limits(changes)) => {
                // A drift that was found before this write was reported then. Everything else that
                // a repair finds, and a process in another cgroup, is another process's change.
                let (others, ours): (Vec<_>, Vec<_>) = changes
                    .into_iter()
                    .filter(|change| !reported.contains(&change.file))
                    .partition(|change| {
                        matches!(cause, Cause::Drift | Cause::Agent) || change.file == PLACE
                    });
                if !others.is_empty() {
                    let drifts = others.into_iter().map(|change| Drifted {
                        what: change.file,
                        expected: change.to,
                        found: change.from,
                    });
                    let found = DriftFound {
                        drifts: drifts.collect(),
                        repaired: true,
                    };
                    self.report(context, Some(Cause::Drift), None, Detail::Drift(found));
                }
                if !ours.is_empty() {
                    let change = ConfigChange::Limits(ours);
                    self.report(context, Some(cause), None, Detail::Config(change));
                }
            }
            Some(change) => {
                self.report(context, Some(cause), None, Detail::Config(change));
            }
            None => {}
        }
    }

    /// Returns whether limits are on their way to the kernel, and why the last ones of an instance
    /// that runs were refused.
    pub(crate) fn written_limits(&self) -> (bool, Option<&str>) {
        let refused = self.limits_refused.as_deref();
        let refused = refused.filter(|_| self.main_pid().is_some());
        (!self.writes_under_way.is_empty(), refused)
    }

    pub(crate) fn write_refused_limits(&mut self, context: &mut Context<'_>) {
        if self.limits_refused.is_some() && self.main_pid().is_some() {
            self.write_limits(context, Cause::Config, Seq(*context.next_seq));
        }
    }

    /// Handles a manifest that no longer names the workload.
    pub(crate) fn disown(&mut self, context: &mut Context<'_>) {
        if self.managed {
            self.managed = false;
            self.sacrificed = false;
            self.report(
                context,
                Some(Cause::Config),
                None,
                Detail::Config(ConfigChange::Unmanaged),
            );
        }
    }

    pub(crate) fn record(&self, context: &mut Context<'_>, reason: Cause, detail: Detail) {
        self.report(context, Some(reason), None, detail);
    }
}
