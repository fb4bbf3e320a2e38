//! The answer to another process that changes this workload's limits, or moves it: a report with
//! both values, and a repair, unless it happens again and again.

use super::{Context, Workload};
use crate::drift::{Drifted, Response};
use crate::event::{Cause, Conflict, Detail, DriftFound, Seq};

impl Workload {
    pub(crate) fn drifted(&mut self, context: &mut Context<'_>, found: Vec<Drifted>) {
        if self.main_pid().is_none() || found.is_empty() {
            // The next start takes everything with it.
            return;
        }
        if !self.writes_under_way.is_empty() {
            // This drift may be older than the write under way, which reports what it finds.
            return;
        }
        match self.repairs.drifted(context.moment.now) {
            Response::Repair => {
                let reported = found.iter().map(|drift| drift.what.clone()).collect();
                let found = DriftFound {
                    drifts: found,
                    repaired: true,
                };
                let seq = self.report(context, Some(Cause::Drift), None, Detail::Drift(found));
                self.write_limits(context, Cause::Drift, seq);
                if let Some((_, whats)) = self.writes_under_way.back_mut() {
                    *whats = reported;
                }
            }
            Response::Conflict(pause) => {
                let detail = Detail::Conflict(Conflict {
                    drifts: found,
                    pause,
                });
                self.report(context, Some(Cause::Drift), None, detail);
            }
            Response::Wait => {}
        }
    }

    /// Repairs once more when a conflict has lasted long enough.
    pub(super) fn retry_repair(&mut self, context: &mut Context<'_>) {
        if self.repairs.retry(context.moment.now) && self.main_pid().is_some() {
            // The answer reports what the write finds.
            self.write_limits(context, Cause::Agent, Seq(*context.next_seq));
        }
    }
}
