//! The workloads of a fleet: a manifest with a few keys more, which say how many replicas there are and where they may be.

use super::{Reader, boolean, one_of};
use crate::fault::Fault;
use crate::yaml::{Node, Value};
use crate::{Accounts, Parsed, quantity, yaml};
use enforcer_model::name::WorkloadName;
use enforcer_model::spec::WorkloadSpec;
use enforcer_model::units::{Bytes, Limit};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The keys of a workload that its host does not see.
pub(crate) const KEYS: &[&str] = &[
    "replicas",
    "spread",
    "requires",
    "singleton",
    "request",
    "mode",
];
/// The keys that a host has and a fleet does not.
pub(crate) const OF_HOSTS: &[(&str, &str)] = &[
    ("attach", "a fleet starts what it runs"),
    ("leased", "`singleton: true` says so for a fleet"),
    ("needs", "the other workload may be on another host"),
    ("listen", "not yet for a fleet; use `ports`"),
];
const MOST_REPLICAS: u64 = 10_000;
/// A CPU without a quota is asked for in this share.
const USUAL_CPU: u64 = 100;

/// The workloads of a fleet's file. They may be used if no fault is an error.
#[derive(Debug, Default)]
pub struct FleetFile {
    pub workloads: BTreeMap<WorkloadName, FleetWorkload>,
    pub faults: Vec<Fault>,
}

/// A workload of a fleet.
#[derive(Clone, Debug)]
pub struct FleetWorkload {
    /// A replica, as a host runs it.
    pub spec: Arc<WorkloadSpec>,
    /// The workload without the keys of the fleet.
    pub node: Node,
    pub replicas: u32,
    /// The label whose values are failure domains.
    pub spread: Option<String>,
    /// The labels that a node must have.
    pub requires: BTreeMap<String, String>,
    /// Two instances must never run at once.
    pub singleton: bool,
    /// It is only told what would be done.
    pub is_observed: bool,
    pub memory: Bytes,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
}

/// Any account may be on another host.
pub(super) struct AnyAccount;

impl Accounts for AnyAccount {
    fn agent_is_root(&self) -> bool {
        true
    }

    fn has_user(&self, _: &str) -> bool {
        true
    }

    fn has_user_of_number(&self, _: u32) -> bool {
        true
    }

    fn has_group(&self, _: &str) -> bool {
        true
    }
}

/// Reads a manifest whose accounts are on other hosts.
#[must_use]
pub fn parse_anywhere(source: &str) -> Parsed {
    crate::parse(source, &AnyAccount)
}

/// Reads the workloads of a fleet.
#[must_use]
pub fn parse_fleet(source: &str) -> FleetFile {
    let mut file = FleetFile::default();
    let root = match yaml::parse(source) {
        Ok((root, Ok(()))) => root,
        Ok((_, Err(fault))) | Err(fault) => {
            file.faults.push(fault);
            return file;
        }
    };
    let mut reader = Reader {
        accounts: &AnyAccount,
        faults: Vec::new(),
    };
    let of_fleet = reader.take_fleet_keys(&root);
    let Taken { root, keys } = of_fleet;
    let mut parsed = Parsed::default();
    reader.document(&root, &mut parsed);
    for (name, keys) in keys {
        let Some(spec) = parsed.manifest.workloads.get(&name) else {
            continue;
        };
        let workload = reader.fleet_workload(&keys, Arc::clone(spec));
        file.workloads.insert(name, workload);
    }
    reader.faults.sort_by_key(|fault| fault.span.start);
    file.faults = reader.faults;
    file
}

/// The keys of one workload, apart.
struct Keys {
    /// The whole workload.
    place: Node,
    of_fleet: Vec<(Node, Node)>,
    of_host: Vec<(Node, Node)>,
}

struct Taken {
    /// A manifest as a host has it.
    root: Node,
    keys: Vec<(WorkloadName, Keys)>,
}

fn key_of(node: &Node) -> &str {
    match &node.value {
        Value::Scalar { text, .. } => text,
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => "",
    }
}

fn scalar(text: &str, like: &Node) -> Node {
    Node {
        span: like.span.clone(),
        value: Value::Scalar {
            text: text.to_owned(),
            plain: true,
        },
    }
}

