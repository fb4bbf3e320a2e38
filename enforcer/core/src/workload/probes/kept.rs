//! Probes between two agents.

use super::Probing;
use crate::checkpoint::KeptProbing;
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
    ) {
        let Some(running) = self.state.running_mut() else {
            return;
        };
        let mut probing = Probing::begin(&self.spec, context, running.instance.since);
        probing.startup_passed |= kept.startup_passed;
        if probing.startup_passed {
            probing.turn = None;
        }
        for (name, tally) in &kept.answers {
            if let Some(watched) = probing.watched.get_mut(name) {
                watched.resume(*tally);
            }
        }
        running.probing = probing;
        self.ask_probes(context);
    }
}
