//! Services: the ports of a workload, and how connections reach its replicas.

use super::{Import, Object, Workload, at, items, word};
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;
use crate::values::{text, workload_name};
use enforcer_manifest::Node;
use std::collections::BTreeMap;

pub(super) fn read(import: &mut Import, object: &Object) {
    let pairs = at(&object.node, &["spec", "selector"]).into_iter();
    let pairs = pairs.flat_map(|selector| selector.value.pairs());
    let selector: Vec<(String, String)> = pairs
        .filter_map(|(key, _, value)| Some((key.to_owned(), text(value)?.to_owned())))
        .collect();
    let is_chosen = |workload: &Workload| {
        let mut labels = selector.iter();
        !selector.is_empty() && !workload.is_init && labels.all(|one| workload.labels.contains(one))
    };
    let chosen: Vec<usize> = (0..import.workloads.len())
        .filter(|index| import.workloads.get(*index).is_some_and(is_chosen))
        .collect();
    let keys = at(&object.node, &["spec"]).into_iter();
    for (key, _, value) in keys.flat_map(|keys| keys.value.pairs()) {
        let outcome = match key {
            "ports" => {
                for port in items(value, &[]) {
                    let outcome = self::port(import, &chosen, port);
                    let number = word(port, &["port"]).unwrap_or_default();
                    import.line(&object.place(), &format!("spec.ports.{number}"), outcome);
                }
                continue;
            }
            "selector" => match chosen.is_empty() {
                true => needs_you("no pod of the files has these labels"),
                false => exact(""),
            },
            "type" => match text(value) {
                Some("NodePort" | "LoadBalancer") => {
                    near("the port is that of the host itself, `port`")
                }
                Some("ExternalName") => needs_you("write the name into /etc/hosts"),
                _ => near("the port is open at the address that the program binds"),
            },
            "clusterIP" | "clusterIPs" | "ipFamilies" | "ipFamilyPolicy" => {
                near("the address is the host's: other workloads ask 127.0.0.1")
            }
            "sessionAffinity" if text(value) == Some("None") => exact(""),
            "sessionAffinity" | "sessionAffinityConfig" => {
                needs_you("each connection goes to any replica that is ready")
            }
            "publishNotReadyAddresses" => near("connections wait while nothing is ready"),
            "externalName" => needs_you("write the name into /etc/hosts"),
            "externalTrafficPolicy"
            | "internalTrafficPolicy"
            | "trafficDistribution"
            | "loadBalancerClass"
            | "allocateLoadBalancerNodePorts"
            | "healthCheckNodePort" => near("there is one host"),
            "loadBalancerIP" | "loadBalancerSourceRanges" | "externalIPs" => {
                dropped("the host's own firewall decides who reaches a port")
            }
            _ => dropped("the key is not known"),
        };
        import.line(&object.place(), &format!("spec.{key}"), outcome);
    }
}

fn port(import: &mut Import, chosen: &[usize], port: &Node) -> Outcome {
    let protocol = word(port, &["protocol"]).unwrap_or("TCP");
    if protocol != "TCP" {
        return near("the program binds a port of UDP itself");
    }
    let Some(number) = word(port, &["port"]).and_then(|text| text.parse::<u16>().ok()) else {
        return needs_you("the port is not understood");
    };
    let target = word(port, &["targetPort"]);
    let find = |workload: &Workload| match target.map(|text| (text, text.parse::<u16>())) {
        None => Some(number),
        Some((_, Ok(target))) => Some(target),
        Some((name, Err(_))) => workload
            .ports
            .iter()
            .find(|(known, _)| known.as_deref() == Some(name))
            .map(|(_, number)| *number),
    };
    // Of several containers in a pod, one has the port.
    let declares = |index: &usize| {
        let workload = import.workloads.get(*index)?;
        let bound = find(workload)?;
        let mut ports = workload.ports.iter();
        ports
            .any(|(_, known)| *known == bound)
            .then_some((*index, bound))
    };
    let found = chosen.iter().find_map(declares).or_else(|| {
        let [index] = chosen else {
            return None;
        };
        Some((*index, find(import.workloads.get(*index)?)?))
    });
    let Some((index, bound)) = found else {
        return needs_you("write `ports` for the workload that has this port");
    };
    let name = word(port, &["name"]).map_or_else(|| format!("p{number}"), workload_name);
    let Some(workload) = import.workloads.get_mut(index) else {
        return needs_you("no workload has this port");
    };
    workload
        .draft
        .put(&["ports", &name, "port"], Yaml::word(number));
    if bound != number {
        workload
            .draft
            .put(&["ports", &name, "target"], Yaml::word(bound));
    }
    near("workloads ask 127.0.0.1, not the Service's name")
}

/// Gives replicas their ports, has probes ask the port that clients connect to, and reports what two
/// workloads have.
pub(super) fn share(import: &mut Import) {
    let mut taken: BTreeMap<u16, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for workload in &mut import.workloads {
        if workload.draft.get(&["replicas"]).is_some() && workload.draft.get(&["ports"]).is_none() {
            for (name, number) in &workload.ports {
                let name = name
                    .as_deref()
                    .map_or_else(|| format!("p{number}"), workload_name);
                let number = Yaml::word(number);
                workload.draft.put(&["ports", &name, "port"], number);
            }
        }
        let Some(Yaml::Map(ports)) = workload.draft.get(&["ports"]).cloned() else {
            continue;
        };
        let mut kept = Vec::new();
        for (name, port) in ports {
            let (Some(number), target) = (word_of(&port, "port"), word_of(&port, "target")) else {
                continue;
            };
            if let Some(other) = taken.get(&number) {
                let note = format!("`{other}` has the port {number} as well: choose another one");
                lines.push((workload.place.clone(), needs_you(note)));
                continue;
            }
            taken.insert(number, workload.name.clone());
            for kind in ["liveness", "readiness", "startup"] {
                for check in ["http", "https", "tcp", "grpc"] {
                    let path = ["probes", kind, check, "port"];
                    let asked = workload.draft.get(&path).cloned();
                    if target.is_some() && asked == target.map(Yaml::word) {
                        workload.draft.put(&path, Yaml::word(number));
                    }
                }
            }
            kept.push((name, port));
        }
        workload.draft.put(&["ports"], Yaml::Map(kept));
    }
    for (place, outcome) in lines {
        import.line(&place, "", outcome);
    }
}

fn word_of(port: &Yaml, key: &str) -> Option<u16> {
    match port.get(&[key])? {
        Yaml::Word(word) => word.parse().ok(),
        Yaml::Text(_) | Yaml::List(_) | Yaml::Map(_) => None,
    }
}
