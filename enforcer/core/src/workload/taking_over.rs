//! A workload that another agent has left: what it was about to do is done, what runs
//! runs on, and what ended meanwhile is told.

use super::looping::Loops;
use super::{After, Checkpoint, Context, Lifecycle, Workload};
use crate::event::{Adopted, Cause, CgroupId, Detail, Found, Reason, Seq, Step};
use crate::oom::{Counters, Ledger};

impl Found {
    fn cgroup(&self) -> Option<(CgroupId, &Counters)> {
        match self {
            Self::Nothing => None,
            Self::Cgroup(id, counters)
            | Self::Ended(id, counters, _)
            | Self::Running(id, counters, _) => Some((*id, counters)),
        }
    }
}

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
        self.loops = Loops::resume(&kept.loops, now);
        self.resume_what_was_leaving();
        match self.state.clone() {
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
            Lifecycle::Starting {
                remedying: None,
                then,
                abort_at,
            } => match found {
                Found::Running(_, _, pid) => {
                    self.started(context, *pid);
                    // What was changed while it started may not have been written.
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
            Lifecycle::Running { pid, since } => {
                let detail = Detail::Adopt(Adopted { pid });
                self.tell(context, Some(Cause::Agent), Some(self.start_seq), detail);
                if let Found::Running(..) = found {
                    self.resume_probes(context, &kept.probing, since);
                    self.write_limits(context, Cause::Agent, seq);
                } else {
                    self.main_exited(context);
                }
            }
            Lifecycle::Stopping {
                withdrawing,
                kill_at,
                reason,
                ..
            } => match found {
                // Whether it has heard of it is not known: it is told once more.
                Found::Running(..) if withdrawing.is_some() => self.withdrawn(context),
                Found::Running(..) if kill_at.is_some() => {
                    let signal = self.spec.stop.signal.clone();
                    self.step(context, reason, Step::Signal { signal });
                }
                Found::Running(..) => self.kill_tree(context, reason),
                Found::Nothing | Found::Cgroup(..) | Found::Ended(..) => {
                    self.main_exited(context);
                }
            },
            Lifecycle::Ending { .. } => self.step(context, reason, Step::Reap),
        }
    }

    /// What the agent before this one was stopping because it went itself is wanted again.
    fn resume_what_was_leaving(&mut self) {
        match &mut self.state {
            Lifecycle::Starting { then, .. } => {
                *then = then.filter(|then| then.cause != Cause::Agent);
            }
            Lifecycle::Stopping { after, reason, .. }
                if reason.cause == Cause::Agent && *after == After::Stop =>
            {
                *after = After::Restart(Cause::Agent);
            }
            Lifecycle::Ending {
                after,
                reason: Some(reason),
                ..
            } if reason.cause == Cause::Agent && *after == After::Stop => {
                *after = After::Restart(Cause::Agent);
            }
            Lifecycle::Stopping { .. }
            | Lifecycle::Ending { .. }
            | Lifecycle::Pending
            | Lifecycle::Queued { .. }
            | Lifecycle::Running { .. }
            | Lifecycle::BackingOff { .. }
            | Lifecycle::BreakerOpen { .. }
            | Lifecycle::Stopped
            | Lifecycle::Failed
            | Lifecycle::Gone => {}
        }
    }
}
