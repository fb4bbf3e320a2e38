//! The settings of a host that takes part in a fleet: where etcd is, who the host is, and what a fleet may do on it.

use super::fleet::{AnyAccount, cpus};
use super::{Reader, one_of};
use crate::allowed::Allowed;
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{self, Node, Value};
use enforcer_model::units::Bytes;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const SECTIONS: [&str; 3] = ["etcd", "node", "allow"];

/// The settings of `fleet.yaml`. They may be used if no fault is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetConfig {
    pub etcd: EtcdConfig,
    pub node: NodeConfig,
    pub allow: Allowed,
}

/// The way to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    pub endpoints: Vec<String>,
    pub ca_file: Option<String>,
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    pub user: Option<String>,
    pub password_file: Option<String>,
    /// The beginning of all keys.
    pub prefix: String,
    /// The time to live of a node's lease, after which the node is lost.
    pub grace: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            ca_file: None,
            cert_file: None,
            key_file: None,
            user: None,
            password_file: None,
            prefix: "enforcer/".to_owned(),
            grace: Duration::from_secs(30),
        }
    }
}

/// The host as a node of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// `None` for the host's own name.
    pub name: Option<String>,
    /// The address at which its workloads answer.
    pub address: Option<IpAddr>,
    pub labels: BTreeMap<String, String>,
    /// The fleet only tells what it would do on this host.
    pub is_observed: bool,
    /// The memory and the CPU time that the fleet leaves to others.
    pub reserve_memory: Option<Bytes>,
    pub reserve_cpu_millis: Option<u64>,
}

/// Reads the settings, with all of their faults.
#[must_use]
pub fn parse_fleet_config(source: &str) -> (FleetConfig, Vec<Fault>) {
    let mut config = FleetConfig::default();
    let faults = parse(source, |reader, section, node| match section {
        "etcd" => reader.etcd(node, &mut config.etcd),
        "node" => reader.node(node, &mut config.node),
        _ => reader.allowed(node, &mut config.allow),
    });
    (config, faults)
}

/// Reads the rules alone, with their faults.
#[must_use]
pub fn parse_allowed(source: &str) -> (Allowed, Vec<Fault>) {
    let mut allow = Allowed::default();
    let faults = parse(source, |reader, section, node| {
        if section == "allow" {
            reader.allowed(node, &mut allow);
        }
    });
    (allow, faults)
}

/// Has each section read, and returns all faults.
fn parse(source: &str, mut read: impl FnMut(&mut Reader<'_>, &str, &Node)) -> Vec<Fault> {
    let root = match yaml::parse(source) {
        Ok((root, Ok(()))) => root,
        Ok((_, Err(fault))) | Err(fault) => return vec![fault],
    };
    let mut reader = Reader {
        accounts: &AnyAccount,
        faults: Vec::new(),
    };
    let fields = reader.fields(&root, &SECTIONS);
    for section in SECTIONS {
        if let Some(node) = fields.get(section) {
            read(&mut reader, section, node);
        }
    }
    reader.faults.sort_by_key(|fault| fault.span.start);
    reader.faults
}

fn plain(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("an absolute path".to_owned()),
    }
}

/// Reads a port, or the first and the last one.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let expected = || "a port, or two as 8000-8999".to_owned();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let range = port(first).zip(port(last));
    range
        .filter(|(first, last)| first <= last)
        .ok_or_else(expected)
}

