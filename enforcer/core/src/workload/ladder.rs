//! The ladder of responses, and claims by hand: each rung holds for a step, then
//! comes the next, and what was taken is given back as soon as the loop ends. All
//! that goes to the kernel is the manifest's limits with what is claimed.

use super::loops::Proof;
use super::{After, Context, Lifecycle, Workload};
use crate::claims::Claims;
use crate::cpu_loop::{Rung, Thread, Verdict, is_reached};
use crate::event::{Cause, Detail, Reason, Release, ReleaseReason, Seq, Step, ThrottleChange};
use crate::limits::Limits;
use crate::spec::{CpuLoopWatch, Mode};
use crate::units::Percent;
use std::sync::Arc;
use std::time::Duration;

impl Workload {
    /// Climbs to the next open rung, if it is due.
    pub(super) fn climb(&mut self, context: &mut Context<'_>, thread: Thread) {
        let now = context.moment.now;
        let Some(watch) = self.spec.watch.cpu_loop.clone() else {
            return;
        };
        let before = self.claims();
        let Some(found) = self.thread_mut(thread) else {
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
        let mut claims = found.claims;
        match rung {
            Rung::Tell => return,
            Rung::Demote => claims.demoted = true,
            Rung::Throttle(percent) => claims.throttled = Some(percent),
            Rung::Restart => {
                found.climb = None;
                self.last_rung(context, thread, (seq, next - 1), watch.assume_loop);
                return;
            }
        }
        if self.spec.mode == Mode::Observe || !self.owner_takes(rung) {
            self.report_throttle(context, Cause::CpuLoop, Some(seq), claims, false);
            return;
        }
        if let Some(found) = self.thread_mut(thread) {
            found.claims = claims;
        }
        self.claimed(context, before, Cause::CpuLoop, Some(seq));
    }

    /// Restarts for a loop. An older proof may have ended without a sleep, so the loop is proved
    /// once more unless it was proved just now.
    fn last_rung(
        &mut self,
        context: &mut Context<'_>,
        thread: Thread,
        (seq, rung): (Seq, usize),
        assumed: bool,
    ) {
        let now = context.moment.now;
        let Some(found) = self.thread_mut(thread) else {
            return;
        };
        if assumed || found.proved == Some(now) {
            self.restart_of_loop(context, seq);
            return;
        }
        found.confirming = Some(rung);
        if matches!(found.proof, Proof::Done(_)) {
            found.proof = Proof::Waiting(now);
        }
    }

    pub(super) fn restart_of_loop(&mut self, context: &mut Context<'_>, seq: Seq) {
        if self.spec.mode == Mode::Observe {
            let plan = self.restart_plan(Cause::CpuLoop, 1, Duration::ZERO, false);
            let detail = Detail::Restart(plan);
            self.report(context, Some(Cause::CpuLoop), Some(seq), detail);
            return;
        }
        // A loop does not answer, so there is nothing to wait for.
        let after = After::Recover(Cause::CpuLoop);
        self.stop_running(context, after, (Cause::CpuLoop, Some(seq)), true);
    }

    /// Reports a changed claim, and writes the limits.
    pub(super) fn claimed(
        &mut self,
        context: &mut Context<'_>,
        before: Claims,
        cause: Cause,
        because: Option<Seq>,
    ) {
        let claims = self.claims();
        if claims == before {
            return;
        }
        let seq = self.report_throttle(context, cause, because, claims, true);
        self.write_limits(context, cause, seq);
    }

    fn report_throttle(
        &self,
        context: &mut Context<'_>,
        cause: Cause,
        because: Option<Seq>,
        claims: Claims,
        carried_out: bool,
    ) -> Seq {
        let change = ThrottleChange {
            throttle: claims.throttling(),
            cpu_percent: claims.throttled.map(|percent| percent.0),
            carried_out,
        };
        self.report(context, Some(cause), because, Detail::Throttle(change))
    }

    pub(super) fn released(
        &mut self,
        context: &mut Context<'_>,
        before: Claims,
        (cause, because): (Cause, Option<Seq>),
        why: ReleaseReason,
    ) {
        let claims = self.claims();
        if claims == before {
            return;
        }
        let detail = Detail::Release(Release {
            throttle: claims.throttling(),
            why,
        });
        let seq = self.report(context, Some(cause), because, detail);
        self.write_limits(context, cause, seq);
    }

    pub(super) fn throttle_by_hand(&mut self, context: &mut Context<'_>, percent: Percent) {
        let before = self.claims();
        self.standing_claims.throttled = Some(percent);
        self.claimed(context, before, Cause::Manual, None);
    }

    pub(super) fn release_by_hand(&mut self, context: &mut Context<'_>) {
        let before = self.claims();
        self.standing_claims.throttled = None;
        self.standing_claims.demoted = false;
        for found in self.threads_mut() {
            found.claims = Claims::default();
            found.muted = true;
        }
        self.released(
            context,
            before,
            (Cause::Manual, None),
            ReleaseReason::Operator,
        );
    }

    pub(super) fn write_limits(&mut self, context: &mut Context<'_>, cause: Cause, seq: Seq) {
        if self.main_pid().is_none() && !matches!(self.state, Lifecycle::Starting { .. }) {
            // The next start takes them with it.
            return;
        }
        self.limits_refused = None;
        self.writes_under_way.push_back((cause, Vec::new()));
        let write = Step::WriteLimits {
            spec: Arc::clone(&self.spec),
            limits: self.effective_limits(),
        };
        self.step(context, Reason { cause, seq }, write);
    }

    /// Returns the limits that the kernel should have: the manifest's, lowered by the claims.
    pub(super) fn effective_limits(&self) -> Box<Limits> {
        Box::new(self.claims().effective(&self.spec.limits))
    }
}

/// Returns the first rung from this one on that the verdict reaches, and the one after it.
fn next_rung(watch: &CpuLoopWatch, from: usize, verdict: Verdict) -> Option<(Rung, usize)> {
    let rungs = watch.respond.iter().copied().enumerate().skip(from);
    let mut open = rungs.filter(|(_, rung)| is_reached(*rung, verdict, watch.assume_loop));
    open.next().map(|(index, rung)| (rung, index + 1))
}
