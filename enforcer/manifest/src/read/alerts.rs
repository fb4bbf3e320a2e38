//! The `alerts` section.

use super::{Reader, is_off, word_of};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::detail::Kind;
use enforcer_model::health::Health;
use enforcer_model::name::{RULE, WorkloadName};
use enforcer_model::spec::{Alerts, Resource, Rule, Severity, Target, When, WorkloadSpec};
use enforcer_model::state::WorkloadState;
use enforcer_model::units::Limit;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const KEYS: &[&str] = &["repeat", "targets", "rules"];
const RULE_KEYS: &[&str] = &[
    "memory",
    "state",
    "health",
    "event",
    "host",
    "for",
    "severity",
    "workloads",
    "to",
];
/// The keys of which each rule has one.
const CONDITIONS: [&str; 5] = ["memory", "state", "health", "event", "host"];
const STATES: [WorkloadState; 5] = [
    WorkloadState::BreakerOpen,
    WorkloadState::BackingOff,
    WorkloadState::Failed,
    WorkloadState::Stopped,
    WorkloadState::Pending,
];
const HEALTHS: [Health; 2] = [Health::Unhealthy, Health::Degraded];
/// The kinds of events that are trouble.
const EVENTS: [Kind; 12] = [
    Kind::OomKill,
    Kind::CpuLoop,
    Kind::Restart,
    Kind::Reload,
    Kind::Breaker,
    Kind::Rollout,
    Kind::Drift,
    Kind::Conflict,
    Kind::Pressure,
    Kind::HostPressure,
    Kind::Lost,
    Kind::Degraded,
];
/// More often would be noise.
const SHORTEST_REPEAT: Duration = Duration::from_secs(10);

impl Reader<'_> {
    pub(super) fn alerts(&mut self, node: &Node) -> Alerts {
        let mut alerts = Alerts::default();
        let fields = self.fields(node, KEYS);
        match fields.get("repeat") {
            Some(value) if is_off(value) => alerts.repeat = None,
            Some(value) => {
                let repeat = self.parsed(value, |text| match quantity::duration(text)? {
                    short if short < SHORTEST_REPEAT => Err("at least 10s, or off".to_owned()),
                    repeat => Ok(repeat),
                });
                alerts.repeat = repeat.or(alerts.repeat);
            }
            None => {}
        }
        if let Some(targets) = fields.get("targets") {
            for (name, value) in self.entries(targets).iter() {
                if self.is_named(targets, name) {
                    let target = self.target(value);
                    alerts
                        .targets
                        .extend(target.map(|target| (name.to_owned(), target)));
                }
            }
        }
        if let Some(rules) = fields.get("rules") {
            for (name, value) in self.entries(rules).iter() {
                if self.is_named(rules, name) {
                    let rule = self.rule(value, &alerts.targets);
                    alerts
                        .rules
                        .extend(rule.map(|rule| (name.to_owned(), rule)));
                }
            }
        }
        if alerts.targets.is_empty() && !alerts.rules.is_empty() {
            let place = fields.get("rules").map_or(0..0, |rules| rules.span.clone());
            self.fault(
                Fault::warning(place, "these alerts reach no one: there are no `targets`")
                    .help("the events of the kind `alert` still report them"),
            );
        }
        alerts
    }

    /// Names of rules and targets are labels and files elsewhere.
    fn is_named(&mut self, mapping: &Node, name: &str) -> bool {
        let good = WorkloadName::parse(name).is_some();
        if !good {
            self.fault(
                Fault::error(
                    key_place(mapping, name),
                    format!("`{}` is not a name", name.escape_debug()),
                )
                .label(format!("expected {RULE}")),
            );
        }
        good
    }

    fn target(&mut self, node: &Node) -> Option<Target> {
        let fields = self.fields(node, &["webhook", "command"]);
        match (fields.get("webhook"), fields.get("command")) {
            (Some(webhook), None) => self.webhook(webhook),
            (None, Some(command)) => self.command(command).map(Target::Command),
            (Some(_), Some(_)) | (None, None) => {
                self.fault(
                    Fault::error(
                        node.span.clone(),
                        "this target needs exactly one way to be reached",
                    )
                    .label("expected either `webhook` or `command`"),
                );
                None
            }
        }
    }

    fn rule(&mut self, node: &Node, targets: &BTreeMap<String, Target>) -> Option<Rule> {
        let fields = self.fields(node, RULE_KEYS);
        let conditions: Vec<_> = fields
            .iter()
            .filter(|(key, _)| CONDITIONS.contains(key))
            .collect();
        let [(key, value)] = conditions.as_slice() else {
            self.fault(
                Fault::error(node.span.clone(), "a rule has one condition")
                    .label(format!("expected one of {}", CONDITIONS.join(", "))),
            );
            return None;
        };
        let when = match *key {
            "memory" => self.parsed(value, quantity::share).map(When::Memory),
            "state" => self.parsed(value, word_of(&STATES)).map(When::State),
            "health" => self.parsed(value, word_of(&HEALTHS)).map(When::Health),
            "event" => self.parsed(value, word_of(&EVENTS)).map(When::Event),
            _ => self.host_condition(value),
        };
        let mut held = Duration::ZERO;
        self.set(&fields, "for", &mut held, quantity::duration);
        if let (Some(When::Event(_)), Some(node)) = (when, fields.get("for")) {
            self.fault(
                Fault::error(node.span.clone(), "an event has no duration")
                    .label("remove `for`")
                    .help("it is over when no other came for 5m"),
            );
        }
        let about_host = match when {
            Some(
                When::Host(..) | When::Event(Kind::Lost | Kind::Degraded | Kind::HostPressure),
            ) => true,
            Some(When::Memory(_) | When::State(_) | When::Health(_) | When::Event(_)) | None => {
                false
            }
        };
        if let (true, Some(node)) = (about_host, fields.get("workloads")) {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    "this is about the host, and about no workload",
                )
                .label("remove `workloads`"),
            );
        }
        for key in ["workloads", "to"] {
            if let Some(node) = fields.get(key)
                && matches!(&node.value, Value::Sequence(items) if items.is_empty())
            {
                self.fault(
                    Fault::error(node.span.clone(), format!("`{key}` names no target"))
                        .label("leave it out for all"),
                );
            }
        }
        let mut severity = Severity::default();
        self.set(&fields, "severity", &mut severity, word_of(&Severity::ALL));
        let workloads = fields.get("workloads").and_then(|node| {
            let words = self.words(node, "a list of workloads")?;
            let mut names = BTreeSet::new();
            for word in words {
                match WorkloadName::parse(&word) {
                    Some(name) => drop(names.insert(name)),
                    None => self.fault(
                        Fault::error(
                            node.span.clone(),
                            format!("`{}` is not a workload's name", word.escape_debug()),
                        )
                        .label(format!("expected {RULE}")),
                    ),
                }
            }
            Some(names)
        });
        let to = fields.get("to").and_then(|node| {
            let names = self.words(node, "a list of targets")?;
            for name in names.iter().filter(|name| !targets.contains_key(*name)) {
                self.fault(Fault::error(
                    node.span.clone(),
                    format!("there is no target `{}`", name.escape_debug()),
                ));
            }
            Some(names.into_iter().collect())
        });
        Some(Rule {
            when: when?,
            held,
            severity,
            workloads,
            to,
        })
    }

    fn host_condition(&mut self, node: &Node) -> Option<When> {
        let fields = self.fields(node, &["memory", "cpu", "disk"]);
        let all: Vec<_> = fields.iter().collect();
        let [(key, value)] = all.as_slice() else {
            self.fault(
                Fault::error(node.span.clone(), "one resource of the host's a rule")
                    .label("expected one of memory, cpu, disk"),
            );
            return None;
        };
        let resource = match *key {
            "memory" => Resource::Memory,
            "cpu" => Resource::Cpu,
            _ => Resource::Disk,
        };
        let share = self.parsed(value, quantity::share)?;
        Some(When::Host(resource, share))
    }
}

