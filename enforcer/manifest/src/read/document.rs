//! The top level of a manifest, and the names of its workloads.

use super::{Reader, alerts, needs, one_of};
use crate::merge;
use crate::yaml::{Node, Value};
use crate::{Fault, Parsed};
use enforcer_model::name::{RULE, WorkloadName};
use enforcer_model::spec::{Mode, Sandbox};
use std::ops::Range;
use std::sync::Arc;

pub(crate) const KEYS: &[&str] = &["version", "mode", "host", "alerts", "defaults", "workloads"];

pub(super) const MODES: [(&str, Mode); 2] =
    [("enforce", Mode::Enforce), ("observe", Mode::Observe)];

impl Reader<'_> {
    pub(crate) fn document(&mut self, root: &Node, parsed: &mut Parsed) {
        let fields = self.fields(root, KEYS);
        let mut usual = Sandbox::Off;
        match fields.get("version") {
            None => self.fault(
                Fault::error(0..0, "the manifest has no `version`")
                    .help("begin the file with `version: 2`"),
            ),
            Some(node) => {
                let read = self.parsed(node, |text| match text {
                    "1" => Ok(Sandbox::Off),
                    "2" => Ok(Sandbox::Default),
                    _ => Err("1 or 2".to_owned()),
                });
                usual = read.unwrap_or(usual);
            }
        }
        let mut mode = Mode::default();
        self.set(&fields, "mode", &mut mode, one_of(&MODES));
        if let Some(node) = fields.get("host") {
            parsed.has_host = true;
            *parsed.manifest.host = self.host(node);
        }
        if let Some(node) = fields.get("alerts") {
            parsed.has_alerts = true;
            parsed.rules = alerts::places(node);
            parsed.manifest.host.alerts = Arc::new(self.alerts(node));
        }
        parsed.manifest.host.mode = mode;
        let merged = match (fields.get("defaults"), fields.get("workloads")) {
            (Some(defaults), None) => {
                self.fault(
                    Fault::warning(
                        defaults.span.clone(),
                        "`defaults` hold for the workloads of their own file, and this one has none",
                    )
                    .label("without effect"),
                );
                None
            }
            (None, None) => None,
            (None, Some(workloads)) => Some(workloads.clone()),
            (Some(defaults), Some(workloads)) => self.merged(root, defaults, workloads),
        };
        let Some(workloads) = &merged else {
            return;
        };
        for (name, node) in self.workload_names(workloads) {
            parsed.places.insert(name.clone(), node.0);
            let spec = self.workload(node.1, mode, usual);
            parsed.manifest.workloads.insert(name, Arc::new(spec));
        }
        parsed.needs = needs::places(workloads)
            .into_iter()
            .filter_map(|(name, place)| Some((WorkloadName::parse(&name)?, place)))
            .collect();
    }

    /// Returns the workloads with the file's defaults under each of them.
    fn merged(&mut self, root: &Node, defaults: &Node, workloads: &Node) -> Option<Node> {
        let mut keys = root.value.pairs();
        let place = keys.find(|(key, ..)| *key == "defaults");
        let place = place.map_or(defaults.span.clone(), |(_, place, _)| place.clone());
        self.entries(defaults);
        match merge::with_defaults(defaults, &place, workloads) {
            Ok(merged) => Some(merged),
            Err(fault) => {
                self.fault(fault);
                None
            }
        }
    }

    /// Returns the workloads whose names are names, with the place of the name.
    fn workload_names<'n>(
        &mut self,
        node: &'n Node,
    ) -> Vec<(WorkloadName, (Range<usize>, &'n Node))> {
        self.entries(node);
        let Value::Mapping(entries) = &node.value else {
            return Vec::new();
        };
        let mut found: Vec<(WorkloadName, (Range<usize>, &Node))> = Vec::new();
        for (key, value) in entries {
            let Value::Scalar { text, .. } = &key.value else {
                continue;
            };
            match WorkloadName::parse(text) {
                Some(name) if found.iter().any(|(other, _)| *other == name) => {}
                Some(name) => found.push((name, (key.span.clone(), value))),
                None => self.fault(
                    Fault::error(
                        key.span.clone(),
                        format!("`{}` is not a workload's name", text.escape_debug()),
                    )
                    .label(format!("expected {RULE}")),
                ),
            }
        }
        found
    }
}
