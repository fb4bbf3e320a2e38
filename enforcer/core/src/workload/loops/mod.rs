//! The spinning threads of a workload: their turn for a proof, its result, and their end.
//! `ladder.rs` decides about the answer.
//!
//! ```text
//! suspected → waiting → under proof → judged ─(step)→ rung → rung → … restart
//!     └───────────┴──────────┴───────────┴─ it slept, or is gone: all is undone
//! ```

mod kept;

use super::{Context, Workload};
use crate::admission::{CROWD, Waiting};
use crate::claims::Claims;
use crate::cpu_loop::{self, Evidence, Suspect, Thread, Verdict};
use crate::event::{Cause, CpuLoopFound, Detail, Reason, Release, ReleaseReason, Seq, Step};
use crate::spec::Mode;
use crate::units::MonoTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// The time after which a suspect without a proof is reported as hot.
const OVERDUE: Duration = Duration::from_secs(15);
/// The time until a hot thread is examined again, because it may fall into a dead loop later. Each
/// further time is twice the one before.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// … up to this.
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(300);
/// A proof that hasn't come back by then never will, and others may have its turn.
const PROOF_LOST: Duration = Duration::from_secs(30);
/// Busy workloads are not news each time one more of their threads gets hot.
const HOT_IS_NEWS_AFTER: Duration = Duration::from_secs(60);

/// The spinning threads of an instance, and the claims on its CPU time that they led to.
#[derive(Clone, Debug, Default)]
pub(super) struct Loops {
    pub(super) threads: BTreeMap<Thread, SpinningThread>,
    /// The last report of a hot thread: its time and its event.
    hot_reported: Option<(MonoTime, Seq)>,
}

#[derive(Clone, Debug)]
pub(super) struct SpinningThread {
    pub(super) suspect: Suspect,
    pub(super) suspected: MonoTime,
    /// The thread's CPU time before this streak.
    pub(super) cpu_before: Option<Duration>,
    pub(super) proof: Proof,
    /// The time between the next proof and the one after it.
    pub(super) look_again: Duration,
    pub(super) verdict: Option<(Verdict, Seq)>,
    /// The next rung of the ladder, and its time.
    pub(super) climb: Option<(usize, MonoTime)>,
    /// The time of the last proof of a dead loop.
    pub(super) proved: Option<MonoTime>,
    pub(super) claims: Claims,
    /// The rung, a restart, that is due and waits for a fresh proof.
    pub(super) confirming: Option<usize>,
    /// An operator has released the claims: the loop is only reported from now on.
    pub(super) muted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    Waiting(MonoTime),
    Running(MonoTime),
    /// The next one is due then.
    Done(Option<MonoTime>),
}

impl Loops {
    fn claims(&self) -> Claims {
        let claims = self.threads.values().map(|found| found.claims);
        claims.fold(Claims::default(), Claims::and)
    }

    pub(super) fn worst_verdict(&self) -> Option<Verdict> {
        let verdicts = self.threads.values().filter_map(|found| found.verdict);
        verdicts.map(|(verdict, _)| verdict).max()
    }

    /// Returns the worst verdict that holds, in words.
    pub(super) fn describe(&self) -> Option<String> {
        let judged = self
            .threads
            .values()
            .filter_map(|found| Some((found.verdict?.0, &found.suspect)));
        judged
            .max_by_key(|(verdict, _)| *verdict)
            .map(|(verdict, suspect)| {
                format!(
                    "{} in {} (tid {})",
                    verdict, suspect.command, suspect.thread.tid
                )
            })
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let due = |found: &SpinningThread| {
            let overdue = (found.verdict.is_none()).then(|| found.suspected.after(OVERDUE));
            let climb = found.climb.map(|(_, at)| at);
            let again = match found.proof {
                Proof::Done(again) => again,
                Proof::Running(since) => Some(since.after(PROOF_LOST)),
                Proof::Waiting(_) => None,
            };
            [overdue, climb, again].into_iter().flatten().min()
        };
        self.threads.values().filter_map(due).min()
    }
}

impl Workload {
    pub(super) fn loops(&self) -> Option<&Loops> {
        self.state.instance().map(|instance| &instance.loops)
    }

    pub(super) fn worst_verdict(&self) -> Option<Verdict> {
        self.loops().and_then(Loops::worst_verdict)
    }

    fn threads(&self) -> impl Iterator<Item = (&Thread, &SpinningThread)> {
        self.loops().into_iter().flat_map(|loops| &loops.threads)
    }

    pub(super) fn threads_mut(&mut self) -> impl Iterator<Item = &mut SpinningThread> {
        let instance = self.state.instance_mut().into_iter();
        instance.flat_map(|instance| instance.loops.threads.values_mut())
    }

