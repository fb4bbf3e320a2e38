//! `sandbox`, and the keys that open it.

use super::{Fields, Reader, boolean, one_of};
use crate::fault::Fault;
use crate::yaml::{Node, Value};
use enforcer_model::spec::{Sandbox, WorkloadSpec, refused_calls};

const LEVELS: [(&str, Sandbox); 2] = [("off", Sandbox::Off), ("default", Sandbox::Default)];

impl Reader<'_> {
    /// Reads the level and the keys that open it. `usual` is the level of workloads that do not run as
    /// root. An agent that is not root cannot make a sandbox.
    pub(super) fn sandbox(&mut self, fields: &Fields<'_>, usual: Sandbox, spec: &mut WorkloadSpec) {
        let is_root = matches!(spec.user.as_deref(), Some("root" | "0"));
        if !is_root && self.accounts.agent_is_root() {
            spec.sandbox = usual;
        }
        self.set(fields, "sandbox", &mut spec.sandbox, one_of(&LEVELS));
        self.set(fields, "private_tmp", &mut spec.private_tmp, boolean);
        self.set(fields, "namespaces", &mut spec.namespaces, boolean);
        if let Some(node) = fields.get("read_only_paths") {
            spec.read_only_paths = self.absolute_paths(node);
        }
        if let Some(node) = fields.get("read_write_paths") {
            spec.read_write_paths = self.absolute_paths(node);
        }
        if let Some(node) = fields.get("devices") {
            spec.devices = self.devices(node);
        }
        if let Some(node) = fields.get("system_calls") {
            spec.system_calls = self.system_calls(node);
        }
    }

    fn devices(&mut self, node: &Node) -> Vec<String> {
        let Value::Sequence(items) = &node.value else {
            self.expected(node, "a list of devices", &node.value);
            return Vec::new();
        };
        let devices = items.iter().filter_map(|item| {
            self.parsed(item, |text| {
                let rest = text.strip_prefix("/dev/").unwrap_or_default();
                let mut parts = rest.split('/');
                match parts.all(|part| !matches!(part, "" | "." | "..")) && !text.contains('\0') {
                    true => Ok(text.to_owned()),
                    false => Err("a path below /dev, such as /dev/dri".to_owned()),
                }
            })
        });
        devices.collect()
    }

    /// Reads the names of system calls, which must be among those that the sandbox refuses.
    fn system_calls(&mut self, node: &Node) -> Vec<String> {
        let Some(names) = self.words(node, "a list of system calls") else {
            return Vec::new();
        };
        let Value::Sequence(items) = &node.value else {
            return Vec::new();
        };
        let known: Vec<&str> = refused_calls().collect();
        for (name, item) in names.iter().zip(items) {
            if !known.contains(&name.as_str()) {
                let shown = name.escape_debug();
                let message = format!("the sandbox does not refuse a system call `{shown}`");
                let label = match super::nearest(name, &known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "it is allowed, or there is none of this name".to_owned(),
                };
                self.fault(Fault::error(item.span.clone(), message).label(label));
            }
        }
        names
    }
}
