//! Probes between two agents.

use super::Probing;
use crate::checkpoint::KeptProbing;
use crate::workload::notice::Words;
use crate::workload::{Context, Workload};

impl Probing {
    pub(in crate::workload) fn kept(&self, words: &Words) -> KeptProbing {
        let answers = self.watched.iter();
        KeptProbing {
            answers: answers
                .map(|(name, watched)| (*name, watched.tally()))
                .collect(),
            startup_passed: self.startup_passed,
            phase: words.phase,
            is_mute: words.is_mute,
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
        // Its last WATCHDOG=1 may have come while no agent ran.
        running.words = Words::resume(kept, context.moment.now);
        self.ask_probes(context);
    }
}
