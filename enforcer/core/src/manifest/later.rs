//! Sections whose behaviour does not exist yet. They are checked like any other
//! and then refused: a probe that is silently not made would be a lie.

use super::fault::Fault;
use super::quantity;
use super::read::{Fields, Reader, is_off, one_of};
use super::yaml::{Node, Value};
use std::collections::BTreeMap;
use std::ops::Range;

impl Fault {
    /// The refusal of a known section.
    pub(super) fn not_yet(span: Range<usize>, what: &str) -> Self {
        Self::error(span, format!("{what} is not supported yet"))
            .label("nothing would act on this")
            .help("leave it out for now")
    }
}

const TIMING: [&str; 5] = [
    "initial_delay",
    "period",
    "timeout",
    "failure_threshold",
    "success_threshold",
];

impl Reader<'_> {
    /// Checks and refuses what a workload may have but can't use yet.
    pub(super) fn later(&mut self, fields: &Fields<'_>) {
        if let Some(node) = fields.get("probes") {
            for (name, probe) in self
                .fields(node, &["startup", "liveness", "readiness", "progress"])
                .iter()
            {
                self.probe(name, probe);
            }
            self.fault(Fault::not_yet(node.span.clone(), "`probes`"));
        }
        for key in ["on_ready", "on_unready"] {
            if let Some(node) = fields.get(key) {
                self.command(node);
                self.fault(Fault::not_yet(node.span.clone(), &format!("`{key}`")));
            }
        }
        if let Some(node) = fields.get("needs") {
            self.fault(Fault::not_yet(node.span.clone(), "`needs`"));
        }
    }

    fn probe(&mut self, name: &str, node: &Node) {
        const KINDS: [&str; 5] = ["http", "tcp", "exec", "file", "cgroup"];
        let known: Vec<&str> = KINDS.iter().chain(&TIMING).copied().collect();
        let fields = self.fields(node, &known);
        let kinds: Vec<(&str, &Node)> = fields
            .iter()
            .filter(|(key, _)| KINDS.contains(key))
            .collect();
        if kinds.len() != 1 {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    format!("`{name}` needs exactly one kind of probe"),
                )
                .label(format!("one of {}", KINDS.join(", "))),
            );
        }
        for (kind, node) in kinds {
            if kind == "cgroup" && name != "progress" {
                self.fault(Fault::error(
                    node.span.clone(),
                    "a `cgroup` probe is for `progress` only",
                ));
            }
            self.probe_kind(kind, node);
        }
        for key in &TIMING[..3] {
            if let Some(node) = fields.get(key) {
                self.parsed(node, quantity::duration);
            }
        }
        for key in &TIMING[3..] {
            if let Some(node) = fields.get(key) {
                self.parsed(node, |text| quantity::integer(text, 1..=1000));
            }
        }
    }

    fn probe_kind(&mut self, kind: &str, node: &Node) {
        let (known, needed): (&[&str], &[&str]) = match kind {
            "http" => (&["host", "port", "path", "headers"], &["port"]),
            "tcp" => (&["host", "port"], &["port"]),
            "exec" => (&["command"], &["command"]),
            "file" => (&["path", "fresh_within"], &["path", "fresh_within"]),
            _ => (&["cpu", "io", "within"], &["within"]),
        };
        let fields = self.fields(node, known);
        for key in needed {
            if fields.get(key).is_none() {
                self.fault(Fault::error(
                    node.span.clone(),
                    format!("this `{kind}` probe has no `{key}`"),
                ));
            }
        }
        for (key, value) in fields.iter() {
            match key {
                "port" => drop(self.parsed(value, |text| quantity::integer(text, 1..=65_535))),
                "command" => drop(self.command(value)),
                "fresh_within" | "within" | "cpu" => drop(self.parsed(value, quantity::duration)),
                "io" => drop(self.parsed(value, quantity::bytes)),
                "headers" => drop(self.entries(value)),
                "path" => drop(self.absolute_path(value)),
                _ => drop(self.text(value, "a host name or address")),
            }
        }
    }

    /// `{ warn: 90%, critical: 95%, for: 1m }`, and what else a kind has.
    pub(super) fn threshold(&mut self, node: &Node, more: &[&str]) {
        let known: Vec<&str> = ["warn", "critical", "for"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        let fields = self.fields(node, &known);
        let mut levels = [None; 2];
        for (level, key) in levels.iter_mut().zip(["warn", "critical"]) {
            *level = fields
                .get(key)
                .and_then(|node| self.parsed(node, quantity::share));
        }
        if let ([Some(warn), Some(critical)], Some(node)) = (levels, fields.get("warn"))
            && warn > critical
        {
            self.fault(Fault::error(
                node.span.clone(),
                "`warn` is above `critical`",
            ));
        }
        if let Some(node) = fields.get("for") {
            self.parsed(node, quantity::duration);
        }
        if let Some(node) = fields.get("path") {
            self.absolute_path(node);
        }
        if let Some(node) = fields.get("run") {
            self.command(node);
        }
    }

    pub(super) fn host_watch(&mut self, node: &Node) {
        let fields = self.fields(node, &["memory", "cpu", "disk"]);
        for (key, value) in fields.iter() {
            if is_off(value) {
                continue;
            }
            self.threshold(value, if key == "disk" { &["path", "run"] } else { &[] });
            self.fault(Fault::not_yet(
                value.span.clone(),
                &format!("`host.watch.{key}`"),
            ));
        }
    }

    /// Checks every `needs` against the names of this file.
    pub(super) fn needs_of_all(&mut self, workloads: &Node) {
        let Value::Mapping(entries) = &workloads.value else {
            return;
        };
        let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut places: BTreeMap<String, Range<usize>> = BTreeMap::new();
        for (key, value) in entries {
            let (Value::Scalar { text: name, .. }, Value::Mapping(fields)) =
                (&key.value, &value.value)
            else {
                continue;
            };
            let needs = fields.iter().find(
                |(key, _)| matches!(&key.value, Value::Scalar { text, .. } if text == "needs"),
            );
            let Some((place, needs)) = needs else {
                continue;
            };
            let mut needed = Vec::new();
            for (other, level) in self.entries(needs).iter() {
                self.parsed(level, one_of(&[("started", ()), ("ready", ())]));
                needed.push(other.to_owned());
            }
            places.insert(name.clone(), place.span.clone());
            graph.insert(name.clone(), needed);
        }
        for (name, place) in places {
            if let Some(path) = cycle_from(&name, &graph) {
                self.fault(
                    Fault::error(
                        place,
                        format!("`needs` goes in a circle: {}", path.join(" → ")),
                    )
                    .label("none of them could ever start"),
                );
            }
        }
    }
}

/// The way from a name back to itself, if it is the first of that circle.
fn cycle_from(start: &str, graph: &BTreeMap<String, Vec<String>>) -> Option<Vec<String>> {
    let mut paths = vec![vec![start.to_owned()]];
    let mut seen = Vec::new();
    while let Some(path) = paths.pop() {
        let last = path.last()?;
        for next in graph.get(last).into_iter().flatten() {
            let mut longer = path.clone();
            longer.push(next.clone());
            if next == start {
                return (longer.iter().min().map(String::as_str) == Some(start)).then_some(longer);
            }
            if !seen.contains(next) {
                seen.push(next.clone());
                paths.push(longer);
            }
        }
    }
    None
}
