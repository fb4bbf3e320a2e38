//! An instance's probes: when each is checked, and what follows when one turns. The startup probe
//! gates the others. Liveness, startup and progress lead to restarts; `readiness.rs` has readiness.

mod kept;

use super::{After, Context, Workload};
use crate::cpu_loop::Verdict;
use crate::event::{Answered, BreakerChange, BreakerState, Cause, Detail, ProbeRun};
use crate::probe::{Answer, Failure, Last, Load, Outcome, Watched};
use crate::spec::{Check, CheckKind, Mode, Probe, ProbeName, WorkloadSpec};
use crate::units::{MonoTime, Percent, human_duration};
use enforcer_model::probe::ProbeState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The factor of the failure threshold of a liveness probe that fails while the workload is held
/// back. A program that also hangs is restarted then.
const GRACE_FACTOR: u32 = 3;
/// Waiting this much for a CPU, a probe may well come too late.
const BUSY: Percent = Percent(50);
/// The share of time in which a wait for memory excuses a late answer.
const STALLED: Percent = Percent(10);
/// A start counts as under way until its startup probe passed, but no longer.
const START_TURN: Duration = Duration::from_secs(10);

/// The probes of the running instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Probing {
    pub(super) watched: BTreeMap<ProbeName, Watched>,
    /// The startup probe has passed, or there is none.
    pub(super) startup_passed: bool,
    /// The time until which the start takes one of the host's places.
    turn: Option<MonoTime>,
    /// The excuse was reported.
    spared: bool,
}

impl Probing {
    /// Returns the probes of an instance that has just started. While the agent is young, probes
    /// that no start waits for are spread over one period, so that a thousand workloads are not
    /// checked in one moment ever after.
    pub(super) fn begin(spec: &WorkloadSpec, context: &Context<'_>, since: MonoTime) -> Self {
        let now = context.moment.now;
        let first = |name: ProbeName, probe: &Probe| {
            let due = since.after(probe.initial_delay).max(now);
            match name {
                ProbeName::Startup | ProbeName::Readiness => due,
                ProbeName::Liveness | ProbeName::Progress
                    if now.since(context.agent_began) < probe.period =>
                {
                    due.after(spread(context.moment.noise, probe.period))
                }
                ProbeName::Liveness | ProbeName::Progress => due,
            }
        };
        let watched = spec.probes.iter();
        let gated = spec.probes.contains_key(&ProbeName::Startup);
        Self {
            watched: watched
                .map(|(name, probe)| (*name, Watched::new(probe.clone(), first(*name, probe))))
                .collect(),
            startup_passed: !gated,
            turn: gated.then(|| now.after(START_TURN)),
            spared: false,
        }
    }

    /// Returns the probes that may run now: the startup probe until it has passed, then all others.
    fn open(&self) -> impl Iterator<Item = (&ProbeName, &Watched)> {
        self.watched
            .iter()
            .filter(|(name, _)| (**name == ProbeName::Startup) != self.startup_passed)
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let probes = self.open().map(|(_, watched)| watched.deadline()).min();
        [probes, self.turn].into_iter().flatten().min()
    }

    pub(super) fn takes_a_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Returns the probe that failed for good, in words.
    pub(super) fn failing(&self) -> Option<String> {
        let turned = self.watched.iter().filter(|(name, watched)| {
            **name != ProbeName::Readiness && watched.standing() == Some(false)
        });
        turned
            .map(|(name, watched)| describe(*name, watched))
            .next()
    }

    /// Returns the probe that failed last, though not often enough to count.
    pub(super) fn wavering(&self) -> Option<String> {
        let wavering = self.open().filter(|(name, watched)| {
            watched.failures() > 0 && **name != ProbeName::Startup && **name != ProbeName::Readiness
        });
        wavering
            .map(|(name, watched)| describe(*name, watched))
            .next()
    }

    /// Returns whether any probe has answered.
    pub(super) fn has_answered(&self) -> bool {
        self.watched
            .values()
            .any(|watched| watched.standing() == Some(true))
    }
}

/// Returns the upper half of the noise as a part of the period.
fn spread(noise: u64, period: Duration) -> Duration {
    period.mul_f64((noise >> 32) as f64 / f64::from(u32::MAX))
}

pub(super) fn describe(name: ProbeName, watched: &Watched) -> String {
    let why = watched.last().map_or("", |last| last.why.as_str());
    let why = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    match watched.failures() {
        0 | 1 => format!("{name} probe failed{why}"),
        times => format!("{name} probe failed {times} times{why}"),
    }
}

