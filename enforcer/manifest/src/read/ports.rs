//! `ports` and `unready_wait`: the ports behind the gate.

use super::{Fields, Reader, is_off};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::Node;
use enforcer_model::spec::{Port, PortAddress, PortOf, Replicas, WorkloadSpec};
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
            && !spec.has_gate()
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
            if let Some(port) = self.one_port(value, spec) {
                spec.ports.insert(name.to_owned(), port);
            }
        }
        if spec.ports.len() > Port::MOST {
            let message = format!("these are {} ports", spec.ports.len());
            let fault = Fault::error(node.span.clone(), message);
            self.fault(fault.label(format!("expected at most {}", Port::MOST)));
        }
    }

    fn one_port(&mut self, node: &Node, spec: &WorkloadSpec) -> Option<Port> {
        let fields = self.fields(node, &["port", "to", "target", "address"]);
        let Some(number) = fields.get("port") else {
            let fault = Fault::error(node.span.clone(), "this port has no number");
            self.fault(
                fault
                    .label("expected `port`")
                    .help("ports: { http: { port: 8080 } }"),
            );
            return None;
        };
        let mut own = Port::plain(self.port(&fields)?);
        self.set(&fields, "to", &mut own.to, |text| {
            PortOf::parse(text).ok_or_else(|| "any or each".to_owned())
        });
        self.set_some(&fields, "target", &mut own.target, |text| {
            let target = quantity::integer(text, 1..=u64::from(u16::MAX))?;
            u16::try_from(target).map_err(|_| "a port".to_owned())
        });
        self.set_some(&fields, "address", &mut own.address, |text| {
            let known = PortAddress::parse(text);
            known.ok_or_else(|| "\"*\", for every address of the host".to_owned())
        });
        if let (PortOf::Each, None, Some(to)) = (own.to, spec.replicas, fields.get("to")) {
            let fault = Fault::error(to.span.clone(), "`to: each` needs `replicas`");
            self.fault(fault.label("for a workload with several instances"));
        }
        let port = own.port;
        let binds = |port: &Port| port.target.unwrap_or(port.port);
        let made = spec.listen.values().filter_map(|made| made.tcp);
        let mut made = made.map(|address| address.port());
        let mut others = spec.ports.values();
        let last = u16::MAX - (Replicas::MOST - 1);
        let (message, label) = if own.to == PortOf::Each && port > last {
            let message = format!("the ports from {port} on are too few for the replicas");
            (message, format!("expected {last} at most"))
        } else if made.any(|made| own.has(made)) {
            let label = "a port is either made for the program or its own";
            (
                format!("the port {port} stands in `listen` as well"),
                label.to_owned(),
            )
        } else if others.clone().any(|other| other.overlaps(&own)) {
            let label = "each port of clients stands once";
            (
                format!("the port {port} stands here twice"),
                label.to_owned(),
            )
        } else if others.any(|other| binds(other) == binds(&own)) {
            let label = "two ports of clients cannot lead to one of the program";
            (
                format!("the program binds {} twice", binds(&own)),
                label.to_owned(),
            )
        } else {
            return Some(own);
        };
        self.fault(Fault::error(number.span.clone(), message).label(label));
        None
    }
}

/// It becomes a part of a metric's label and of a variable's name.
fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
    begins && text.len() <= 32 && text.bytes().all(is_good)
}