impl Reader<'_> {
    /// Takes the keys of a fleet out of a manifest.
    fn take_fleet_keys(&mut self, root: &Node) -> Taken {
        let mut keys = Vec::new();
        let mut top = Vec::new();
        let entries = match &root.value {
            Value::Mapping(entries) => entries.as_slice(),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => &[],
        };
        for (key, value) in entries {
            match (key_of(key), &value.value) {
                ("version", Value::Scalar { text, .. }) if text != "2" => {
                    let fault = Fault::error(value.span.clone(), "a fleet's file has `version: 2`");
                    self.fault(fault.label("expected 2"));
                }
                ("host" | "alerts" | "defaults" | "mode", _) => {
                    let message = format!("`{}` is not for a fleet", key_of(key));
                    self.fault(
                        Fault::error(key.span.clone(), message)
                            .label("expected `version` and `workloads`"),
                    );
                    continue;
                }
                ("workloads", Value::Mapping(workloads)) => {
                    let mut of_hosts = Vec::new();
                    for (name, node) in workloads {
                        let apart = self.apart(node);
                        let kept = Node {
                            span: node.span.clone(),
                            value: Value::Mapping(apart.of_host.clone()),
                        };
                        of_hosts.push((name.clone(), kept));
                        if let Some(name) = WorkloadName::parse(key_of(name)) {
                            keys.push((name, apart));
                        }
                    }
                    let kept = Node {
                        span: value.span.clone(),
                        value: Value::Mapping(of_hosts),
                    };
                    top.push((key.clone(), kept));
                    continue;
                }
                _ => {}
            }
            top.push((key.clone(), value.clone()));
        }
        let value = match &root.value {
            Value::Mapping(_) => Value::Mapping(top),
            other @ (Value::Null | Value::Scalar { .. } | Value::Sequence(_)) => other.clone(),
        };
        let root = Node {
            span: root.span.clone(),
            value,
        };
        Taken { root, keys }
    }

    /// Separates the keys of the fleet from those of a host. A replica has a number, or a deadline.
    fn apart(&mut self, node: &Node) -> Keys {
        let entries = match &node.value {
            Value::Mapping(entries) => entries.clone(),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => Vec::new(),
        };
        for (key, _) in &entries {
            let refused = OF_HOSTS.iter().find(|(known, _)| *known == key_of(key));
            if let Some((key_text, why)) = refused {
                let message = format!("`{key_text}` is not for a workload of a fleet");
                self.fault(Fault::error(key.span.clone(), message).label(*why));
            }
        }
        let is_of_host = |key: &str| OF_HOSTS.iter().any(|(known, _)| *known == key);
        let entries = entries.into_iter();
        let entries = entries.filter(|(key, _)| !is_of_host(key_of(key)));
        let (of_fleet, mut of_host): (Vec<_>, Vec<_>) =
            entries.partition(|(key, _)| KEYS.contains(&key_of(key)));
        let is_single = of_fleet
            .iter()
            .any(|(key, value)| key_of(key) == "singleton" && key_of(value) == "true");
        of_host.push(match is_single {
            true => (scalar("leased", node), scalar("true", node)),
            false => {
                let list = Value::Sequence(vec![scalar("0", node)]);
                let list = Node {
                    span: node.span.clone(),
                    value: list,
                };
                let indexes = Value::Mapping(vec![(scalar("indexes", node), list)]);
                let indexes = Node {
                    span: node.span.clone(),
                    value: indexes,
                };
                (scalar("replicas", node), indexes)
            }
        });
        Keys {
            place: node.clone(),
            of_fleet,
            of_host,
        }
    }

    fn fleet_workload(&mut self, keys: &Keys, spec: Arc<WorkloadSpec>) -> FleetWorkload {
        let of_fleet = Node {
            span: keys.place.span.clone(),
            value: Value::Mapping(keys.of_fleet.clone()),
        };
        let fields = self.fields(&of_fleet, KEYS);
        let mut replicas = 1;
        self.set(&fields, "replicas", &mut replicas, |text| {
            let count = quantity::integer(text, 0..=MOST_REPLICAS)?;
            u32::try_from(count).map_err(|_| "a smaller number".to_owned())
        });
        let mut singleton = false;
        self.set(&fields, "singleton", &mut singleton, boolean);
        if let Some(node) = fields.get("replicas").filter(|_| singleton && replicas > 1) {
            let fault = Fault::error(node.span.clone(), "a singleton has one replica");
            self.fault(fault.label("expected 0 or 1"));
        }
        let mut spread = None;
        self.set_some(&fields, "spread", &mut spread, |text| Ok(text.to_owned()));
        let mut is_observed = false;
        let modes = [("enforce", false), ("observe", true)];
        self.set(&fields, "mode", &mut is_observed, one_of(&modes));
        let mut requires = BTreeMap::new();
        if let Some(node) = fields.get("requires") {
            for (label, value) in self.entries(node).iter() {
                if let Some(value) = self.text(value, "a label's value") {
                    requires.insert(label.to_owned(), value.to_owned());
                }
            }
        }
        let (mut memory, mut cpu) = (None, None);
        if let Some(node) = fields.get("request") {
            let fields = self.fields(node, &["memory", "cpu"]);
            self.set_some(&fields, "memory", &mut memory, quantity::bytes);
            self.set_some(&fields, "cpu", &mut cpu, cpus);
        }
        let memory = memory.or(spec.limits.memory_max.and_then(Limit::at));
        if memory.is_none() {
            let message = "nothing says how much memory a replica needs";
            let fault = Fault::error(keys.place.span.clone(), message);
            self.fault(
                fault.label("expected `cgroup: { memory.max: … }`, or `request: { memory: … }`"),
            );
        }
        // The host's number of replicas, or its deadline, is written there.
        let mut of_host = keys.of_host.clone();
        of_host.pop();
        FleetWorkload {
            node: Node {
                span: keys.place.span.clone(),
                value: Value::Mapping(of_host),
            },
            replicas,
            spread,
            requires,
            singleton,
            is_observed,
            memory: memory.unwrap_or_default(),
            cpu_millis: cpu.or_else(|| quota(&spec)).unwrap_or(USUAL_CPU),
            spec,
        }
    }
}

