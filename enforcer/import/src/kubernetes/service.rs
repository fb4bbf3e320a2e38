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

/// Gives replicas the ports at which they listen, has probes ask the port that clients connect to, and
/// reports what two workloads have.
pub(super) fn share(import: &mut Import) {
    let mut taken: BTreeMap<u16, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for workload in &mut import.workloads {
        let is_several = workload.draft.get(&["replicas"]).is_some();
        let mut kept: Vec<(String, Yaml)> = Vec::new();
        let mut at = Vec::new();
        let mut take = |number: u16, advice: &str| match taken.get(&number) {
            Some(other) if *other != workload.name => {
                let note = format!("`{other}` listens at the port {number} as well: {advice}");
                lines.push((workload.place.clone(), needs_you(note)));
                false
            }
            Some(_) | None => {
                taken.insert(number, workload.name.clone());
                true
            }
        };
        let declared = match workload.draft.get(&["ports"]) {
            Some(Yaml::Map(ports)) => ports.clone(),
            Some(Yaml::Text(_) | Yaml::Word(_) | Yaml::List(_)) | None => Vec::new(),
        };
        for (name, port) in declared {
            let (Some(number), target) = (word_of(&port, "port"), word_of(&port, "target")) else {
                continue;
            };
            if take(number, "choose another one") {
                at.push((number, target.unwrap_or(number)));
                kept.push((name, port));
            }
        }
        for (name, number) in &workload.ports {
            if at.iter().any(|(_, bound)| bound == number) {
                continue;
            }
            if take(
                *number,
                "`ports: { http: { port: OTHER, target: THIS } }` moves one of them",
            ) && is_several
            {
                let name = name
                    .as_deref()
                    .map_or_else(|| format!("p{number}"), workload_name);
                let mut port = Yaml::map();
                port.put(&["port"], Yaml::word(number));
                kept.push((name, port));
            }
        }
        for (number, bound) in at {
            ask_at(&mut workload.draft, bound, number);
        }
        if !kept.is_empty() || workload.draft.get(&["ports"]).is_some() {
            workload.draft.put(&["ports"], Yaml::Map(kept));
        }
        fit(&mut workload.draft);
    }
    for (place, outcome) in lines {
        import.line(&place, "", outcome);
    }
}

/// Has the probes of one port ask another one.
fn ask_at(draft: &mut Yaml, bound: u16, number: u16) {
    for kind in ["liveness", "readiness", "startup"] {
        for check in ["http", "https", "tcp", "grpc"] {
            let path = ["probes", kind, check, "port"];
            if draft.get(&path) == Some(&Yaml::word(bound)) {
                draft.put(&path, Yaml::word(number));
            }
        }
    }
}

/// There may be 15 replicas, with those that a rollout adds.
fn fit(draft: &mut Yaml) {
    let number = |value: Option<&Yaml>| match value {
        Some(Yaml::Word(word)) => word.parse::<u16>().ok(),
        Some(Yaml::Text(_) | Yaml::List(_) | Yaml::Map(_)) | None => None,
    };
    let most = number(draft.get(&["replicas"])).or(number(draft.get(&["replicas", "max"])));
    let surge = number(draft.get(&["rollout", "max_surge"]));
    if let (Some(most), Some(surge)) = (most, surge)
        && surge > 1
    {
        let room = 15_u16.saturating_sub(most).max(1);
        draft.put(&["rollout", "max_surge"], Yaml::word(surge.min(room)));
    }
}

fn word_of(port: &Yaml, key: &str) -> Option<u16> {
    match port.get(&[key])? {
        Yaml::Word(word) => word.parse().ok(),
        Yaml::Text(_) | Yaml::List(_) | Yaml::Map(_) => None,
    }
}