/// A probe as the API shows it.
#[derive(Clone, Debug)]
pub struct ProbeView {
    pub probe: ProbeName,
    pub kind: CheckKind,
    pub state: ProbeState,
    pub consecutive_failures: u32,
    /// The number of failures in a row that count.
    pub failure_threshold: u32,
    pub last: Option<Last>,
    /// The probe waits for the startup probe, or is the startup probe and has passed.
    pub at_rest: bool,
}

impl Workload {
    pub(super) fn probe_views(&self) -> Vec<ProbeView> {
        let Some(running) = self.state.running() else {
            return Vec::new();
        };
        let probing = &running.probing;
        let at_rest = |name: ProbeName| !probing.open().any(|(open, _)| *open == name);
        let watched = probing.watched.iter();
        watched
            .map(|(name, watched)| ProbeView {
                probe: *name,
                kind: watched.spec.check.kind(),
                state: match watched.standing() {
                    Some(true) => ProbeState::Passing,
                    Some(false) => ProbeState::Failing,
                    None => ProbeState::Unknown,
                },
                consecutive_failures: watched.failures(),
                failure_threshold: watched.spec.failure_threshold,
                last: watched.last().cloned(),
                at_rest: at_rest(*name),
            })
            .collect()
    }

    /// Takes other probes. A probe that is the same keeps its answers.
    pub(super) fn reprobe(&mut self, context: &Context<'_>, mode_changed: bool) {
        let Some(running) = self.state.running_mut() else {
            return;
        };
        let new = Probing::begin(&self.spec, context, running.instance.since);
        let probing = &mut running.probing;
        let mut old = std::mem::replace(probing, new);
        probing.turn = None;
        probing.startup_passed |= old.startup_passed;
        for (name, watched) in &mut probing.watched {
            let Some(known) = old.watched.remove(name) else {
                continue;
            };
            if known.spec == watched.spec {
                *watched = known;
                if mode_changed {
                    // A failure that was only reported is answered from now on, and the other way
                    // round.
                    watched.forget_failing();
                }
            } else {
                // Asked in another way, it is what it was until it answers.
                watched.take_over(&known);
            }
        }
    }

    /// Carries out all checks now, at the request of a person.
    pub(super) fn probe_by_hand(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        if let Some(running) = self.state.running_mut() {
            for watched in running.probing.watched.values_mut() {
                watched.hasten(now);
            }
        }
        self.ask_probes(context);
    }

    /// Begins the checks that are due.
    pub(super) fn ask_probes(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        let Some(running) = self.state.running_mut() else {
            return;
        };
        let probing = &mut running.probing;
        if probing.turn.is_some_and(|until| until <= now) {
            probing.turn = None;
        }
        let open: Vec<ProbeName> = probing.open().map(|(name, _)| *name).collect();
        let mut known = Vec::new();
        for name in open {
            let Some(watched) = probing.watched.get_mut(&name) else {
                continue;
            };
            if let Some(run) = watched.is_lost(now) {
                let outcome = Outcome::Unknown("no answer of ours came back".to_owned());
                watched.answer(now, run, &outcome, Duration::ZERO);
            }
            let Some((run, due)) = watched.begin(now, &mut self.probe_runs) else {
                continue;
            };
            if let Check::Notify { within } = watched.spec.check {
                let outcome = if within.is_some() && now.since(due) > watched.spec.period {
                    // The host slept, or the agent did not get to it.
                    running.words.alive_at = now;
                    Outcome::Unknown("nobody listened for a while".to_owned())
                } else {
                    running.words.judge(name, within, now)
                };
                known.push(((name, run), outcome));
            } else {
                context.decision.probes.push(ProbeRun {
                    workload: self.name.clone(),
                    instance: self.instance,
                    spec: Arc::clone(&self.spec),
                    probe: name,
                    run,
                    due,
                });
            }
        }
        for (probe, outcome) in known {
            self.probed(context, probe, &outcome, Duration::ZERO);
        }
    }

