//! Threads of this workload that spin, and the ladder of responses: each rung
//! holds for a step, then comes the next, and what was taken is given back as
//! soon as the loop ends by itself.
//!
//! ```text
//! suspected → waiting → under proof → judged ─(step)→ rung → rung → … restart
//!     └───────────┴──────────┴───────────┴─ it slept, or is gone: all is undone
//! ```

use super::{After, Context, Lifecycle, Workload};
use crate::admission::Waiting;
use crate::claims::Claims;
use crate::cpu_loop::{Evidence, Rung, Suspect, Thread, Verdict};
use crate::event::{ActionKind, Cause, CpuLoopFound, Detail, Reason, Seq, ThrottleChange};
use crate::limits::Limits;
use crate::spec::{CpuLoopWatch, Mode};
use crate::units::{MonoTime, Percent};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A suspect that isn't proved by then is told as what it is: hot.
const OVERDUE: Duration = Duration::from_secs(15);
/// A hot thread may fall into a dead loop later on: it is looked at again after
/// this, then twice as late, …
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// … up to this.
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(300);
/// A proof that hasn't come back by then never will, and others may have its turn.
const PROOF_LOST: Duration = Duration::from_secs(30);
/// Busy workloads are not news each time one more of their threads gets hot.
const HOT_IS_NEWS_AFTER: Duration = Duration::from_secs(60);

/// What is known of this workload's spinning threads, and what was taken from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Loops {
    found: BTreeMap<Thread, Found>,
    /// By an operator, until an operator gives it back.
    manual: Option<Percent>,
    /// When and by which record a hot thread was last told.
    told_hot: Option<(MonoTime, Seq)>,
}

#[derive(Clone, Debug)]
struct Found {
    suspect: Suspect,
    suspected: MonoTime,
    /// The thread's CPU time, less what it has used in this streak.
    cpu_before: Option<Duration>,
    proof: Proof,
    /// How long after its next proof it is looked at again.
    look_again: Duration,
    verdict: Option<(Verdict, Seq)>,
    /// The next rung of the ladder, and when it is due.
    climb: Option<(usize, MonoTime)>,
    /// When it was last proved a dead loop.
    proved: Option<MonoTime>,
    claims: Claims,
    /// The last rung is due, and waits for a fresh proof.
    confirming: bool,
    /// An operator has given back what the ladder took: it is only told now.
    muted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Waiting(MonoTime),
    Running(MonoTime),
    /// The next one is due then.
    Done(Option<MonoTime>),
}

impl Loops {
    pub(super) fn claims(&self) -> Claims {
        let manual = Claims {
            demoted: false,
            throttled: self.manual,
        };
        self.found
            .values()
            .fold(manual, |claims, found| claims.and(found.claims))
    }

    /// The worst verdict that stands, in words.
    pub(super) fn describe(&self) -> Option<String> {
        let judged = self
            .found
            .values()
            .filter_map(|found| Some((found.verdict?.0, &found.suspect)));
        judged
            .max_by_key(|(verdict, _)| *verdict)
            .map(|(verdict, suspect)| {
                format!(
                    "{} in {} (tid {})",
                    verdict.word(),
                    suspect.command,
                    suspect.thread.tid
                )
            })
    }

    pub(super) fn deadline(&self) -> Option<MonoTime> {
        let due = |found: &Found| {
            let overdue = (found.verdict.is_none()).then(|| found.suspected.after(OVERDUE));
            let climb = found.climb.map(|(_, at)| at);
            let again = match found.proof {
                Proof::Done(again) => again,
                Proof::Running(since) => Some(since.after(PROOF_LOST)),
                Proof::Waiting(_) => None,
            };
            [overdue, climb, again].into_iter().flatten().min()
        };
        self.found.values().filter_map(due).min()
    }
}

impl Workload {
    /// What the kernel should have now: the manifest's limits, and what was claimed.
    pub(super) fn effective_limits(&self) -> Box<Limits> {
        Box::new(self.loops.claims().effective(&self.spec.limits))
    }

