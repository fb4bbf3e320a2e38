//! Readiness, and the hooks that announce it. The hooks run one at a time, and the last one
//! announces the present state.

use super::{Context, Workload};
use crate::checkpoint::KeptReady;
use crate::event::{
    Aside, Cause, Degraded, Detail, HOOK_LIMIT, Hook, InstanceId, ReadyChange, Reason, Seq,
};
use crate::spec::ProbeName;
use crate::units::MonoTime;
use std::sync::Arc;
use std::time::Duration;

/// The longest time between the end of a wait and its answer.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub(super) struct Ready {
    pub(super) now: bool,
    /// The record of the last change.
    seq: Seq,
    /// The state that the hooks announced last.
    announced: bool,
    running: Option<Hook>,
}

impl Ready {
    pub(super) fn kept(&self) -> KeptReady {
        KeptReady {
            now: self.now,
            seq: self.seq,
            // A hook that was under way may not have announced its state.
            announced: self.announced != self.running.is_some(),
        }
    }

    pub(super) fn resume(kept: KeptReady) -> Self {
        Self {
            now: kept.now,
            seq: kept.seq,
            announced: kept.announced,
            running: None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn seq(&self) -> Seq {
        self.seq
    }
}

impl Workload {
    /// Returns whether the workload is ready, while it runs.
    fn is_ready(&self) -> bool {
        let Some(running) = self.state.running() else {
            return false;
        };
        let watched = running.probing.watched.get(&ProbeName::Readiness);
        running.probing.startup_passed
            && watched.is_none_or(|watched| watched.standing() == Some(true))
    }

    /// Brings readiness up to date with the probes and the lifecycle.
    pub(super) fn refresh_ready(&mut self, context: &mut Context<'_>) {
        let ready = self.is_ready();
        if ready != self.ready.now {
            let why = self.why_ready(ready);
            self.turn_ready(context, ready, why);
        }
        self.run_hook(context);
    }

    fn why_ready(&self, ready: bool) -> String {
        if ready {
            return "its probes pass".to_owned();
        }
        let running = self.state.running();
        match running.and_then(|running| running.probing.watched.get(&ProbeName::Readiness)) {
            Some(watched) => super::probes::describe(ProbeName::Readiness, watched),
            None => "it does not run".to_owned(),
        }
    }

    fn turn_ready(&mut self, context: &mut Context<'_>, ready: bool, why: String) {
        self.ready.now = ready;
        let spec = &self.spec;
        let gates = [ProbeName::Startup, ProbeName::Readiness];
        let matters = gates.iter().any(|name| spec.probes.contains_key(name))
            || spec.has_gate()
            || spec.on_ready.is_some()
            || spec.on_unready.is_some();
        self.ready.seq = if matters {
            self.report(
                context,
                None,
                None,
                Detail::Ready(ReadyChange { ready, why }),
            )
        } else {
            Seq(*context.next_seq)
        };
    }

    /// Runs the hook for the present state, unless one is under way.
    fn run_hook(&mut self, context: &mut Context<'_>) {
        if self.ready.running.is_some() || self.ready.announced == self.ready.now {
            return;
        }
        self.ready.announced = self.ready.now;
        let (hook, command) = if self.ready.now {
            (Hook::OnReady, &self.spec.on_ready)
        } else {
            (Hook::OnUnready, &self.spec.on_unready)
        };
        if command.is_none() {
            return;
        }
        self.ready.running = Some(hook);
        let spec = Arc::clone(&self.spec);
        let reason = Reason {
            cause: Cause::Agent,
            seq: self.ready.seq,
        };
        self.aside(context, reason, Aside::RunHook { spec, hook });
    }

    /// Announces a stop to those who send work. The stop waits until the hook has ended, or its
    /// time is over.
    pub(super) fn withdraw(&mut self, context: &mut Context<'_>) -> Option<MonoTime> {
        if self.ready.now {
            self.turn_ready(context, false, "it is about to be stopped".to_owned());
        }
        self.run_hook(context);
        let busy = self.ready.running.is_some();
        busy.then(|| context.moment.now.after(HOOK_LIMIT).after(HOOK_LIMIT))
    }

    pub(crate) fn hook_done(
        &mut self,
        context: &mut Context<'_>,
        (hook, instance): (Hook, InstanceId),
        error: Option<String>,
    ) {
        match hook {
            Hook::OnReady | Hook::OnUnready => {}
            Hook::AfterStart => return self.report_hook(context, hook, error),
            Hook::Reload => return self.reload_done(context, error),
            Hook::BeforeStop => {
                self.report_hook(context, hook, error);
                if instance == self.instance {
                    self.withdrawn(context, true);
                }
                return;
            }
        }
        if self.ready.running != Some(hook) {
            return;
        }
        self.ready.running = None;
        self.report_hook(context, hook, error);
        self.run_hook(context);
        if self.ready.running.is_none() {
            self.withdrawn(context, false);
        }
    }

    fn report_hook(&self, context: &mut Context<'_>, hook: Hook, error: Option<String>) {
        if let Some(why) = error {
            let what = hook.as_str().to_owned();
            let detail = Detail::Degraded(Degraded { what, why });
            self.report(context, None, None, detail);
        }
    }
}
