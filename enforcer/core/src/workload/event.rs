//! The events of a workload, each to the rule that decides about it.

use super::{Context, Workload};
use crate::event::{ConfigChange, InstanceEvent, InstanceId, LimitChange, WorkloadEvent};

impl Workload {
    pub(crate) fn handle(&mut self, context: &mut Context<'_>, event: WorkloadEvent) {
        match event {
            WorkloadEvent::Request { request } => self.request(context, request),
            WorkloadEvent::LimitsWritten { changed, error } => {
                self.limits_written(context, limits_change(changed, error));
            }
            WorkloadEvent::OomMark { victim, counters } => self.oom_mark(context, victim, counters),
            WorkloadEvent::CountersRead { counters } => self.counters_read(context, counters),
            WorkloadEvent::Drifted { found } => self.drifted(context, found),
            WorkloadEvent::CpuSuspect { suspect } => self.cpu_suspect(context, suspect),
            WorkloadEvent::CpuEvidence { thread, evidence } => {
                self.cpu_evidence(context, thread, evidence);
            }
            WorkloadEvent::CpuStreakEnded { thread } => self.cpu_streak_ended(context, thread),
            WorkloadEvent::HookDone {
                hook,
                instance,
                error,
            } => self.hook_done(context, (hook, instance), error),
            WorkloadEvent::FileChanged { path } => self.file_changed(context, path),
            WorkloadEvent::RemedyFailed { error } => self.remedy_failed(context, error),
        }
    }

    /// Handles an event of an instance. An event of an earlier instance changes nothing.
    pub(crate) fn handle_instance(
        &mut self,
        context: &mut Context<'_>,
        instance: InstanceId,
        event: InstanceEvent,
    ) {
        if instance != self.instance {
            return;
        }
        match event {
            InstanceEvent::Prepared { cgroup, counters } => {
                self.prepared(context, cgroup, counters);
            }
            InstanceEvent::Started { pid } => self.started(context, pid),
            InstanceEvent::StartFailed { error } => self.start_failed(context, error),
            InstanceEvent::MainChanged { pid } => self.main_changed(context, pid),
            InstanceEvent::MainExited => self.main_exited(context),
            InstanceEvent::Reaped { status, counters } => self.reaped(context, status, counters),
            InstanceEvent::Probed {
                probe,
                run,
                outcome,
                took,
            } => self.probed(context, (probe, run), &outcome, took),
            InstanceEvent::Remedied { error } => self.remedied(context, error),
            InstanceEvent::Notified { notice } => self.notified(context, notice),
            InstanceEvent::Stays { processes } => self.stays(context, &processes),
            InstanceEvent::Collected { threads } => self.collected(context, threads),
            InstanceEvent::Drained { drained } => self.drained(context, drained),
        }
    }
}

/// Returns the change that a write of limits has made; `None` if it changed nothing.
pub(crate) fn limits_change(
    changed: Vec<LimitChange>,
    error: Option<String>,
) -> Option<ConfigChange> {
    match error {
        Some(error) => Some(ConfigChange::LimitsRefused(error)),
        None if changed.is_empty() => None,
        None => Some(ConfigChange::Limits(changed)),
    }
}
