//! Spinning threads between two agents.

use super::{Found, LOOK_AGAIN, Loops, Proof};
use crate::checkpoint::{KeptLoop, KeptLoops};
use crate::units::MonoTime;

impl Loops {
    pub(in crate::workload) fn kept(&self) -> KeptLoops {
        let found = self.found.values().map(|found| KeptLoop {
            suspect: found.suspect.clone(),
            start_ticks: found.suspect.thread.start_ticks,
            suspected: found.suspected,
            verdict: found.verdict,
            claims: found.claims,
            muted: found.muted,
        });
        KeptLoops {
            found: found.collect(),
            manual: self.manual,
            host_demoted: self.host_demoted,
        }
    }

    /// Resumes the loops. Each examined thread is examined once more: it may have slept meanwhile,
    /// and the claims hold until that is known.
    pub(in crate::workload) fn resume(kept: &KeptLoops, now: MonoTime) -> Self {
        let found = kept.found.iter().map(|found| {
            let mut suspect = found.suspect.clone();
            suspect.thread.start_ticks = found.start_ticks;
            let thread = suspect.thread;
            let resumed = Found {
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
            found: found.collect(),
            manual: kept.manual,
            host_demoted: kept.host_demoted,
            told_hot: None,
        }
    }
}