    pub(super) fn probed(
        &mut self,
        context: &mut Context<'_>,
        (name, run): (ProbeName, u64),
        outcome: &Outcome,
        took: Duration,
    ) {
        let now = context.moment.now;
        let Some(running) = self.state.running_mut() else {
            return;
        };
        let Some(watched) = running.probing.watched.get_mut(&name) else {
            return;
        };
        if !watched.answer(now, run, outcome, took) {
            return;
        }
        let threshold = watched.spec.failure_threshold;
        context.decision.answered = watched.last().map(|last| Answered {
            workload: self.name.clone(),
            probe: name,
            answer: last.answer,
            took: last.took,
        });
        match watched.last().map(|last| last.answer) {
            // Our own error turns nothing, whatever came before it.
            None | Some(Answer::Unknown) => return,
            Some(Answer::Passed) if name == ProbeName::Liveness => running.probing.spared = false,
            Some(Answer::Passed | Answer::Failed) => {}
        }
        let threshold = match outcome {
            Outcome::Failed(failure) if name == ProbeName::Liveness => {
                self.patience(context, threshold, failure)
            }
            Outcome::Passed | Outcome::Failed(_) | Outcome::Unknown(_) | Outcome::Did(_) => {
                threshold
            }
        };
        let running = self.state.running_mut();
        let watched = running.and_then(|running| running.probing.watched.get_mut(&name));
        let turned = watched.and_then(|watched| watched.turn(threshold));
        match (name, turned) {
            (_, None) | (ProbeName::Readiness, Some(_)) => {}
            (ProbeName::Startup, Some(true)) => self.started_up(context),
            (ProbeName::Liveness | ProbeName::Progress, Some(true)) => {}
            (ProbeName::Startup, Some(false)) => self.fails(context, Cause::Startup),
            (ProbeName::Liveness, Some(false)) => self.fails(context, Cause::Liveness),
            (ProbeName::Progress, Some(false)) => self.fails(context, Cause::Progress),
        }
    }

    /// Returns the number of failures in a row that count now.
    fn patience(&mut self, context: &mut Context<'_>, threshold: u32, failure: &Failure) -> u32 {
        match self.worst_verdict() {
            // Two witnesses.
            Some(Verdict::DeadLoop) => return 1,
            Some(Verdict::SyscallSpin | Verdict::OverBudget) => return threshold,
            None => {}
        }
        let Some(excuse) = self.excuse(failure) else {
            return threshold;
        };
        let Some(running) = self.state.running_mut() else {
            return threshold;
        };
        let probing = &mut running.probing;
        let liveness = probing.watched.get(&ProbeName::Liveness);
        let failures = liveness.map_or(0, Watched::failures);
        if failures >= threshold && !std::mem::replace(&mut probing.spared, true) {
            let why = format!(
                "liveness probe failed {failures} times, but {excuse}: it is given until the {}th",
                threshold.saturating_mul(GRACE_FACTOR)
            );
            self.report_health(context, self.health, why);
        }
        threshold.saturating_mul(GRACE_FACTOR)
    }

    /// Returns the cause of a late answer, if it is not the workload itself.
    fn excuse(&self, failure: &Failure) -> Option<String> {
        if !failure.slow {
            return None;
        }
        let claims = self.claims();
        if let Some(percent) = claims.throttled {
            return Some(format!("it is throttled to {percent} of a CPU"));
        }
        if claims.demoted {
            return Some("it is demoted".to_owned());
        }
        let Load { cpu, memory } = failure.load;
        if let Some(share) = memory.filter(|share| *share >= STALLED) {
            return Some(format!("it waits for memory {share} of the time"));
        }
        let share = cpu.filter(|share| *share >= BUSY)?;
        Some(format!("it waits for a CPU {share} of the time"))
    }

    fn started_up(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        if let Some(running) = self.state.running_mut() {
            running.probing.startup_passed = true;
            // As for systemd, the watchdog begins when the program is up.
            running.words.alive_at = now;
            running.probing.turn = None;
            for watched in running.probing.watched.values_mut() {
                watched.put_off(now);
            }
        }
        self.pass_trial(context);
        self.ask_probes(context);
    }

    /// Closes a half-open breaker after a trial that came up.
    pub(super) fn pass_trial(&mut self, context: &mut Context<'_>) {
        if !self.recovery.is_on_trial() {
            return;
        }
        let change = BreakerChange {
            state: BreakerState::Closed,
            cooldown: Duration::ZERO,
        };
        self.report(context, None, None, Detail::Breaker(change));
        self.recovery.close();
    }

    /// Handles a probe that has turned against the instance.
    fn fails(&mut self, context: &mut Context<'_>, cause: Cause) {
        self.refresh_health(context);
        let seq = self.health_seq;
        if self.spec.mode == Mode::Observe {
            let plan = self.restart_plan(cause, 1, Duration::ZERO, false);
            self.report(context, Some(cause), Some(seq), Detail::Restart(plan));
            return;
        }
        // A loop does not answer, so there is nothing to wait for.
        let kill = self.worst_verdict() == Some(Verdict::DeadLoop);
        let after = After::Recover(cause);
        self.stop_running(context, after, (cause, Some(seq)), kill);
    }
}

/// Returns the last answer in words.
#[must_use]
pub fn answer_in_words(last: &Last) -> String {
    match last.answer {
        Answer::Passed => format!("passed in {}", human_duration(last.took)),
        Answer::Failed | Answer::Unknown => format!("{}: {}", last.answer.as_str(), last.why),
    }
}
