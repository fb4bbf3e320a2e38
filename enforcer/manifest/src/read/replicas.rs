//! `replicas` and `rollout`: several instances, and how one takes the place of another.

use super::{Fields, Reader};
use crate::fault::Fault;
use crate::quantity;
use crate::yaml::{Node, Value};
use enforcer_model::limits::Limits;
use enforcer_model::spec::{Listen, OnFailure, PLACE, Port, Replicas, WorkloadSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// The longest drain, and the longest rollout without progress: both must end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn count(text: &str) -> Result<u16, String> {
    let count = quantity::integer(text, 1..=u64::from(Replicas::MOST))?;
    u16::try_from(count).map_err(|_| format!("a number from 1 to {}", Replicas::MOST))
}

fn bounded(text: &str) -> Result<Duration, String> {
    let time = quantity::duration(text)?;
    match time <= LONGEST {
        true => Ok(time),
        false => Err("a time of at most 24h".to_owned()),
    }
}

impl Reader<'_> {
    pub(super) fn replicas(&mut self, fields: &Fields<'_>, spec: &mut WorkloadSpec) {
        if let Some(node) = fields.get("replicas_cgroup") {
            self.limits_of_all(node, fields, spec);
        }
        let Some(node) = fields.get("replicas") else {
            return;
        };
        let read = match &node.value {
            Value::Mapping(_) => self.bounds(node, spec),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => {
                self.parsed(node, count).map(Replicas::fixed)
            }
        };
        // After a fault, what needs replicas has no further one.
        spec.replicas = Some(read.unwrap_or(Replicas::fixed(1)));
        if let Some(listen) = fields.get("listen") {
            self.sockets_of_each(listen, spec);
        }
    }

    /// Each replica has a socket of its own: at one TCP address, or at a path with its number.
    fn sockets_of_each(&mut self, node: &Node, spec: &mut WorkloadSpec) {
        for (name, place, _) in node.value.pairs() {
            let Some(listen) = spec.listen.get_mut(name) else {
                continue;
            };
            let Some(path) = &listen.unix else {
                listen.is_of_each = true;
                continue;
            };
            if !path.contains(PLACE) {
                let message = format!("all replicas would have the socket {path}");
                let fault = Fault::error(place.clone(), message);
                self.fault(
                    fault
                        .label("expected a path with `{replica}`")
                        .help("listen: { ctl: { unix: \"/run/web-{replica}.sock\" } }"),
                );
            }
        }
        let mut addresses: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
        for address in spec.listen.values().filter_map(Listen::gated) {
            let of = addresses.entry(address.port()).or_default();
            if !of.insert(address.ip()) {
                let message = format!("two sockets at {address}");
                self.fault(Fault::error(node.span.clone(), message).label("expected one"));
            }
        }
        if let Some((port, _)) = addresses.iter().find(|(_, of)| of.len() > Port::ADDRESSES) {
            let message = format!("too many addresses with the port {port}");
            let fault = Fault::error(node.span.clone(), message);
            self.fault(fault.label(format!("expected at most {}", Port::ADDRESSES)));
        }
        if addresses.len() > Port::MOST {
            let message = format!("these are {} ports", addresses.len());
            let fault = Fault::error(node.span.clone(), message);
            self.fault(fault.label(format!("expected at most {}", Port::MOST)));
        }
    }

    fn limits_of_all(&mut self, node: &Node, fields: &Fields<'_>, spec: &mut WorkloadSpec) {
        let limits = self.limits(node, Limits::default());
        let fault = if fields.get("replicas").is_none() {
            Some((
                "`replicas_cgroup` needs `replicas`",
                "for a workload with several instances",
            ))
        } else if limits.memory_oom_group.is_some() {
            let message = "`memory.oom.group` is for each replica, in `cgroup`";
            Some((
                message,
                "an OOM kill of one replica must not take the others",
            ))
        } else {
            None
        };
        match fault {
            Some((message, label)) => {
                self.fault(Fault::error(node.span.clone(), message).label(label));
            }
            None => spec.replicas_cgroup = Some(limits),
        }
    }

    fn bounds(&mut self, node: &Node, spec: &mut WorkloadSpec) -> Option<Replicas> {
        let keys = ["min", "max", "cpu", "memory"];
        let fields = self.fields(node, &["min", "max", "cpu", "memory", "indexes"]);
        if let Some(list) = fields.get("indexes") {
            if let Some(other) = keys.iter().find_map(|key| fields.get(key)) {
                let message = "`indexes` says already which replicas there are to be";
                self.fault(Fault::error(other.span.clone(), message).label("expected nothing"));
            }
            return self.indexes(list, spec);
        }
        let mut replicas = Replicas::fixed(1);
        self.set(&fields, "min", &mut replicas.min, count);
        replicas.max = replicas.min;
        self.set(&fields, "max", &mut replicas.max, count);
        for (key, of) in [("cpu", &mut replicas.cpu), ("memory", &mut replicas.memory)] {
            self.set_some(&fields, key, of, quantity::share);
        }
        if replicas.max < replicas.min {
            let message = format!("from {} to {} replicas", replicas.min, replicas.max);
            let fault = Fault::error(node.span.clone(), message);
            self.fault(fault.label("expected `max` to be at least `min`"));
            return None;
        }
        let has_target = replicas.cpu.is_some() || replicas.memory.is_some();
        if replicas.min < replicas.max && !has_target {
            let fault = Fault::error(
                node.span.clone(),
                "nothing says how many replicas there are to be",
            );
            self.fault(
                fault
                    .label("expected `cpu` or `memory`, which they follow")
                    .help("replicas: { min: 2, max: 6, cpu: 70% }"),
            );
            return None;
        }
        Some(replicas)
    }

    /// Reads the numbers of replicas, as those of one host among several. There is none beside them during a rollout: its number
    /// could be one of another host.
    fn indexes(&mut self, list: &Node, spec: &mut WorkloadSpec) -> Option<Replicas> {
        let Value::Sequence(items) = &list.value else {
            self.expected(list, "a list of numbers, such as [0, 2]", &list.value);
            return None;
        };
        let mut places: BTreeMap<u16, u16> = BTreeMap::new();
        for item in items {
            let index = self.parsed(item, |text| {
                let index = quantity::integer(text, 0..=u64::from(u16::MAX))?;
                u16::try_from(index).map_err(|_| "a number up to 65535".to_owned())
            })?;
            if let Some(other) = places.insert(Replicas::place(index), index) {
                let message = match other == index {
                    true => format!("{index} stands here twice"),
                    false => format!(
                        "{other} and {index} differ by a multiple of {}",
                        Replicas::MOST
                    ),
                };
                let fault = Fault::error(item.span.clone(), message);
                self.fault(fault.label("a host tells replicas apart by the rest of their number"));
                return None;
            }
        }
        if items.is_empty() {
            let fault = Fault::error(list.span.clone(), "`indexes` is empty");
            self.fault(fault.label("expected a number"));
            return None;
        }
        spec.replica_indexes = places.into_values().collect();
        spec.rollout.max_surge = 0;
        spec.rollout.max_unavailable = 1;
        let count = u16::try_from(spec.replica_indexes.len()).unwrap_or(Replicas::MOST);
        Some(Replicas::fixed(count))
    }

    pub(super) fn rollout(&mut self, node: &Node, spec: &mut WorkloadSpec) {
        let keys = [
            "drain",
            "max_surge",
            "max_unavailable",
            "min_ready",
            "deadline",
            "on_failure",
        ];
        let fields = self.fields(node, &keys);
        let rollout = &mut spec.rollout;
        self.set(&fields, "drain", &mut rollout.drain, bounded);
        let up_to = |most: u16| {
            move |text: &str| {
                let count = quantity::integer(text, 0..=u64::from(most))?;
                u16::try_from(count).map_err(|_| format!("a number up to {most}"))
            }
        };
        let most = Replicas::MOST;
        self.set(
            &fields,
            "max_surge",
            &mut rollout.max_surge,
            up_to(most - 1),
        );
        self.set(
            &fields,
            "max_unavailable",
            &mut rollout.max_unavailable,
            up_to(most),
        );
        self.set(&fields, "min_ready", &mut rollout.min_ready, bounded);
        self.set(
            &fields,
            "deadline",
            &mut rollout.deadline,
            |text| match bounded(text)? {
                short if short < Duration::from_secs(1) => Err("at least 1s".to_owned()),
                deadline => Ok(deadline),
            },
        );
        self.set(&fields, "on_failure", &mut rollout.on_failure, |text| {
            OnFailure::parse(text).ok_or_else(|| "rollback or pause".to_owned())
        });
        let has_indexes = !spec.replica_indexes.is_empty();
        if let Some(surge) = fields.get("max_surge").filter(|_| has_indexes)
            && rollout.max_surge > 0
        {
            let message = "`indexes` names all replicas that there may be";
            let fault = Fault::error(surge.span.clone(), message);
            self.fault(fault.label("expected 0"));
            return;
        }
        if let Some(replicas) = spec.replicas {
            if rollout.max_surge == 0 && rollout.max_unavailable == 0 {
                let message = "a rollout that may neither add nor miss a replica never ends";
                let fault = Fault::error(node.span.clone(), message);
                self.fault(
                    fault.label("expected `max_surge` or `max_unavailable` to be 1 or more"),
                );
            }
            if replicas.max + rollout.max_surge > most {
                let sum = replicas.max + rollout.max_surge;
                let message = format!("with those of `max_surge` there may be {sum} replicas");
                let fault = Fault::error(node.span.clone(), message);
                self.fault(fault.label(format!("expected at most {most}")));
            }
            return;
        }
        if !spec.has_gate() {
            let fault = Fault::error(node.span.clone(), "`rollout` needs `replicas` or `ports`");
            self.fault(fault.label("for a workload with one of them"));
            return;
        }
        for key in &keys[1..] {
            if let Some(node) = fields.get(key) {
                let fault = Fault::error(node.span.clone(), format!("`{key}` needs `replicas`"));
                self.fault(fault.label("for a workload with several instances"));
            }
        }
    }
}
