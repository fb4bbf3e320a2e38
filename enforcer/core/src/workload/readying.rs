//! Whether a workload may be used, and telling it to whoever sends it work. The
//! hooks run one at a time, and the last one run says what is true.

use super::{Context, Lifecycle, Workload};
use crate::event::{Aside, Cause, Degraded, Detail, HOOK_LIMIT, Hook, ReadyChange, Reason, Seq};
use crate::spec::ProbeName;
use crate::units::MonoTime;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(super) struct Ready {
    pub(super) now: bool,
    /// The record of the last change.
    seq: Seq,
    /// What the hooks were last told.
    told: bool,
    running: Option<Hook>,
}

/// What of it a later agent has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeptReady {
    now: bool,
    seq: Seq,
    told: bool,
}

impl Ready {
    pub(super) fn kept(&self) -> KeptReady {
        KeptReady {
            now: self.now,
            seq: self.seq,
            // Whoever was just being told something may not have heard it.
            told: self.told != self.running.is_some(),
        }
    }

    pub(super) fn resume(kept: KeptReady) -> Self {
        Self {
            now: kept.now,
            seq: kept.seq,
            told: kept.told,
            running: None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }
}

impl Workload {
    /// Its own word, while it runs.
    fn is_ready(&self) -> bool {
        matches!(self.state, Lifecycle::Running { .. })
            && self.probing.startup_passed
            && match self.probing.watched.get(&ProbeName::Readiness) {
                Some(watched) => watched.standing() == Some(true),
                None => true,
            }
    }

    /// Follows the probes and the lifecycle.
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
        match self.probing.watched.get(&ProbeName::Readiness) {
            Some(watched) if matches!(self.state, Lifecycle::Running { .. }) => {
                super::probing::describe(ProbeName::Readiness, watched)
            }
            Some(_) | None => "it does not run".to_owned(),
        }
    }

    fn turn_ready(&mut self, context: &mut Context<'_>, ready: bool, why: String) {
        self.ready.now = ready;
        let spec = &self.spec;
        let gates = [ProbeName::Startup, ProbeName::Readiness];
        let matters = gates.iter().any(|name| spec.probes.contains_key(name))
            || spec.on_ready.is_some()
            || spec.on_unready.is_some();
        self.ready.seq = if matters {
            self.tell(
                context,
                None,
                None,
                Detail::Ready(ReadyChange { ready, why }),
            )
        } else {
            Seq(*context.next_seq)
        };
    }

    /// Tells the hooks what is true now, unless one is being told something.
    fn run_hook(&mut self, context: &mut Context<'_>) {
        if self.ready.running.is_some() || self.ready.told == self.ready.now {
            return;
        }
        self.ready.told = self.ready.now;
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

    /// It is about to be stopped: whoever sends it work hears of it first. Until
    /// when the stop has to wait for that.
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
        hook: Hook,
        error: Option<String>,
    ) {
        if self.ready.running != Some(hook) {
            return;
        }
        self.ready.running = None;
        if let Some(why) = error {
            let what = hook.as_str().to_owned();
            self.tell(
                context,
                None,
                None,
                Detail::Degraded(Degraded { what, why }),
            );
        }
        self.run_hook(context);
        if self.ready.running.is_none() {
            self.withdrawn(context);
        }
    }
}
