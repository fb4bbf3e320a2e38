//! `needs`: the order of starts, and the check that no workload waits for itself.

use super::{Reader, one_of};
use crate::fault::Fault;
use crate::yaml::Node;
use crate::{Manifest, WorkloadName};
use enforcer_model::spec::{Attach, Need, Port, RestartPolicy};
use std::collections::BTreeMap;
use std::ops::Range;

const LEVELS: [(&str, Need); 3] = [
    ("started", Need::Started),
    ("ready", Need::Ready),
    ("completed", Need::Completed),
];

impl Reader<'_> {
    pub(super) fn needs(&mut self, node: &Node) -> BTreeMap<WorkloadName, Need> {
        let mut needs = BTreeMap::new();
        for (other, level) in self.entries(node).iter() {
            let need = self.parsed(level, one_of(&LEVELS));
            match WorkloadName::parse(other) {
                Some(name) => drop(need.map(|need| needs.insert(name, need))),
                None => self.fault(Fault::error(
                    level.span.clone(),
                    format!("`{}` is not a workload's name", other.escape_debug()),
                )),
            }
        }
        needs
    }
}

/// Returns the faults in the needs of a whole manifest, by workload: names that no workload has,
/// and circles, each once.
pub(crate) fn faults(manifest: &Manifest) -> Vec<(WorkloadName, Fault)> {
    let mut faults = Vec::new();
    let mut graph: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, spec) in &manifest.workloads {
        for other in spec
            .needs
            .keys()
            .filter(|other| !manifest.workloads.contains_key(*other))
        {
            let message = format!("`{name}` needs `{other}`, which no manifest names");
            let fault = Fault::error(0..0, message).label("it could never start");
            faults.push((name.clone(), fault));
        }
        for (other, need) in &spec.needs {
            let needed = manifest.workloads.get(other);
            let service = needed.and_then(|other| other.attach.as_ref());
            if service.is_some_and(Attach::is_pattern) {
                let message =
                    format!("`{name}` needs `{other}`, which stands for several services");
                let fault = Fault::error(0..0, message).label("expected one service");
                faults.push((name.clone(), fault));
                continue;
            }
            if *need == Need::Completed && needed.is_some_and(|other| other.attach.is_some()) {
                let message = format!(
                    "`{name}` needs `{other}` to be completed, and `{other}` is attached: its owner alone knows"
                );
                let fault = Fault::error(0..0, message).label("expected `started` or `ready`");
                faults.push((name.clone(), fault));
                continue;
            }
            let never_completes = manifest
                .workloads
                .get(other)
                .is_some_and(|other| other.recovery.restart == RestartPolicy::Always);
            if *need == Need::Completed && never_completes {
                let message = format!(
                    "`{name}` needs `{other}` to be completed, and `{other}` is started again whenever it ends"
                );
                let fault = Fault::error(0..0, message)
                    .label("it could never start")
                    .help(format!("`{other}` is a job: give it `recovery: {{ restart: on-failure }}`, or `never`"));
                faults.push((name.clone(), fault));
            }
        }
        let needed = spec.needs.keys().map(ToString::to_string).collect();
        graph.insert(name.to_string(), needed);
    }
    faults.extend(shared_ports(manifest));
    for name in manifest.workloads.keys() {
        if let Some(path) = cycle_from(name.as_str(), &graph) {
            let message = format!("`needs` goes in a circle: {}", path.join(" → "));
            let fault = Fault::error(0..0, message).label("none of them could ever start");
            faults.push((name.clone(), fault));
        }
    }
    faults
}

/// Returns a fault for each port that another workload has declared as well: the gate gives its
/// connections to one workload.
fn shared_ports(manifest: &Manifest) -> Vec<(WorkloadName, Fault)> {
    let mut owned: Vec<(&WorkloadName, Port)> = Vec::new();
    let mut faults = Vec::new();
    for (name, spec) in &manifest.workloads {
        for port in spec.gated_ports().into_values() {
            let other = owned
                .iter()
                .find(|(owner, other)| *owner != name && other.overlaps(&port));
            if let Some((owner, other)) = other {
                let number = port.port.max(other.port);
                let message =
                    format!("the port {number} of `{name}` stands in `ports` of `{owner}` as well");
                let fault = Fault::error(0..0, message).label("a port belongs to one workload");
                faults.push((name.clone(), fault));
            }
            owned.push((name, port));
        }
    }
    faults
}

/// Returns the place of each workload's `needs`, or else of its name.
pub(super) fn places(workloads: &Node) -> BTreeMap<String, Range<usize>> {
    let pairs = workloads.value.pairs();
    let places = pairs.map(|(name, place, workload)| {
        let mut fields = workload.value.pairs();
        let needs = fields.find(|(key, ..)| *key == "needs");
        let place = needs.map_or(place, |(_, place, _)| place);
        (name.to_owned(), place.clone())
    });
    places.collect()
}

/// Returns the way from a name back to itself, if it is the first of that circle.
fn cycle_from(start: &str, graph: &BTreeMap<String, Vec<String>>) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut waiting = vec![start];
    while let Some(last) = waiting.pop() {
        for next in graph.get(last).into_iter().flatten().map(String::as_str) {
            if next == start {
                let mut path = vec![start.to_owned()];
                let mut at = last;
                while at != start {
                    path.push(at.to_owned());
                    at = came_from.get(at)?;
                }
                path.push(start.to_owned());
                path.reverse();
                return (path.iter().min().map(String::as_str) == Some(start)).then_some(path);
            }
            if next != start && !came_from.contains_key(next) {
                came_from.insert(next, last);
                waiting.push(next);
            }
        }
    }
    None
}