    pub(super) fn thread_mut(&mut self, thread: Thread) -> Option<&mut SpinningThread> {
        self.state.instance_mut()?.loops.threads.get_mut(&thread)
    }

    /// Returns all claims on the workload's CPU time.
    pub(super) fn claims(&self) -> Claims {
        match self.loops() {
            Some(loops) => self.standing_claims.and(loops.claims()),
            None => self.standing_claims,
        }
    }

    pub(crate) fn cpu_suspect(&mut self, context: &mut Context<'_>, suspect: Suspect) {
        let Some(running) = self.state.running_mut() else {
            return;
        };
        if self.spec.watch.cpu_loop.is_none() {
            return;
        }
        let now = context.moment.now;
        let threads = &mut running.instance.loops.threads;
        let thread = suspect.thread;
        threads.entry(thread).or_insert(SpinningThread {
            suspect,
            suspected: now,
            cpu_before: None,
            proof: Proof::Waiting(now),
            look_again: LOOK_AGAIN,
            verdict: None,
            climb: None,
            proved: None,
            claims: Claims::default(),
            confirming: None,
            muted: false,
        });
        if !self.spec.is_traced() {
            self.judge_untraced(context, thread);
        }
    }

    pub(crate) fn proofs_running(&self) -> usize {
        self.threads()
            .filter(|(_, found)| matches!(found.proof, Proof::Running(_)))
            .count()
    }

    pub(crate) fn has_suspects(&self) -> bool {
        self.threads().next().is_some()
    }