impl Reader<'_> {
    fn etcd(&mut self, node: &Node, etcd: &mut EtcdConfig) {
        let files = ["ca_file", "cert_file", "key_file", "password_file"];
        let known = [&files[..], &["endpoints", "user", "prefix", "grace"]].concat();
        let fields = self.fields(node, &known);
        if let Some(node) = fields.get("endpoints") {
            etcd.endpoints = self.words(node, "a list of URLs").unwrap_or_default();
            if etcd.endpoints.is_empty() {
                let fault = Fault::error(node.span.clone(), "no endpoint of etcd");
                self.fault(fault.label("expected a URL, such as https://10.0.0.1:2379"));
            }
        }
        let targets = [
            &mut etcd.ca_file,
            &mut etcd.cert_file,
            &mut etcd.key_file,
            &mut etcd.password_file,
        ];
        for (key, target) in files.iter().zip(targets) {
            self.set_some(&fields, key, target, absolute);
        }
        self.set_some(&fields, "user", &mut etcd.user, plain);
        self.set(&fields, "prefix", &mut etcd.prefix, |text| {
            match text.ends_with('/') && text.len() > 1 {
                true => Ok(text.to_owned()),
                false => Err("a text that ends with /".to_owned()),
            }
        });
        self.set(&fields, "grace", &mut etcd.grace, |text| {
            let grace = quantity::duration(text)?;
            let is_good = (5..=3600).contains(&grace.as_secs()) && grace.subsec_nanos() == 0;
            is_good
                .then_some(grace)
                .ok_or_else(|| "whole seconds, from 5s to 1h".to_owned())
        });
        let faults = [
            (
                etcd.cert_file.is_some() != etcd.key_file.is_some(),
                "a certificate and its key belong together",
            ),
            (
                etcd.user.is_some() != etcd.password_file.is_some(),
                "a user and its password belong together",
            ),
        ];
        for (_, message) in faults.into_iter().filter(|(is_fault, _)| *is_fault) {
            self.fault(
                Fault::error(node.span.clone(), message).label("only one of the two is here"),
            );
        }
    }

    fn node(&mut self, node: &Node, own: &mut NodeConfig) {
        let fields = self.fields(node, &["name", "address", "labels", "mode", "reserve"]);
        self.set_some(&fields, "name", &mut own.name, plain);
        self.set_some(&fields, "address", &mut own.address, |text| {
            text.parse::<IpAddr>()
                .map_err(|_| "an address, such as 10.0.0.1".to_owned())
        });
        if let Some(node) = fields.get("labels") {
            for (label, value) in self.entries(node).iter() {
                if let Some(value) = self.text(value, "a label's value") {
                    own.labels.insert(label.to_owned(), value.to_owned());
                }
            }
        }
        let modes = [("enforce", false), ("observe", true)];
        self.set(&fields, "mode", &mut own.is_observed, one_of(&modes));
        if let Some(node) = fields.get("reserve") {
            let fields = self.fields(node, &["memory", "cpu"]);
            let memory = &mut own.reserve_memory;
            self.set_some(&fields, "memory", memory, quantity::bytes);
            let cpu = &mut own.reserve_cpu_millis;
            self.set_some(&fields, "cpu", cpu, cpus);
        }
    }

    fn allowed(&mut self, node: &Node, allow: &mut Allowed) {
        let lists = [
            ("users", &mut allow.users),
            ("groups", &mut allow.groups),
            ("capabilities", &mut allow.capabilities),
            ("roots", &mut allow.roots),
            ("mounts", &mut allow.mounts),
            ("files", &mut allow.files),
            ("devices", &mut allow.devices),
        ];
        let known: Vec<&str> = lists.iter().map(|(key, _)| *key).collect();
        let known = [&known[..], &["ports", "memory"]].concat();
        let fields = self.fields(node, &known);
        for (key, target) in lists {
            if let Some(node) = fields.get(key) {
                let words = self.words(node, "a list").unwrap_or_default();
                *target = words.into_iter().collect();
            }
        }
        if let Some(node) = fields.get("ports") {
            let Value::Sequence(items) = &node.value else {
                self.expected(node, "a list of ports", &node.value);
                return;
            };
            allow.ports = items
                .iter()
                .filter_map(|item| self.parsed(item, ports))
                .collect();
        }
        self.set_some(&fields, "memory", &mut allow.memory, quantity::bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_who_it_is_and_what_it_allows() {
        let (config, faults) = parse_fleet_config(
            "etcd:
  endpoints: [https://10.0.0.1:2379, https://10.0.0.2:2379]
  ca_file: /etc/etcd/ca.pem
  user: fleet
  password_file: /etc/enforcer/fleet.password
  grace: 20s
node:
  name: host-1
  address: 10.0.0.11
  labels: { zone: a }
  mode: observe
  reserve: { memory: 1G, cpu: 0.5 }
allow:
  users: [web]
  mounts: [/srv/web]
  ports: [80, 8000-8999]
  memory: 8G
",
        );
        assert_eq!(faults, []);
        assert_eq!(config.etcd.endpoints.len(), 2);
        assert_eq!(config.etcd.grace, Duration::from_secs(20));
        assert_eq!(config.node.reserve_cpu_millis, Some(500));
        assert!(config.node.is_observed);
        assert_eq!(config.allow.ports, [(80, 80), (8000, 8999)].into());
        assert_eq!(parse_fleet_config("").0, FleetConfig::default());
    }

    #[test]
    fn every_fault_is_found() {
        let source = "etcd: { endpoints: [], cert_file: /a, ca_file: ca.pem, prefix: x, grace: 1s }
node: { address: host, lable: {}, reserve: { cpu: -1 } }
allow: { users: web, ports: [0, 9-8, x], memory: much }
more: 1
";
        let (_, faults) = parse_fleet_config(source);
        let drawn = faults.iter().map(|fault| {
            let line = source[..fault.span.start].matches('\n').count() + 1;
            format!("{line}: {}\n", fault.message)
        });
        expect_test::expect![[r#"
            1: a certificate and its key belong together
            1: no endpoint of etcd
            1: `ca.pem` is not valid here
            1: `x` is not valid here
            1: `1s` is not valid here
            2: `host` is not valid here
            2: unknown key `lable`
            2: `-1` is not valid here
            3: expected a list, found `web`
            3: `0` is not valid here
            3: `9-8` is not valid here
            3: `x` is not valid here
            3: `much` is not valid here
            4: unknown key `more`
        "#]]
        .assert_eq(&drawn.collect::<String>());
    }
}
