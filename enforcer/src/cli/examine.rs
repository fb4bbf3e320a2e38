//! `examine`: examines a thread as the agent would, without an agent. It serves calibration on real
//! hardware, and shows why a thread was or was not called a dead loop.

use crate::executor::proof::{Finding, investigate};
use crate::fault::Fault;
use enforcer_core::cpu_loop::{LoopSource, Suspect, Thread, verdict};
use enforcer_kernel::threads;
use enforcer_model::views::Examination;
use std::time::Duration;

pub(super) fn examine(pid: u32, tid: u32) -> Result<(), Fault> {
    let gone = || Fault::Failed(format!("there is no thread {tid} of process {pid}"));
    let now = threads::counters_of(pid, tid).ok_or_else(gone)?;
    let suspect = Suspect {
        thread: Thread {
            pid,
            tid,
            start_ticks: now.start_ticks,
        },
        command: threads::command(pid, tid).unwrap_or_default(),
        cpu: Duration::ZERO,
        source: LoopSource::Ebpf,
        sleeps: None,
    };
    let Some(Finding { evidence, .. }) = investigate(&suspect) else {
        return Err(Fault::Failed(format!(
            "{} (tid {tid}) has slept, or is gone",
            suspect.command
        )));
    };
    let answer = Examination {
        verdict: verdict(&evidence),
        command: suspect.command,
        tid,
        evidence,
    };
    let text = serde_json::to_string_pretty(&answer)
        .map_err(|error| Fault::Failed(format!("failed to write JSON: {error}")))?;
    println!("{text}");
    Ok(())
}
