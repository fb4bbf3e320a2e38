//! `ports` and `unready_wait`: the ports behind the gate.

use super::{Fields, Reader, is_off};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::spec::{Port, PortOf, Replicas, WorkloadSpec};
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
        if let Some(node) = fields.get("unready_wait")
            && spec.ports.is_empty()
        {
            let fault = Fault::error(node.span.clone(), "`unready_wait` needs `ports`");
            self.fault(
                fault
                    .label("for a workload with `ports`")
                    .help("ports: { http: { port: 8080 } }"),
            );
        }
        if let Some(node) = fields.get("rollout") {
            self.rollout(node, spec);
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
            let fields = self.fields(value, &["port", "to"]);
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
            let mut to = PortOf::Any;
            self.set(&fields, "to", &mut to, |text| {
                PortOf::parse(text).ok_or_else(|| "any or each".to_owned())
            });
            if let (PortOf::Each, None, Some(node)) = (to, spec.replicas, fields.get("to")) {
                let fault = Fault::error(node.span.clone(), "`to: each` needs `replicas`");
                self.fault(fault.label("for a workload with several instances"));
            }
            // A port of each replica is the first of as many as there may be.
            let count = match to {
                PortOf::Any => 1,
                PortOf::Each => Replicas::MOST,
            };
            if u16::MAX - port < count - 1 {
                let message = format!("the ports from {port} on are too few");
                let fault = Fault::error(number.span.clone(), message);
                self.fault(fault.label(format!("expected {} at most", u16::MAX - count + 1)));
                continue;
            }
            let made = spec.listen.values().filter_map(|made| made.tcp);
            let own = Port { port, to };
            let is_made = made.map(|address| address.port()).any(|made| own.has(made));
            let is_twice = spec.ports.values().any(|other| other.overlaps(&own));
            if is_made || is_twice {
                let message = match is_made {
                    true => format!("the port {port} stands in `listen` as well"),
                    false => format!("the port {port} stands here twice"),
                };
                let fault = Fault::error(number.span.clone(), message);
                self.fault(fault.label("a port is either made for the program or its own"));
                continue;
            }
            spec.ports.insert(name.to_owned(), own);
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
