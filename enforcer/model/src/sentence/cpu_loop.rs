//! Loops in words: the thread, the judgement, the proof, and the answer to it.

use super::{in_brackets, joined};
use crate::claims::Throttling;
use crate::cpu_loop::{Evidence, Outside, Verdict};
use crate::detail::{CpuLoopFound, Release, ThrottleChange};
use crate::ids::Cause;
use crate::text::printable;

pub(super) fn of_loop(found: &CpuLoopFound) -> String {
    let evidence = &found.evidence;
    let cpu = found.cpu.as_secs_f64();
    let who = format!("{} (tid {})", printable(&found.command), found.thread.tid);
    let place = evidence.stack.first();
    let place = place.map_or_else(String::new, |frame| format!(" at {}", printable(frame)));
    let what = match found.verdict {
        Verdict::DeadLoop => format!(
            "dead loop: {who} has used {cpu:.1} s of CPU without a sleep{place}; its whole state came back {} times in {} looks",
            evidence.recurrences, evidence.snapshots
        ),
        Verdict::SyscallSpin => format!(
            "busy polling: {who} has used {cpu:.1} s of CPU without a sleep{place}, in calls that do nothing ({})",
            joined(evidence.calls.names.iter().map(|name| printable(name)))
        ),
        Verdict::OverBudget => format!(
            "hot: {who} has used {cpu:.1} s of CPU without a sleep{place}; no loop is proved{}",
            why_unproven(evidence)
        ),
    };
    match outside(&evidence.outside) {
        none if none.is_empty() => what,
        outside => format!("{what} (outside the proof: {outside})"),
    }
}

fn why_unproven(evidence: &Evidence) -> String {
    match &evidence.unproven {
        Some(why) => format!(": {}", printable(why)),
        None if evidence.recurs => ": its state recurs, but something else may end that".to_owned(),
        None => String::new(),
    }
}

fn outside(all: &[Outside]) -> String {
    const SHOWN: usize = 3;
    let shown = joined(all.iter().take(SHOWN).map(|one| match one {
        Outside::ThreadRan(thread) => format!("{} ran", printable(thread)),
        Outside::ThreadWakes(thread) => format!("{} will wake up", printable(thread)),
        Outside::ThreadWaits(thread) => {
            format!("{} waits for something from outside", printable(thread))
        }
        Outside::SharedMapping(what) => format!("memory shared as {}", printable(what)),
        Outside::DeviceMapping(what) => format!("memory of the device {}", printable(what)),
        Outside::Clock => "it reads a clock".to_owned(),
        Outside::Timer => "a timer may interrupt it".to_owned(),
    }));
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn of_throttle(change: &ThrottleChange, reason: Option<Cause>) -> String {
    let what = match change.cpu_percent {
        Some(percent) => format!("throttled to {percent}% of one CPU"),
        None => "demoted to cpu.weight 1".to_owned(),
    };
    if !change.carried_out {
        return format!("would be {what} (mode: observe)");
    }
    format!("{what}{}", in_brackets(reason))
}

pub(super) fn of_release(release: &Release) -> String {
    match release.throttle {
        Throttling::None => format!("released: {}", release.why),
        left @ (Throttling::Demoted | Throttling::Throttled) => {
            format!("released in part, still {left}: {}", release.why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu_loop::{LoopSource, Thread};
    use std::time::Duration;

    fn found(verdict: Verdict, command: &str, evidence: Evidence) -> CpuLoopFound {
        CpuLoopFound {
            verdict,
            thread: Thread {
                pid: 811,
                tid: 812,
                start_ticks: 0,
            },
            command: command.to_owned(),
            cpu: Duration::from_millis(10_040),
            evidence,
        }
    }

    #[test]
    fn a_dead_loop_has_its_thread_its_place_and_its_proof() {
        let evidence = Evidence {
            recurrences: 88,
            snapshots: 96,
            stack: vec!["spin+0x4 in web".to_owned()],
            outside: vec![Outside::ThreadWaits("pool (tid 813)".to_owned())],
            ..Evidence::none(LoopSource::Ebpf, "")
        };
        assert_eq!(
            of_loop(&found(Verdict::DeadLoop, "web", evidence)),
            "dead loop: web (tid 812) has used 10.0 s of CPU without a sleep at spin+0x4 in web; \
             its whole state came back 88 times in 96 looks (outside the proof: pool (tid 813) waits for something from outside)"
        );
    }

    #[test]
    fn a_hot_thread_has_the_reason_why_nothing_is_proved() {
        let evidence = Evidence::none(LoopSource::Ebpf, "it is at work");
        assert_eq!(
            of_loop(&found(Verdict::OverBudget, "gcc\u{1b}", evidence)),
            "hot: gcc\u{fffd} (tid 812) has used 10.0 s of CPU without a sleep; no loop is proved: it is at work"
        );
    }
}
