//! A program takes a new configuration without a restart: because an operator asks for it, or because
//! a file has changed.

use super::{After, Context, Workload};
use crate::event::{Aside, Cause, Detail, FileChange, Hook, Reason, Reloaded, Seq, Step};
use crate::spec::{Reload, StopScope};
use crate::units::MonoTime;
use std::sync::Arc;

/// The reloads of a workload. A reload by a command is under way until the command ends.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    under_way: Option<Order>,
    /// Another reload was asked for meanwhile. It begins when the first one has ended.
    again: Option<Order>,
    /// The beginning and the error of the last one.
    pub(super) last: Option<(MonoTime, Option<String>)>,
}

/// The reason for a reload.
#[derive(Clone, Debug)]
struct Order {
    cause: Cause,
    /// The time at which the command began.
    began: MonoTime,
    /// The event of the file that has changed.
    because: Option<Seq>,
}

impl Reloads {
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Returns what matters to a new workload of the same name: the command that still runs.
    pub(super) fn inherited(&self) -> Self {
        Self {
            under_way: self.under_way.clone(),
            ..Self::default()
        }
    }
}

impl Workload {
    /// Reloads, or restarts if there is no other way. What does not run reads its files when it
    /// starts.
    pub(super) fn file_changed(&mut self, context: &mut Context<'_>, path: String) {
        if !self.runs() || !self.spec.reload_on.contains(&path) {
            return;
        }
        if self.spec.reload.is_some() {
            self.reload(context, Cause::Config, Some(path));
            return;
        }
        let because = (Cause::Config, self.report_file(context, Some(path)));
        self.stop_running(context, After::Restart(Cause::Config), because, false);
    }

    pub(super) fn reload(&mut self, context: &mut Context<'_>, cause: Cause, file: Option<String>) {
        if !self.runs() {
            return;
        }
        match self.spec.reload.clone() {
            None => {
                let why = "its manifest has no `reload`; restart it".to_owned();
                self.reloads.last = Some((context.moment.now, Some(why)));
            }
            Some(Reload {
                signal: Some(signal),
                ..
            }) => {
                let reloaded = Reloaded {
                    signal: Some(signal.clone()),
                    error: None,
                };
                let because = self.report_file(context, file);
                let seq = self.report(context, Some(cause), because, Detail::Reload(reloaded));
                let scope = StopScope::Main;
                self.step(
                    context,
                    Reason { cause, seq },
                    Step::Signal { signal, scope },
                );
                self.reloads.last = Some((context.moment.now, None));
            }
            Some(Reload { signal: None, .. }) => {
                let because = self.report_file(context, file);
                let order = Order {
                    cause,
                    began: context.moment.now,
                    because,
                };
                match self.reloads.under_way {
                    Some(_) => self.reloads.again = Some(order),
                    None => self.run_reload(context, order),
                }
            }
        }
    }

    fn report_file(&self, context: &mut Context<'_>, file: Option<String>) -> Option<Seq> {
        let change = Detail::FileChange(FileChange { path: file? });
        Some(self.report(context, Some(Cause::Config), None, change))
    }

    fn run_reload(&mut self, context: &mut Context<'_>, mut order: Order) {
        order.began = context.moment.now;
        let reason = Reason {
            cause: order.cause,
            seq: order.because.unwrap_or(Seq(*context.next_seq)),
        };
        self.reloads.under_way = Some(order);
        let (spec, hook) = (Arc::clone(&self.spec), Hook::Reload);
        self.aside(context, reason, Aside::RunHook { spec, hook });
    }

    /// Handles the end of the command of a reload.
    pub(super) fn reload_done(&mut self, context: &mut Context<'_>, error: Option<String>) {
        let Some(order) = self.reloads.under_way.take() else {
            return;
        };
        let Order {
            cause,
            began,
            because,
        } = order;
        let reloaded = Reloaded {
            signal: None,
            error: error.clone(),
        };
        self.report(context, Some(cause), because, Detail::Reload(reloaded));
        self.reloads.last = Some((began, error));
        if let Some(next) = self.reloads.again.take().filter(|_| self.runs()) {
            self.run_reload(context, next);
        }
    }
}
