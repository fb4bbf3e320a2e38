//! Probes between two agents.

use super::Probing;
use crate::checkpoint::KeptProbing;
use crate::units::MonoTime;
use crate::workload::{Context, Workload};

impl Probing {
    pub(in crate::workload) fn kept(&self) -> KeptProbing {
        let answers = self.watched.iter();
        KeptProbing {
            answers: answers
                .map(|(name, watched)| (*name, watched.tally()))
                .collect(),
            startup_passed: self.startup_passed,
        }
    }
}

impl Workload {
    /// Goes on asking an instance that another agent has asked before.
    pub(in crate::workload) fn resume_probes(
        &mut self,
        context: &mut Context<'_>,
        kept: &KeptProbing,
        since: MonoTime,
    ) {
        self.probing = Probing::begin(&self.spec, context, since);
        self.probing.startup_passed |= kept.startup_passed;
        if self.probing.startup_passed {
            self.probing.turn = None;
        }
        for (name, tally) in &kept.answers {
            if let Some(watched) = self.probing.watched.get_mut(name) {
                watched.resume(*tally);
            }
        }
        self.ask_probes(context);
    }
}