/// Reads a number of CPUs, such as `0.5`, as thousandths.
pub(super) fn cpus(text: &str) -> Result<u64, String> {
    let expected = || "a number of CPUs, such as 0.5".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 3 || !is_number(whole) || !is_number(part) {
        return Err(expected());
    }
    let whole: u64 = whole.parse().map_err(|_| expected())?;
    let part: u64 = format!("{part:0<3}").parse().map_err(|_| expected())?;
    let millis = whole
        .checked_mul(1000)
        .and_then(|all| all.checked_add(part));
    millis.ok_or_else(expected)
}

/// Returns the quota of a workload in thousandths of a CPU.
fn quota(spec: &WorkloadSpec) -> Option<u64> {
    let quota = spec.limits.cpu_max?;
    let time = quota.quota.at()?;
    Some(time.saturating_mul(1000) / quota.period.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn faults(source: &str, expected: &Expect) {
        let file = parse_fleet(source);
        let drawn = file.faults.iter().map(|fault| {
            let line = source[..fault.span.start].matches('\n').count() + 1;
            format!("{line}: {} ({})\n", fault.message, fault.label)
        });
        expected.assert_eq(&drawn.collect::<String>());
    }

    #[test]
    fn a_fleet_has_keys_of_its_own() {
        let source = "version: 2
workloads:
  web:
    command: [/usr/bin/web, \"{replica}\"]
    user: web
    replicas: 30
    spread: zone
    requires: { disk: ssd }
    priority: 70
    cgroup: { memory.max: 256M, cpu.max: 50% }
    ports: { http: { port: 8080 } }
    rollout: { max_unavailable: 2 }
  db:
    command: [/usr/bin/db]
    user: db
    singleton: true
    mode: observe
    request: { memory: 1G, cpu: 1.5 }
";
        let file = parse_fleet(source);
        assert_eq!(file.faults, []);
        let name = |text| WorkloadName::parse(text).expect("a name");
        let web = &file.workloads[&name("web")];
        assert_eq!((web.replicas, web.cpu_millis), (30, 500));
        assert_eq!((web.memory, web.spec.priority), (Bytes(256 << 20), 70));
        assert_eq!(web.requires["disk"], "ssd");
        assert_eq!(web.spec.rollout.max_unavailable, 2);
        let keys: Vec<&str> = web.node.value.pairs().map(|(key, ..)| key).collect();
        let kept = ["command", "user", "priority", "cgroup", "ports", "rollout"];
        assert_eq!(keys, kept);
        let db = &file.workloads[&name("db")];
        assert!(db.singleton && db.is_observed && db.spec.leased);
        assert_eq!((db.memory, db.cpu_millis), (Bytes(1 << 30), 1500));
    }

    #[test]
    fn what_a_fleet_cannot_do_is_refused() {
        faults(
            "version: 1
defaults: {}
host: {}
workloads:
  a: { command: [/bin/a], user: web, needs: { b: ready }, replicas: { min: 1 }, request: { cpu: x } }
  b: { command: [/bin/b], user: web, singleton: true, replicas: 2, leased: true, cgroup: { memory.max: 1M } }
  c: { command: b, spread: [zone], mode: other }
",
            &expect![[r#"
                1: a fleet's file has `version: 2` (expected 2)
                2: `defaults` is not for a fleet (expected `version` and `workloads`)
                3: `host` is not for a fleet (expected `version` and `workloads`)
                5: nothing says how much memory a replica needs (expected `cgroup: { memory.max: … }`, or `request: { memory: … }`)
                5: `needs` is not for a workload of a fleet (the other workload may be on another host)
                5: expected one value, found a mapping (expected one value)
                5: `x` is not valid here (expected a number of CPUs, such as 0.5)
                6: a singleton has one replica (expected 0 or 1)
                6: `leased` is not for a workload of a fleet (`singleton: true` says so for a fleet)
                7: this workload has no `user` (it would run as root)
                7: nothing says how much memory a replica needs (expected `cgroup: { memory.max: … }`, or `request: { memory: … }`)
                7: expected a list: the program's path and its arguments, found `b` (expected a list: the program's path and its arguments)
                7: expected one value, found a list (expected one value)
                7: `other` is not valid here (expected one of enforce, observe)
            "#]],
        );
        faults(
            "version: 2\nworkloads: [\n",
            &expect![[r#"
            3: this is not YAML (while parsing a node, did not find expected node content)
        "#]],
        );
        faults(
            "- a\n",
            &expect![[r#"
            1: expected a mapping of keys to values, found a list (expected a mapping of keys to values)
            1: the manifest has no `version` ()
        "#]],
        );
    }
}
