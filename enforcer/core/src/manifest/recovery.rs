//! The `recovery`, `stop` and `logs` sections.

use super::fault::Fault;
use super::quantity;
use super::read::{Reader, is_off, one_of};
use super::yaml::{Node, Value};
use crate::spec::{Backoff, Breaker, Budget, Logs, Recovery, RestartPolicy, Stop};
use std::time::Duration;

const KEYS: &[&str] = &[
    "restart",
    "strategy",
    "reset_paths",
    "backoff",
    "budget",
    "breaker",
];
const POLICIES: [(&str, RestartPolicy); 3] = [
    ("always", RestartPolicy::Always),
    ("on-failure", RestartPolicy::OnFailure),
    ("never", RestartPolicy::Never),
];

/// Signals by which a program may be asked to stop. signal(7)
const SIGNALS: [(&str, &str); 9] = [
    ("SIGTERM", "SIGTERM"),
    ("SIGINT", "SIGINT"),
    ("SIGQUIT", "SIGQUIT"),
    ("SIGHUP", "SIGHUP"),
    ("SIGUSR1", "SIGUSR1"),
    ("SIGUSR2", "SIGUSR2"),
    ("SIGWINCH", "SIGWINCH"),
    ("SIGABRT", "SIGABRT"),
    ("SIGKILL", "SIGKILL"),
];

impl Reader<'_> {
    pub(super) fn recovery(&mut self, node: &Node) -> Recovery {
        let fields = self.fields(node, KEYS);
        let mut recovery = Recovery::default();
        self.set(&fields, "restart", &mut recovery.restart, one_of(&POLICIES));
        if let Some(node) = fields.get("strategy") {
            self.strategy(node);
        }
        if let Some(node) = fields.get("reset_paths") {
            self.words(node, "a list of paths");
            self.fault(Fault::not_yet(node.span.clone(), "recovery.reset_paths"));
        }
        if let Some(node) = fields.get("backoff") {
            recovery.backoff = if is_off(node) {
                None
            } else {
                Some(self.backoff(node))
            };
        }
        if let Some(node) = fields.get("budget") {
            recovery.budget = if is_off(node) {
                None
            } else {
                Some(self.budget(node))
            };
        }
        if let Some(node) = fields.get("breaker") {
            recovery.breaker = if is_off(node) {
                None
            } else {
                Some(self.breaker(node))
            };
        }
        recovery
    }

    /// `restart` works today; the others are checked, and refused for now.
    fn strategy(&mut self, node: &Node) {
        const WORDS: [(&str, bool); 3] = [("restart", true), ("reset", false), ("recreate", false)];
        match &node.value {
            Value::Mapping(entries) if entries.len() == 1 && is_key(&entries[0].0, "run") => {
                self.command(&entries[0].1);
                self.fault(Fault::not_yet(node.span.clone(), "recovery.strategy `run`"));
            }
            Value::Mapping(_) => {
                const CAUSES: &[&str] = &[
                    "exit", "oom_kill", "liveness", "startup", "progress", "cpu_loop",
                ];
                for (_, value) in self.fields(node, CAUSES).iter() {
                    self.strategy(value);
                }
                self.fault(Fault::not_yet(
                    node.span.clone(),
                    "a recovery.strategy by cause",
                ));
            }
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => {
                if self.parsed(node, one_of(&WORDS)) == Some(false) {
                    self.fault(Fault::not_yet(node.span.clone(), "this recovery.strategy"));
                }
            }
        }
    }

    fn backoff(&mut self, node: &Node) -> Backoff {
        let fields = self.fields(node, &["initial", "factor", "max", "jitter", "reset_after"]);
        let mut backoff = Backoff::default();
        self.set(&fields, "initial", &mut backoff.initial, quantity::duration);
        self.set(&fields, "max", &mut backoff.max, quantity::duration);
        self.set(
            &fields,
            "reset_after",
            &mut backoff.reset_after,
            quantity::duration,
        );
        self.set(&fields, "jitter", &mut backoff.jitter, quantity::share);
        self.set(&fields, "factor", &mut backoff.factor, |text| {
            match text.parse::<f64>() {
                Ok(factor) if (1.0..=100.0).contains(&factor) => Ok(factor),
                Ok(_) | Err(_) => Err("a number from 1 to 100".to_owned()),
            }
        });
        if backoff.initial > backoff.max
            && let Some(node) = fields.get("initial").or(fields.get("max"))
        {
            self.fault(
                Fault::error(node.span.clone(), "`initial` is above `max`")
                    .label("the first wait is the shortest"),
            );
        }
        backoff
    }

    fn budget(&mut self, node: &Node) -> Budget {
        let fields = self.fields(node, &["restarts", "within"]);
        let mut budget = Budget::default();
        self.set(&fields, "within", &mut budget.within, positive_duration);
        self.set(&fields, "restarts", &mut budget.restarts, |text| {
            let restarts = quantity::integer(text, 1..=1000)?;
            u32::try_from(restarts).map_err(|_| "a smaller number".to_owned())
        });
        budget
    }

    fn breaker(&mut self, node: &Node) -> Breaker {
        let fields = self.fields(node, &["cooldown", "max"]);
        let mut breaker = Breaker::default();
        self.set(
            &fields,
            "cooldown",
            &mut breaker.cooldown,
            positive_duration,
        );
        self.set(&fields, "max", &mut breaker.max, positive_duration);
        breaker.max = breaker.max.max(breaker.cooldown);
        breaker
    }

    pub(super) fn stop(&mut self, node: &Node) -> Stop {
        let fields = self.fields(node, &["signal", "grace"]);
        let mut stop = Stop::default();
        self.set(&fields, "grace", &mut stop.grace, quantity::duration);
        self.set(&fields, "signal", &mut stop.signal, |text| {
            one_of(&SIGNALS)(text).map(str::to_owned)
        });
        stop
    }

    pub(super) fn logs(&mut self, node: &Node) -> Logs {
        let fields = self.fields(node, &["max_size", "keep"]);
        let mut logs = Logs::default();
        self.set(
            &fields,
            "max_size",
            &mut logs.max_size,
            |text| match quantity::bytes(text)? {
                small if small.0 < 64 << 10 => Err("at least 64K".to_owned()),
                size => Ok(size),
            },
        );
        self.set(&fields, "keep", &mut logs.keep, |text| {
            let keep = quantity::integer(text, 0..=100)?;
            u32::try_from(keep).map_err(|_| "a smaller number".to_owned())
        });
        logs
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        Duration::ZERO => Err("a duration above 0".to_owned()),
        duration => Ok(duration),
    }
}

fn is_key(node: &Node, key: &str) -> bool {
    matches!(&node.value, Value::Scalar { text, .. } if text == key)
}