    pub(crate) fn cpu_suspect(&mut self, context: &mut Context<'_>, suspect: Suspect) {
        let runs = matches!(self.state, Lifecycle::Running { .. });
        if !runs || self.spec.watch.cpu_loop.is_none() {
            return;
        }
        let now = context.moment.now;
        self.loops.found.entry(suspect.thread).or_insert(Found {
            suspect,
            suspected: now,
            cpu_before: None,
            proof: Proof::Waiting(now),
            look_again: LOOK_AGAIN,
            verdict: None,
            climb: None,
            proved: None,
            claims: Claims::default(),
            confirming: false,
            muted: false,
        });
    }

    pub(crate) fn proofs_running(&self) -> usize {
        let running = |found: &&Found| matches!(found.proof, Proof::Running(_));
        self.loops.found.values().filter(running).count()
    }

    pub(crate) fn waiting_for_proof(&self) -> impl Iterator<Item = Waiting> + '_ {
        self.loops.found.iter().filter_map(|(thread, found)| {
            let Proof::Waiting(since) = found.proof else {
                return None;
            };
            Some(Waiting {
                workload: self.name.clone(),
                thread: *thread,
                is_first: found.verdict.is_none(),
                priority: self.spec.priority,
                since,
            })
        })
    }

    pub(crate) fn begin_proof(&mut self, context: &mut Context<'_>, thread: Thread) {
        let Some(found) = self.loops.found.get_mut(&thread) else {
            return;
        };
        found.proof = Proof::Running(context.moment.now);
        let suspect = found.suspect.clone();
        let reason = Reason {
            cause: Cause::CpuLoop,
            seq: Seq(*context.next_seq),
        };
        self.act(context, reason, ActionKind::Investigate { suspect });
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
        let Some(found) = self.loops.found.get_mut(&thread) else {
            return;
        };
        let verdict = evidence.verdict();
        let again = (verdict != Verdict::DeadLoop).then(|| now.after(found.look_again));
        found.proof = Proof::Done(again);
        if verdict == Verdict::DeadLoop {
            found.proved = Some(now);
        }
        found.look_again = (found.look_again * 2).min(LOOK_AGAIN_MOST);
        // From now on our own stops are among its sleeps.
        found.suspect.sleeps = None;
        let confirmed = std::mem::take(&mut found.confirming) && verdict == Verdict::DeadLoop;
        let before = *found
            .cpu_before
            .get_or_insert(evidence.thread_cpu.saturating_sub(found.suspect.cpu));
        let cpu = evidence
            .thread_cpu
            .saturating_sub(before)
            .max(found.suspect.cpu);
        match found.verdict {
            Some((_, seq)) if confirmed => self.restart_of_loop(context, seq),
            Some((known, _)) if verdict <= known => {}
            Some(_) | None => self.judge(context, thread, verdict, cpu, *evidence),
        }
    }

    fn judge(
        &mut self,
        context: &mut Context<'_>,
        thread: Thread,
        verdict: Verdict,
        cpu: Duration,
        evidence: Evidence,
    ) {
        let now = context.moment.now;
        let Some(found) = self.loops.found.get(&thread) else {
            return;
        };
        let told = self.loops.told_hot.filter(|(told, _)| {
            verdict == Verdict::OverBudget && now.since(*told) < HOT_IS_NEWS_AFTER
        });
        let seq = match told {
            Some((_, seq)) => seq,
            None => {
                let detail = Detail::CpuLoop(Box::new(CpuLoopFound {
                    verdict,
                    thread,
                    command: found.suspect.command.clone(),
                    cpu,
                    evidence,
                }));
                self.tell(context, None, None, detail)
            }
        };
        if verdict == Verdict::OverBudget && told.is_none() {
            self.loops.told_hot = Some((now, seq));
        }
        if let Some(found) = self.loops.found.get_mut(&thread) {
            found.verdict = Some((verdict, seq));
            found.climb = Some((0, now));
        }
        self.climb(context, thread);
    }

    /// Takes the next open rung, if it is due.
    fn climb(&mut self, context: &mut Context<'_>, thread: Thread) {
        let now = context.moment.now;
        let Some(watch) = self.spec.watch.cpu_loop.clone() else {
            return;
        };
        let before = self.loops.claims();
        let Some(found) = self.loops.found.get_mut(&thread) else {
            return;
        };
        if found.muted {
            found.climb = None;
        }
        let due = found.climb.filter(|(_, at)| *at <= now);
        let (Some((verdict, seq)), Some((from, _))) = (found.verdict, due) else {
            return;
        };
        let Some((rung, next)) = next_rung(&watch, from, verdict) else {
            found.climb = None;
            return;
        };
        found.climb = Some((next, now.after(watch.step)));
        let observed = self.spec.mode == Mode::Observe;
        let mut claims = found.claims;
        match rung {
            Rung::Tell => return,
            Rung::Demote => claims.demoted = true,
            Rung::Throttle(percent) => claims.throttled = Some(percent),
            Rung::Restart => {
                found.climb = None;
                self.last_rung(context, thread, seq, watch.assume_loop);
                return;
            }
        }
        if observed {
            self.tell_throttle(context, Cause::CpuLoop, Some(seq), claims, false);
            return;
        }
        found.claims = claims;
        self.claimed(context, before, Cause::CpuLoop, Some(seq));
    }

    /// A restart is due. What was proved a while ago may have ended without a
    /// sleep: unless it was proved just now, it is proved once more.
    fn last_rung(&mut self, context: &mut Context<'_>, thread: Thread, seq: Seq, assumed: bool) {
        let now = context.moment.now;
        let Some(found) = self.loops.found.get_mut(&thread) else {
            return;
        };
        if assumed || found.proved == Some(now) {
            self.restart_of_loop(context, seq);
            return;
        }
        found.confirming = true;
        if matches!(found.proof, Proof::Done(_)) {
            found.proof = Proof::Waiting(now);
        }
    }

    fn restart_of_loop(&mut self, context: &mut Context<'_>, seq: Seq) {
        if self.spec.mode == Mode::Observe {
            let plan = self.restart_plan(1, Duration::ZERO, false);
            let detail = Detail::Restart(plan);
            self.tell(context, Some(Cause::CpuLoop), Some(seq), detail);
            return;
        }
        if let Lifecycle::Running { pid, since } = self.state {
            // What loops does not answer: there is nothing to wait for.
            let after = After::Recover(Cause::CpuLoop);
            self.stop_running(
                context,
                (pid, since),
                after,
                (Cause::CpuLoop, Some(seq)),
                true,
            );
        }
    }

    /// Something was taken or given back: says so, and has the kernel follow.
    fn claimed(
        &mut self,
        context: &mut Context<'_>,
        before: Claims,
        cause: Cause,
        because: Option<Seq>,
    ) {
        let claims = self.loops.claims();
        if claims == before {
            return;
        }
        let seq = self.tell_throttle(context, cause, because, claims, true);
        self.write_limits(context, cause, seq);
    }

    fn tell_throttle(
        &self,
        context: &mut Context<'_>,
        cause: Cause,
        because: Option<Seq>,
        claims: Claims,
        carried_out: bool,
    ) -> Seq {
        let change = ThrottleChange {
            throttle: claims.word(),
            cpu_percent: claims.throttled.map(|percent| percent.0),
            carried_out,
        };
        self.tell(context, Some(cause), because, Detail::Throttle(change))
    }

    /// It has slept, or is gone: what was taken because of it is given back.
    pub(crate) fn cpu_streak_ended(&mut self, context: &mut Context<'_>, thread: Thread) {
        let found = self.loops.found.get(&thread);
        if found.is_some_and(|found| matches!(found.proof, Proof::Running(_))) {
            // The proof itself will tell, and its stops look like sleeps.
            return;
        }
        self.end_streak(context, thread);
    }

    fn end_streak(&mut self, context: &mut Context<'_>, thread: Thread) {
        let before = self.loops.claims();
        if let Some(found) = self.loops.found.remove(&thread) {
            let because = found.verdict.map(|(_, seq)| seq);
            self.released(
                context,
                before,
                (Cause::CpuLoop, because),
                "the loop has ended",
            );
        }
    }

    fn released(
        &mut self,
        context: &mut Context<'_>,
        before: Claims,
        (cause, because): (Cause, Option<Seq>),
        why: &'static str,
    ) {
        let claims = self.loops.claims();
        if claims == before {
            return;
        }
        let detail = Detail::Release {
            throttle: claims.word(),
            why,
        };
        let seq = self.tell(context, Some(cause), because, detail);
        self.write_limits(context, cause, seq);
    }

    /// No thread of an instance that is gone spins any more. The next start
    /// writes what the manifest says.
    pub(super) fn forget_loops(&mut self, context: &mut Context<'_>) {
        let before = self.loops.claims();
        self.loops.found.clear();
        self.loops.told_hot = None;
        let claims = self.loops.claims();
        if claims != before {
            let detail = Detail::Release {
                throttle: claims.word(),
                why: "its process is gone",
            };
            self.tell(context, Some(Cause::CpuLoop), None, detail);
        }
    }

    /// The manifest has another ladder, or watches for loops no more.
    pub(super) fn rewatch_loops(&mut self, context: &mut Context<'_>) {
        let before = self.loops.claims();
        let why = if self.spec.watch.cpu_loop.is_none() {
            self.loops.found.clear();
            "watch.cpu_loop is off"
        } else if self.spec.mode == Mode::Observe {
            for found in self.loops.found.values_mut() {
                found.claims = Claims::default();
            }
            "mode is observe"
        } else {
            // Rungs that hold already are passed in their time.
            for found in self.loops.found.values_mut() {
                found.climb = Some((0, context.moment.now));
            }
            return;
        };
        self.released(context, before, (Cause::Config, None), why);
    }

    pub(super) fn throttle_by_hand(&mut self, context: &mut Context<'_>, percent: Percent) {
        let before = self.loops.claims();
        self.loops.manual = Some(percent);
        self.claimed(context, before, Cause::Manual, None);
    }

    pub(super) fn release_by_hand(&mut self, context: &mut Context<'_>) {
        let before = self.loops.claims();
        self.loops.manual = None;
        for found in self.loops.found.values_mut() {
            found.claims = Claims::default();
            found.muted = true;
        }
        self.released(
            context,
            before,
            (Cause::Manual, None),
            "an operator released it",
        );
    }

    /// Does what is due: the next rungs, another look, a word on what is overdue.
    pub(super) fn wake_loops(&mut self, context: &mut Context<'_>) {
        let now = context.moment.now;
        let threads: Vec<Thread> = self.loops.found.keys().copied().collect();
        for thread in threads {
            self.climb(context, thread);
            let Some(found) = self.loops.found.get_mut(&thread) else {
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

    pub(super) fn write_limits(&mut self, context: &mut Context<'_>, cause: Cause, seq: Seq) {
        if self.main_pid().is_none() && !matches!(self.state, Lifecycle::Starting { .. }) {
            // The next start takes them with it.
            return;
        }
        self.limits_refused = false;
        self.limits_cause = cause;
        self.writes_under_way += 1;
        let kind = ActionKind::WriteLimits {
            spec: Arc::clone(&self.spec),
            limits: self.effective_limits(),
        };
        self.act(context, Reason { cause, seq }, kind);
    }
}

/// The first rung from this one on that the verdict reaches, and the one after it.
fn next_rung(watch: &CpuLoopWatch, from: usize, verdict: Verdict) -> Option<(Rung, usize)> {
    let rungs = watch.respond.iter().copied().enumerate().skip(from);
    let mut open = rungs.filter(|(_, rung)| rung.is_open_to(verdict, watch.assume_loop));
    open.next().map(|(index, rung)| (rung, index + 1))
}
