//! Stepping back for the host's sake, and coming back.

use super::{After, Context, Lifecycle, Workload};
use crate::event::{Cause, Detail, PressureAnswer, Reason, ReleaseReason};
use crate::host::Shortage;
use crate::spec::Mode;
use crate::units::Bytes;

impl Workload {
    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, Lifecycle::Running(_))
    }

    pub(crate) fn memory_in_use(&self) -> Bytes {
        self.state
            .running()
            .map_or(Bytes(0), |running| running.memory)
    }

    /// Returns whether the workload may step back. Under `observe` this is reported once.
    pub(crate) fn may_step_back(&self) -> bool {
        (self.spec.mode == Mode::Enforce && !self.attached) || !self.spared_by_mode
    }

    /// Returns whether the workload is being stopped because the host is short of memory.
    pub(crate) fn is_stepping_back(&self) -> bool {
        self.sacrificed && !self.is_at_rest()
    }

    /// Returns whether the workload has stepped back for the host, and could come back.
    pub(crate) fn stepped_back(&self) -> bool {
        match self.sacrificed {
            true => self.is_at_rest(),
            false => self.standing_claims.demoted || self.spared_by_mode,
        }
    }

    /// Demotes the workload, and stops it if that was not enough.
    pub(crate) fn step_back(&mut self, context: &mut Context<'_>, shortage: Shortage) {
        if !self.runs() {
            return;
        }
        let demoted = self.standing_claims.demoted;
        let observed = self.spec.mode == Mode::Observe || self.attached;
        let done = if demoted || observed {
            PressureAnswer::Stopped
        } else {
            PressureAnswer::Demoted
        };
        let answer = shortage.answered(done, !observed);
        let cause = Cause::HostPressure;
        let seq = self.report(context, Some(cause), None, Detail::HostPressure(answer));
        if observed {
            self.spared_by_mode = true;
        } else if demoted {
            self.sacrificed = true;
            let why = (cause, Some(seq));
            self.stop_running(context, After::Stop, why, false);
        } else {
            let before = self.claims();
            self.standing_claims.demoted = true;
            self.claimed(context, before, cause, Some(seq));
        }
    }

    /// Starts the workload again, or ends its demotion.
    pub(crate) fn come_back(&mut self, context: &mut Context<'_>, shortage: Shortage) {
        let cause = Cause::HostPressure;
        let stopped = std::mem::take(&mut self.sacrificed);
        if std::mem::take(&mut self.spared_by_mode) && !stopped && !self.standing_claims.demoted {
            // No claim was made, so there is none to release.
            return;
        }
        let done = match stopped {
            true => PressureAnswer::StartedAgain,
            false => PressureAnswer::Released,
        };
        let answer = shortage.answered(done, true);
        let before = self.claims();
        let seq = self.report(context, Some(cause), None, Detail::HostPressure(answer));
        self.standing_claims.demoted = false;
        if stopped {
            self.start(context, Reason { cause, seq });
        } else {
            self.released(
                context,
                before,
                (cause, Some(seq)),
                ReleaseReason::HostRecovered,
            );
        }
    }
}
