//! The core keeps the notifications of an instance, sd_notify(3), and answers its `notify` probes
//! from them. No edge is asked.

use super::{Context, Lifecycle, Workload};
use crate::checkpoint::KeptProbing;
use crate::notice::{Alive, Notice, Phase};
use crate::probe::{Failure, Outcome};
use crate::spec::{Check, ProbeName, WorkloadSpec};
use crate::units::{MonoTime, human_duration};
use std::time::Duration;

/// A program may delay its SIGKILL by `EXTEND_TIMEOUT_USEC=`, at most to this multiple of its grace.
const MOST_GRACES: u32 = 10;

/// The words of the running instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    pub(super) phase: Option<Phase>,
    status: Option<String>,
    /// The last `WATCHDOG=1`. Without one, the time from which it is expected.
    pub(super) alive_at: MonoTime,
    /// It has said that it does not work.
    gave_up: bool,
    /// It has asked for time until then.
    patience: MonoTime,
    /// It was started without a socket, so it cannot say anything.
    pub(super) is_mute: bool,
}

impl Words {
    /// Returns the words of an instance that has just begun.
    pub(super) fn begin(spec: &WorkloadSpec, now: MonoTime) -> Self {
        let mut probes = spec.probes.values();
        Self {
            alive_at: now,
            is_mute: !probes.any(|probe| matches!(probe.check, Check::Notify { .. })),
            ..Self::default()
        }
    }

    /// Returns the words of an instance that another agent has heard.
    pub(super) fn resume(kept: &KeptProbing, now: MonoTime) -> Self {
        Self {
            phase: kept.phase,
            alive_at: now,
            is_mute: kept.is_mute,
            ..Self::default()
        }
    }

    /// Returns the answer of a `notify` probe.
    pub(super) fn judge(
        &self,
        name: ProbeName,
        within: Option<Duration>,
        now: MonoTime,
    ) -> Outcome {
        let failed = |why: String| {
            Outcome::Failed(Failure {
                why,
                ..Failure::default()
            })
        };
        if self.is_mute {
            let why = "it has no notification socket before its next start";
            return Outcome::Unknown(why.to_owned());
        }
        match (name, within, self.phase) {
            (ProbeName::Liveness, ..) if self.gave_up => {
                failed("it has sent WATCHDOG=trigger".to_owned())
            }
            (ProbeName::Liveness, Some(within), _) if now.since(self.alive_at) > within => {
                failed(format!("no WATCHDOG=1 within {}", human_duration(within)))
            }
            (ProbeName::Liveness, ..) => Outcome::Passed,
            // It began before it stops.
            (ProbeName::Startup, _, Some(_)) | (_, _, Some(Phase::Ready)) => Outcome::Passed,
            (_, _, None) if self.patience > now => {
                Outcome::Unknown("it has asked for more time".to_owned())
            }
            (_, _, None) => failed("it has not sent READY=1".to_owned()),
            (_, _, Some(Phase::Reloading)) => failed("it reloads".to_owned()),
            (_, _, Some(Phase::Stopping)) => failed("it stops".to_owned()),
        }
    }
}

impl Workload {
    /// Takes what the instance says of itself.
    pub(super) fn notified(&mut self, context: &mut Context<'_>, mut notice: Notice) {
        // Who may be the main process is no word of the program's.
        notice.main_pid = None;
        let now = context.moment.now;
        if let Lifecycle::Starting { .. } = self.state {
            // The program may be faster than the news of its start.
            self.early.add(notice);
            return;
        }
        if let Lifecycle::Stopping(stopping) = &mut self.state {
            let grace = self.spec.stop.grace;
            if let (Some(extend), Some(kill_at)) = (notice.extend, &mut stopping.kill_at) {
                let most = stopping.asked_at.after(grace.saturating_mul(MOST_GRACES));
                *kill_at = now.after(extend).min(most).max(*kill_at);
            }
            return;
        }
        let Some(running) = self.state.running_mut() else {
            return;
        };
        let words = &mut running.words;
        words.phase = notice.phase.or(words.phase);
        words.status = notice.status.or(words.status.take());
        if let Some(extend) = notice.extend {
            words.patience = now.after(extend);
        }
        match notice.alive {
            Some(Alive::Yes) => (words.alive_at, words.gave_up) = (now, false),
            Some(Alive::No) => words.gave_up = true,
            None => {}
        }
        let turns = |name: ProbeName| match name {
            ProbeName::Startup | ProbeName::Readiness => notice.phase.is_some(),
            ProbeName::Liveness => notice.alive == Some(Alive::No),
            ProbeName::Progress => false,
        };
        for (name, watched) in &mut running.probing.watched {
            if matches!(watched.spec.check, Check::Notify { .. }) && turns(*name) {
                watched.hasten(now);
            }
        }
        self.ask_probes(context);
    }

    /// Takes what the instance has said before it was known to run.
    pub(super) fn hear_early(&mut self, context: &mut Context<'_>) {
        let early = std::mem::take(&mut self.early);
        if let Some(pid) = early.main_pid {
            self.main_changed(context, pid);
        }
        if !early.is_empty() {
            self.notified(context, early);
        }
    }

    /// Returns the text of the last `STATUS=`.
    pub(super) fn status_text(&self) -> Option<&str> {
        let status = self.state.running()?.words.status.as_deref();
        status.filter(|text| !text.is_empty())
    }
}
