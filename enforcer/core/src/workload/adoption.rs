//! The take-over of a workload from an earlier agent: its unfinished steps are finished, its
//! process runs on, and an end meanwhile is reported.

use super::loops::Loops;
use super::{After, Checkpoint, Context, Lifecycle, Workload};
use crate::event::{Adopted, Cause, Detail, Found, Reason, Seq, Step};
use crate::oom::Ledger;

impl Workload {
    /// Goes on from where it was left. `seq` is the record of the take-over.
    pub(crate) fn take_over(
        &mut self,
        context: &mut Context<'_>,
        kept: &Checkpoint,
        found: &Found,
        seq: Seq,
    ) {
        let now = context.moment.now;
        let reason = Reason {
            cause: Cause::Agent,
            seq,
        };
        if let Some((cgroup, counters)) = found.cgroup() {
            context.ancestors.observe(now, counters);
            self.ledger = Ledger::resume(now, kept.oom, (cgroup, counters.clone()));
        }
        // This agent could not tell when an untraced thread sleeps. The sampler reports its next streak.
        if let Some(instance) = self.state.instance_mut().filter(|_| kept.spec.is_traced()) {
            instance.loops = Loops::resume(&kept.loops, now);
        }
        self.resume_what_was_leaving();
        match self.state {
            Lifecycle::Pending | Lifecycle::Stopped | Lifecycle::Failed | Lifecycle::Gone => {
                if found.cgroup().is_some() {
                    self.step(context, reason, Step::RemoveCgroup);
                }
            }
            Lifecycle::Queued { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. } => {}
            Lifecycle::Starting {
                remedying: Some(reason),
                ..
            } => self.carry_out_remedy(context, reason),
            Lifecycle::Starting { .. } if self.attached => self.look_for_service(context, reason),
            Lifecycle::Starting {
                remedying: None,
                then,
                abort_at,
            } => match found {
                Found::Running(_, _, pid) => {
                    self.started(context, *pid);
                    // A change during the start may not have been written.
                    self.write_limits(context, Cause::Agent, seq);
                }
                Found::Ended(_, _, pid) => {
                    self.started(context, *pid);
                    self.main_exited(context);
                }
                Found::Nothing | Found::Cgroup(..) => {
                    self.carry_out_start(context, reason);
                    if let Lifecycle::Starting {
                        then: slot,
                        abort_at: due,
                        ..
                    } = &mut self.state
                    {
                        (*slot, *due) = (then, abort_at);
                    }
                }
            },
            Lifecycle::Running(ref mut running) => {
                // A daemon may have forked while no agent ran.
                if let Found::Running(_, _, pid) = found {
                    running.instance.pid = *pid;
                }
                let detail = Detail::Adopt(Adopted {
                    pid: running.instance.pid,
                });
                let start_seq = running.instance.start_seq;
                self.report(context, Some(Cause::Agent), Some(start_seq), detail);
                if let Found::Running(..) = found {
                    self.resume_probes(context, &kept.probing);
                    self.write_limits(context, Cause::Agent, seq);
                } else {
                    self.main_exited(context);
                }
            }
            Lifecycle::Stopping(ref stopping) => match found {
                // The signal may not have arrived, so it is sent once more.
                Found::Running(..) if stopping.withdrawing.is_some() => {
                    if !self.resume_drain(context) {
                        self.withdrawn(context, false);
                    }
                }
                Found::Running(..) if stopping.kill_at.is_some() => {
                    let reason = stopping.reason;
                    let signal = self.stop_signal();
                    self.step(context, reason, signal);
                }
                Found::Running(..) => {
                    let reason = stopping.reason;
                    self.kill_tree(context, reason);
                }
                Found::Nothing | Found::Cgroup(..) | Found::Ended(..) => {
                    self.main_exited(context);
                }
            },
            Lifecycle::Ending(_) => self.step(context, reason, Step::Reap),
        }
    }

    /// Starts again a workload that the earlier agent was stopping because it ended itself.
    fn resume_what_was_leaving(&mut self) {
        match &mut self.state {
            Lifecycle::Starting { then, .. } => {
                *then = then.filter(|then| then.cause != Cause::Agent);
            }
            Lifecycle::Stopping(stopping) => {
                resume_after(&mut stopping.after, stopping.reason);
            }
            Lifecycle::Ending(ending) => {
                if let Some(reason) = ending.reason {
                    resume_after(&mut ending.after, reason);
                }
            }
            Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Running(_)
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => {}
        }
    }
}

fn resume_after(after: &mut After, reason: Reason) {
    if reason.cause == Cause::Agent && *after == After::Stop {
        *after = After::Restart(Cause::Agent);
    }
}
