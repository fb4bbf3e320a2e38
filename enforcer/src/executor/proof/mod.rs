//! Examines a suspect: half a second of samples, and then, if it is worth it, a series of stops.
//! The core decides what the evidence proves.

pub(crate) mod followed;
mod stops;
mod suspects;
pub(crate) mod symbolize;

use enforcer_core::cpu_loop::{
    ENOUGH_SAMPLES, Evidence, LoopSource, SAMPLE_HZ, SAMPLE_TIME, Sampling, Suspect,
};
use enforcer_kernel::{clock, perf, threads};
use stops::{Proof, TOO_LITTLE_TIME};

/// The evidence, and the number of the thread's sleeps when it was released.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) evidence: Evidence,
    pub(crate) sleeps: u64,
}

/// Looks into a suspect; `None` if it has slept meanwhile, or is gone.
pub(crate) fn investigate(suspect: &Suspect) -> Option<Finding> {
    let thread = suspect.thread;
    let begun = clock::now();
    let before = threads::counters(thread)?;
    if suspect.sleeps.is_some_and(|sleeps| sleeps != before.sleeps) {
        return None;
    }
    let mut evidence = Evidence::none(suspect.source, "");
    evidence.unproven = None;
    let mut stack = Vec::new();
    let mut stops = 0;
    if suspect.source == LoopSource::Proc {
        evidence.unproven = Some("without eBPF only /proc is looked at".to_owned());
    } else {
        let enough = |samples: &perf::thread::Samples| samples.all >= ENOUGH_SAMPLES;
        let samples =
            perf::thread::sample(thread.tid, SAMPLE_HZ, SAMPLE_TIME, clock::pause, enough);
        let samples = samples.unwrap_or_else(|error| {
            tracing::warn!(tid = thread.tid, "failed to sample a thread: {error}");
            perf::thread::Samples::default()
        });
        let sampling = Sampling {
            all: samples.all,
            in_user_mode: samples.in_user_mode,
            singletons: samples.singletons,
        };
        evidence.new_state_probability = sampling.new_state_probability();
        evidence.user_share = sampling.user_share();
        if samples.all == 0 {
            evidence.unproven = Some(TOO_LITTLE_TIME.to_owned());
        } else if sampling.is_worth_a_proof() {
            if threads::counters(thread)?.sleeps != before.sleeps {
                return None;
            }
            let mut proof = Proof::new(suspect, begun);
            // The kernel releases the traced threads when the tracing thread ends, whatever their
            // state.
            let run = || proof.run(&samples);
            let ran = std::thread::scope(|scope| scope.spawn(run).join());
            evidence.unproven = ran
                .unwrap_or(Err("the proof itself failed".to_owned()))
                .err();
            stops = proof.stops;
            proof.report(&mut evidence);
        } else {
            evidence.unproven =
                Some("nearly every sample finds it in a new state: it is at work".to_owned());
        }
        stack = samples.hottest_stack;
    }
    // Each of our stops counts as a sleep.
    let after = threads::counters(thread)?;
    if after.sleeps > before.sleeps + stops {
        let slept = after.sleeps - before.sleeps;
        tracing::debug!(?thread, slept, stops, ?evidence, "a suspect has slept");
        return None;
    }
    let spent = |both: threads::Counters| (both.user + both.system).as_secs_f64();
    let passed = spent(after) - spent(before);
    if evidence.user_share.is_none() && passed > 0.0 {
        let user = after.user.saturating_sub(before.user).as_secs_f64();
        evidence.user_share = Some((user / passed).min(1.0));
    }
    evidence.thread_cpu = after.user + after.system;
    evidence.stack = symbolize::stack(thread.pid, &stack);
    evidence.took = clock::now().since(begun);
    Some(Finding {
        evidence,
        sleeps: after.sleeps,
    })
}
