//! `ports`, `unready_wait` and `rollout`: the ports behind the gate.

use super::{Fields, Reader, is_off};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::spec::{Port, WorkloadSpec};
use std::time::Duration;

/// The longest drain: a stop must end.
const LONGEST_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

impl Reader<'_> {
    pub(super) fn ports(&mut self, fields: &Fields<'_>, spec: &mut WorkloadSpec) {
        if let Some(node) = fields.get("ports") {
            self.named_ports(node, spec);
        }
        match fields.get("unready_wait") {
            Some(node) if is_off(node) => spec.unready_wait = None,
            Some(node) => {
                if let Some(wait) = self.parsed(node, quantity::duration) {
                    spec.unready_wait = Some(wait);
                }
            }
            None => {}
        }
        if let Some(node) = fields.get("rollout") {
            let fields = self.fields(node, &["drain"]);
            self.set(&fields, "drain", &mut spec.rollout.drain, |text| {
                let drain = quantity::duration(text)?;
                match drain <= LONGEST_DRAIN {
                    true => Ok(drain),
                    false => Err("a time of at most 24h".to_owned()),
                }
            });
        }
        if !spec.ports.is_empty() {
            return;
        }
        for key in ["unready_wait", "rollout"] {
            if let Some(node) = fields.get(key) {
                let fault = Fault::error(node.span.clone(), format!("`{key}` needs `ports`"));
                self.fault(
                    fault
                        .label("for a workload with `ports`")
                        .help("ports: { http: { port: 8080 } }"),
                );
            }
        }
    }

    fn named_ports(&mut self, node: &Node, spec: &mut WorkloadSpec) {
        for (name, value) in self.entries(node).iter() {
            if !is_name(name) {
                let message = format!("`{}` is no name of a port", name.escape_debug());
                let fault = Fault::error(value.span.clone(), message);
                self.fault(fault.label("expected small letters, digits and - before the colon"));
                continue;
            }
            let fields = self.fields(value, &["port"]);
            let Some(number) = fields.get("port") else {
                let fault = Fault::error(value.span.clone(), "this port has no number");
                self.fault(
                    fault
                        .label("expected `port`")
                        .help("ports: { http: { port: 8080 } }"),
                );
                continue;
            };
            let Some(port) = self.port(&fields) else {
                continue;
            };
            let made = spec.listen.values().filter_map(|made| made.tcp);
            let is_made = made.map(|address| address.port()).any(|made| made == port);
            let is_twice = spec.ports.values().any(|other| other.port == port);
            if is_made || is_twice {
                let message = match is_made {
                    true => format!("the port {port} stands in `listen` as well"),
                    false => format!("the port {port} stands here twice"),
                };
                let fault = Fault::error(number.span.clone(), message);
                self.fault(fault.label("a port is either made for the program or its own"));
                continue;
            }
            spec.ports.insert(name.to_owned(), Port { port });
        }
        if spec.ports.len() > Port::MOST {
            let message = format!("these are {} ports", spec.ports.len());
            let fault = Fault::error(node.span.clone(), message);
            self.fault(fault.label(format!("expected at most {}", Port::MOST)));
        }
    }
}

/// It becomes a part of a metric's label and of a variable's name.
fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
    begins && text.len() <= 32 && text.bytes().all(is_good)
}