fn key_place(mapping: &Node, name: &str) -> Range<usize> {
    let found = mapping.value.pairs().find(|(key, ..)| *key == name);
    found.map_or(&mapping.span, |(_, place, _)| place).clone()
}

/// The places of values, by rule and key.
pub(crate) type Places = BTreeMap<(String, String), Range<usize>>;

/// Returns the place of each key's value.
pub(super) fn places(alerts: &Node) -> Places {
    let sections = alerts.value.pairs().filter(|(key, ..)| *key == "rules");
    let rules = sections.flat_map(|(.., rules)| rules.value.pairs());
    let keys = rules.flat_map(|(rule, _, fields)| {
        let keys = fields.value.pairs();
        keys.map(move |(key, _, value)| ((rule.to_owned(), key.to_owned()), value.span.clone()))
    });
    keys.collect()
}

/// Returns a warning for each rule that can never hold for a workload of the whole manifest: most
/// likely something else was meant. A workload that is named and not there may still run,
/// unmanaged.
pub(crate) fn faults(
    alerts: &Alerts,
    places: &Places,
    workloads: &BTreeMap<WorkloadName, Arc<WorkloadSpec>>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut warn = |rule: &str, key: &str, message: String, help: &str| {
        let place = places.get(&(rule.to_owned(), key.to_owned()));
        let fault = Fault::warning(place.cloned().unwrap_or(0..0), message);
        faults.push(fault.help(help));
    };
    for (name, rule) in &alerts.rules {
        let named = rule.workloads.iter().flatten();
        for gone in named.filter(|named| !workloads.contains_key(*named)) {
            let message = format!("the rule `{name}` is about `{gone}`, which no manifest names");
            warn(
                name,
                "workloads",
                message,
                "it says nothing until there is one",
            );
        }
        let When::Memory(_) = rule.when else {
            continue;
        };
        let is_meant = |workload: &WorkloadName| {
            let named = rule.workloads.as_ref();
            named.is_none_or(|named| named.contains(workload))
        };
        let has_limit = |spec: &WorkloadSpec| spec.limits.memory_max.and_then(Limit::at).is_some();
        let mut meant = workloads.iter().filter(|(name, _)| is_meant(name));
        if meant.clone().next().is_some() && !meant.any(|(_, spec)| has_limit(spec)) {
            let message = format!("the rule `{name}` is about no workload with a `memory.max`");
            warn(
                name,
                "memory",
                message,
                "give them a `memory.max`, or use `host: { memory: … }`",
            );
        }
    }
    faults.sort_by_key(|fault| fault.span.start);
    faults
}
