//! The `recovery`, `stop` and `logs` sections.

use super::hooks::signal;
use super::{Reader, is_off, one_of};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::ids::Cause;
use enforcer_model::spec::{
    Backoff, Breaker, Budget, LogTarget, Logs, Recovery, RestartPolicy, Stop, StopScope,
    Strategies, Strategy,
};
use std::time::Duration;

pub(crate) const STOP_KEYS: &[&str] = &["signal", "scope", "grace"];
pub(crate) const LOGS_KEYS: &[&str] = &["to", "max_size", "keep"];
pub(crate) const KEYS: &[&str] = &[
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

const SCOPES: [(&str, StopScope); 2] = [
    (StopScope::Main.as_str(), StopScope::Main),
    (StopScope::Group.as_str(), StopScope::Group),
];

const CAUSES: [(&str, Cause); 6] = [
    ("exit", Cause::Exit),
    ("oom_kill", Cause::OomKill),
    ("liveness", Cause::Liveness),
    ("startup", Cause::Startup),
    ("progress", Cause::Progress),
    ("cpu_loop", Cause::CpuLoop),
];
const WORDS: [(&str, usize); 3] = [("restart", 0), ("reset", 1), ("recreate", 2)];
const STRATEGIES: [Strategy; 3] = [Strategy::Restart, Strategy::Reset, Strategy::Recreate];

/// Returns why a path may not be emptied; `None` if it may.
fn refusal_of(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path
        .split('/')
        .skip(1)
        .filter(|part| !part.is_empty())
        .collect();
    if !path.starts_with('/') || path.contains('\0') {
        return Some("expected an absolute path");
    }
    if parts.iter().any(|part| *part == "." || *part == "..") {
        return Some("expected a path without . and ..");
    }
    // `/`, `/var`, `/home/web`: nothing that near the root is a cache.
    let home = parts.first() == Some(&"home") && parts.len() <= 2;
    (parts.len() < 2 || home).then_some("expected a folder of the workload's own, further down")
}

impl Reader<'_> {
    pub(super) fn recovery(&mut self, node: &Node) -> Recovery {
        let fields = self.fields(node, KEYS);
        let mut recovery = Recovery::default();
        self.set(&fields, "restart", &mut recovery.restart, one_of(&POLICIES));
        if let Some(node) = fields.get("strategy") {
            recovery.strategies = self.strategies(node);
        }
        if let Some(node) = fields.get("reset_paths") {
            recovery.reset_paths = self.reset_paths(node);
        }
        if recovery.reset_paths.is_empty()
            && recovery
                .strategies
                .all()
                .any(|strategy| *strategy == Strategy::Reset)
            && let Some(node) = fields.get("strategy")
        {
            self.fault(
                Fault::error(node.span.clone(), "there is nothing to `reset`")
                    .label("this strategy clears `reset_paths`")
                    .help("name them: reset_paths: [/srv/web/cache]"),
            );
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

    /// Reads a strategy, a list of strategies by attempt, or a map of either by cause.
    fn strategies(&mut self, node: &Node) -> Strategies {
        let mut strategies = Strategies::default();
        match &node.value {
            Value::Mapping(entries) if !entries.iter().any(|(key, _)| is_key(key, "run")) => {
                for (name, value) in self.fields(node, &CAUSES.map(|(name, _)| name)).iter() {
                    if let Some((_, cause)) = CAUSES.iter().find(|(known, _)| *known == name) {
                        let list = self.strategy_list(value);
                        strategies.by_cause.insert(*cause, list);
                    }
                }
            }
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } | Value::Sequence(_) => {
                strategies.default = self.strategy_list(node);
            }
        }
        strategies
    }

    fn strategy_list(&mut self, node: &Node) -> Vec<Strategy> {
        match &node.value {
            Value::Sequence(attempts) => attempts
                .iter()
                .filter_map(|attempt| self.strategy(attempt))
                .collect(),
            Value::Mapping(_) | Value::Null | Value::Scalar { .. } => {
                self.strategy(node).into_iter().collect()
            }
        }
    }

    fn strategy(&mut self, node: &Node) -> Option<Strategy> {
        if let Value::Mapping(_) = node.value {
            let fields = self.fields(node, &["run"]);
            let command = self.command(fields.get("run")?)?;
            return Some(Strategy::Run(command));
        }
        let index = self.parsed(node, one_of(&WORDS))?;
        STRATEGIES.get(index).cloned()
    }

    /// Reads the folders that may be emptied: never a whole tree that others use. Their owner is
    /// checked when they are emptied.
    fn reset_paths(&mut self, node: &Node) -> Vec<String> {
        let Some(paths) = self.words(node, "a list of paths") else {
            return Vec::new();
        };
        let Value::Sequence(items) = &node.value else {
            return Vec::new();
        };
        let mut good = Vec::new();
        for (path, item) in paths.into_iter().zip(items) {
            match refusal_of(&path) {
                None => good.push(path),
                Some(why) => self.fault(
                    Fault::error(
                        item.span.clone(),
                        format!("`{}` may not be cleared", path.escape_debug()),
                    )
                    .label(why),
                ),
            }
        }
        good
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
        let fields = self.fields(node, STOP_KEYS);
        let mut stop = Stop::default();
        self.set(&fields, "grace", &mut stop.grace, quantity::duration);
        self.set(&fields, "signal", &mut stop.signal, signal);
        self.set(&fields, "scope", &mut stop.scope, one_of(&SCOPES));
        stop
    }

    pub(super) fn logs(&mut self, node: &Node) -> Logs {
        const TARGETS: [(&str, LogTarget); 2] = [
            (LogTarget::File.as_str(), LogTarget::File),
            (LogTarget::Journal.as_str(), LogTarget::Journal),
        ];
        let fields = self.fields(node, LOGS_KEYS);
        let mut logs = Logs::default();
        self.set(&fields, "to", &mut logs.to, one_of(&TARGETS));
        if logs.to == LogTarget::Journal {
            for (key, node) in fields.iter().filter(|(key, _)| *key != "to") {
                self.fault(
                    Fault::error(
                        node.span.clone(),
                        format!("`{key}` has no effect on the journal"),
                    )
                    .label("journald bounds all that it keeps together")
                    .help("set SystemMaxUse= in journald.conf, or write `to: file`"),
                );
            }
        }
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
