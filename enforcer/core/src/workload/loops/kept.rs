//! Spinning threads between two agents.

use super::{LOOK_AGAIN, Loops, Proof, SpinningThread};
use crate::checkpoint::{KeptLoop, KeptLoops};
use crate::units::MonoTime;

impl Loops {
    pub(in crate::workload) fn kept(&self) -> Vec<KeptLoop> {
        let kept = self.threads.values().map(|found| KeptLoop {
            suspect: found.suspect.clone(),
            start_ticks: found.suspect.thread.start_ticks,
            suspected: found.suspected,
            verdict: found.verdict,
            claims: found.claims,
            muted: found.muted,
        });
        kept.collect()
    }

    /// Resumes the loops. Each examined thread is examined once more: it may have slept meanwhile,
    /// and the claims hold until that is known.
    pub(in crate::workload) fn resume(kept: &KeptLoops, now: MonoTime) -> Self {
        let threads = kept.threads.iter().map(|found| {
            let mut suspect = found.suspect.clone();
            suspect.thread.start_ticks = found.start_ticks;
            let thread = suspect.thread;
            let resumed = SpinningThread {
                suspect,
                suspected: found.suspected,
                cpu_before: None,
                proof: Proof::Waiting(now),
                look_again: LOOK_AGAIN,
                verdict: found.verdict,
                // Rungs that hold already are passed in their time.
                climb: (found.verdict.is_some() && !found.muted).then_some((0, now)),
                proved: None,
                claims: found.claims,
                confirming: None,
                muted: found.muted,
            };
            (thread, resumed)
        });
        Self {
            threads: threads.collect(),
            hot_reported: None,
        }
    }
}
