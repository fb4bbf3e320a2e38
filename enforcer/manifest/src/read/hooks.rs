//! The commands at a start and a stop, and `reload`.

use super::{Fields, Reader};
use crate::fault::Fault;
use crate::yaml::{Node, Value};
use enforcer_model::signals::{signal_name, signal_number};
use enforcer_model::spec::{Reload, WorkloadSpec};

impl Reader<'_> {
    pub(super) fn hooks(&mut self, fields: &Fields<'_>, spec: &mut WorkloadSpec) {
        if let Some(node) = fields.get("reload") {
            spec.reload = self.reload(node);
        }
        if let Some(node) = fields.get("reload_on") {
            spec.reload_on = self.absolute_paths(node);
        }
        for (key, commands) in [
            ("before_start", &mut spec.before_start),
            ("after_start", &mut spec.after_start),
            ("before_stop", &mut spec.before_stop),
        ] {
            if let Some(node) = fields.get(key) {
                *commands = self.commands_in_order(node, key);
            }
        }
    }

    /// Reads a list of commands. A command by itself is a fault that shows the list.
    fn commands_in_order(&mut self, node: &Node, key: &str) -> Vec<Vec<String>> {
        let Value::Sequence(items) = &node.value else {
            self.expected(node, "a list of commands", &node.value);
            return Vec::new();
        };
        if items
            .iter()
            .any(|item| matches!(item.value, Value::Scalar { .. }))
        {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    "this is one command, and not a list of commands",
                )
                .label("expected a list of lists")
                .help(format!("{key}: [[/path/to/program, argument]]")),
            );
            return Vec::new();
        }
        items.iter().filter_map(|item| self.command(item)).collect()
    }

    fn reload(&mut self, node: &Node) -> Option<Reload> {
        let fields = self.fields(node, &["signal", "run"]);
        let mut reload = Reload {
            signal: None,
            run: None,
        };
        self.set_some(&fields, "signal", &mut reload.signal, signal);
        if let Some(node) = fields.get("run") {
            reload.run = self.command(node);
        }
        let named = fields.iter().count();
        if named != 1 {
            self.fault(
                Fault::error(node.span.clone(), "a reload is a signal or a command")
                    .label("expected one of signal, run")
                    .help("reload: { signal: SIGHUP }, or reload: { run: [/path/to/program, argument] }"),
            );
        }
        (reload.signal.is_some() != reload.run.is_some()).then_some(reload)
    }
}

/// Reads a signal, and returns its usual name.
pub(super) fn signal(text: &str) -> Result<String, String> {
    signal_number(text)
        .map(signal_name)
        .ok_or_else(|| "a signal of signal(7): SIGTERM, TERM, 15, SIGRTMIN+3, …".to_owned())
}