    pub(crate) fn waiting_for_proof(&self) -> impl Iterator<Item = Waiting> + '_ {
        let judged = self.worst_verdict().is_some();
        let crowded = judged && self.threads().count() >= CROWD;
        let traced = self.threads().filter(|_| self.spec.is_traced());
        traced.filter_map(move |(thread, found)| {
            let Proof::Waiting(since) = found.proof else {
                return None;
            };
            Some(Waiting {
                workload: self.name.clone(),
                thread: *thread,
                is_first: found.verdict.is_none(),
                crowded: crowded && found.confirming.is_none(),
                priority: self.spec.priority,
                since,
            })
        })
    }

    pub(crate) fn begin_proof(&mut self, context: &mut Context<'_>, thread: Thread) {
        let Some(found) = self.thread_mut(thread) else {
            return;
        };
        found.proof = Proof::Running(context.moment.now);
        let suspect = found.suspect.clone();
        let reason = Reason {
            cause: Cause::CpuLoop,
            seq: Seq(*context.next_seq),
        };
        self.step(context, reason, Step::Investigate { suspect });
    }

    pub(crate) fn cpu_evidence(
        &mut self,
        context: &mut Context<'_>,
        thread: Thread,
        evidence: Option<Box<Evidence>>,
    ) {
        let Some(evidence) = evidence else {
            self.end_streak(context, thread);
            return;
        };
        let now = context.moment.now;
        let Some(found) = self.thread_mut(thread) else {
            return;
        };
        let verdict = cpu_loop::verdict(&evidence);
        let again = (verdict != Verdict::DeadLoop).then(|| now.after(found.look_again));
        found.proof = Proof::Done(again);
        if verdict == Verdict::DeadLoop {
            found.proved = Some(now);
        }
        found.look_again = (found.look_again * 2).min(LOOK_AGAIN_MOST);
        // From now on the agent's own stops count among the thread's sleeps.
        found.suspect.sleeps = None;
        let confirming = found.confirming.take();
        let before = *found
            .cpu_before
            .get_or_insert(evidence.thread_cpu.saturating_sub(found.suspect.cpu));
        let cpu = evidence
            .thread_cpu
            .saturating_sub(before)
            .max(found.suspect.cpu);
        match found.verdict {
            Some((_, seq)) if confirming.is_some() && verdict == Verdict::DeadLoop => {
                self.restart_of_loop(context, seq);
            }
            Some(_) if confirming.is_some() => {
                // This is reported, because it explains why there is no restart; the proof is tried
                // again.
                found.climb = confirming.map(|rung| (rung, now.after(found.look_again)));
                let command = found.suspect.command.clone();
                let detail = Detail::CpuLoop(Box::new(CpuLoopFound {
                    verdict,
                    thread,
                    command,
                    cpu,
                    evidence: *evidence,
                }));
                self.report(context, None, None, detail);
            }
            Some((known, _)) if verdict <= known => {}
            Some(_) | None => self.judge(context, thread, verdict, cpu, *evidence),
        }
    }

    pub(super) fn judge(
        &mut self,
        context: &mut Context<'_>,
        thread: Thread,
        verdict: Verdict,
        cpu: Duration,
        evidence: Evidence,
    ) {
        let now = context.moment.now;
        let loops = self.loops();
        let Some(found) = loops.and_then(|loops| loops.threads.get(&thread)) else {
            return;
        };
        let known = loops.and_then(|loops| loops.hot_reported);
        let known = known
            .filter(|(at, _)| verdict == Verdict::OverBudget && now.since(*at) < HOT_IS_NEWS_AFTER);
        let seq = match known {
            Some((_, seq)) => seq,
            None => {
                let detail = Detail::CpuLoop(Box::new(CpuLoopFound {
                    verdict,
                    thread,
                    command: found.suspect.command.clone(),
                    cpu,
                    evidence,
                }));
                self.report(context, None, None, detail)
            }
        };
        let Some(instance) = self.state.instance_mut() else {
            return;
        };
        if verdict == Verdict::OverBudget && known.is_none() {
            instance.loops.hot_reported = Some((now, seq));
        }
        if let Some(found) = instance.loops.threads.get_mut(&thread) {
            found.verdict = Some((verdict, seq));
            found.climb = Some((0, now));
        }
        self.climb(context, thread);
    }

    /// Releases the claims of a thread that has slept or is gone.
    pub(crate) fn cpu_streak_ended(&mut self, context: &mut Context<'_>, thread: Thread) {
        if !self.runs() {
            // The thread ends with its instance, whose end releases every claim.
            return;
        }
        let found = self.thread_mut(thread);
        if found.is_some_and(|found| matches!(found.proof, Proof::Running(_))) {
            // The proof reports the end itself, and its stops look like sleeps.
            return;
        }
        self.end_streak(context, thread);
    }

    fn end_streak(&mut self, context: &mut Context<'_>, thread: Thread) {
        let before = self.claims();
        let instance = self.state.instance_mut();
        let ended = instance.and_then(|instance| instance.loops.threads.remove(&thread));
        if let Some(found) = ended {
            let because = found.verdict.map(|(_, seq)| seq);
            self.released(
                context,
                before,
                (Cause::CpuLoop, because),
                ReleaseReason::LoopEnded,
            );
        }
    }

    /// Drops the loops of an instance that is gone. The next start writes the manifest's limits.
    pub(super) fn forget_loops(&mut self, context: &mut Context<'_>) {
        let before = self.claims();
        if let Some(instance) = self.state.instance_mut() {
            instance.loops = Loops::default();
        }
        let claims = self.claims();
        if claims != before {
            let detail = Detail::Release(Release {
                throttle: claims.throttling(),
                why: ReleaseReason::ProcessGone,
            });
            self.report(context, Some(Cause::CpuLoop), None, detail);
        }
    }

    /// Has the threads that are hot already wait for a proof: nothing reports them again before they
    /// have slept.
    pub(super) fn trace_loops(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        for found in self.threads_mut() {
            if matches!(found.proof, Proof::Done(_)) {
                found.proof = Proof::Waiting(now);
            }
        }
    }

    /// Takes another ladder, or the end of the watch for loops.
    pub(super) fn rewatch_loops(&mut self, context: &mut Context<'_>) {
        let before = self.claims();
        let why = if self.spec.watch.cpu_loop.is_none() {
            if let Some(instance) = self.state.instance_mut() {
                instance.loops.threads.clear();
            }
            ReleaseReason::NotWatched
        } else if self.spec.mode == Mode::Observe {
            for found in self.threads_mut() {
                found.claims = Claims::default();
            }
            ReleaseReason::Observe
        } else {
            // Rungs that hold already are passed in their time.
            let judged = |found: &&mut SpinningThread| found.verdict.is_some();
            for found in self.threads_mut().filter(judged) {
                found.climb = Some((0, context.moment.now));
            }
            return;
        };
        self.released(context, before, (Cause::Config, None), why);
    }

    /// Handles everything that is due: the next rungs, further proofs, and proofs that are overdue.
    pub(super) fn wake_loops(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        let threads: Vec<Thread> = self.threads().map(|(thread, _)| *thread).collect();
        for thread in threads {
            self.climb(context, thread);
            let Some(found) = self.thread_mut(thread) else {
                continue;
            };
            match found.proof {
                Proof::Done(Some(at)) if at <= now => found.proof = Proof::Waiting(now),
                Proof::Running(since) if now.since(since) >= PROOF_LOST => {
                    found.proof = Proof::Done(None);
                }
                Proof::Done(_) | Proof::Waiting(_) | Proof::Running(_) => {}
            }
            if found.verdict.is_none() && now.since(found.suspected) >= OVERDUE {
                let (source, cpu) = (found.suspect.source, found.suspect.cpu);
                let evidence = Evidence::none(source, "its turn for a proof did not come in time");
                self.judge(context, thread, Verdict::OverBudget, cpu, evidence);
            }
        }
    }
}
