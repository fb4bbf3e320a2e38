//! Files and keys of other tools, and what they are here.

use crate::fault::Fault;
use crate::read::{alerts, document, host, limits, probes, recovery, watch, workload};
use crate::yaml::Node;

/// Keys of other tools, and what they are here.
const KEYS: &[(&str, &str)] = &[
    (
        "image",
        "enforcer starts programs of this host and no containers; give it a `command`",
    ),
    ("mem_limit", "it is `memory.max` under `cgroup`"),
    ("mem_reservation", "it is `memory.low` under `cgroup`"),
    (
        "memswap_limit",
        "it is `memory.swap.max` under `cgroup`, without the memory's part",
    ),
    (
        "cpus",
        "it is `cpu.max` under `cgroup`: 1.5 CPUs are `150%`",
    ),
    (
        "cpu_shares",
        "it is `cpu.weight` under `cgroup`: 512 shares are 59, 1024 are 100",
    ),
    ("pids_limit", "it is `pids.max` under `cgroup`"),
    ("deploy", "limits stand under `cgroup`"),
    ("resources", "limits stand under `cgroup`"),
    ("healthcheck", "it is `liveness` under `probes`"),
    ("livenessProbe", "it is `liveness` under `probes`"),
    ("readinessProbe", "it is `readiness` under `probes`"),
    ("depends_on", "it is `needs`"),
    ("env_file", "it is `environment_files`"),
    ("env", "it is `environment`"),
    ("working_dir", "it is `directory`"),
    ("workingDir", "it is `directory`"),
    ("ExecStart", "it is `command`, as a list"),
    ("MemoryMax", "it is `memory.max` under `cgroup`"),
    ("CPUQuota", "it is `cpu.max` under `cgroup`"),
    ("CPUWeight", "it is `cpu.weight` under `cgroup`"),
    ("stop_grace_period", "it is `grace` under `stop`"),
];

/// Returns the fault of a file that was written for another tool, which its top level tells. It is
/// the only one reported: a fault for each foreign key would hide it.
pub(crate) fn file(source: &str, root: Option<&Node>) -> Option<Fault> {
    let has = |key: &str| {
        let mut pairs = root.into_iter().flat_map(|root| root.value.pairs());
        pairs.find(|(known, ..)| *known == key)
    };
    let fault = |place, what: &str, advice: &str| {
        Fault::error(place, format!("this is {what}"))
            .label("not a manifest of enforcer's")
            .help(format!(
                "{advice}; the document coming-from.md has what each key is here"
            ))
    };
    if has("workloads").is_some() {
        return None;
    }
    if let (Some((_, place, _)), Some((_, _, kind))) = (has("apiVersion"), has("kind")) {
        let what = format!("a Kubernetes manifest of kind {}", kind.value.describe());
        let advice = "`enforcer import kubernetes FILE` turns it into one";
        return Some(fault(place.clone(), &what, advice));
    }
    if let Some((_, place, _)) = has("services") {
        let advice = "`enforcer import compose FILE` turns it into one";
        return Some(fault(place.clone(), "a Compose file", advice));
    }
    let (at, line) = first_line(source)?;
    let section = line.strip_prefix('[')?.strip_suffix(']')?;
    let place = at..at + line.len();
    match section {
        "Unit" | "Service" | "Install" => {
            let advice = "`enforcer import systemd FILE` turns it into one";
            Some(fault(place, "a systemd unit", advice))
        }
        _ if section.starts_with("program:") || section == "supervisord" => {
            let advice = "write each program under `workloads`";
            Some(fault(place, "a configuration of supervisord", advice))
        }
        _ => None,
    }
}

/// Returns the first line that is neither empty nor a comment, and where it begins.
fn first_line(source: &str) -> Option<(usize, &str)> {
    let mut at = 0;
    for line in source.split_inclusive('\n') {
        let text = line.trim();
        if !text.is_empty() && !text.starts_with(['#', ';']) {
            return Some((at + line.find(text).unwrap_or(0), text));
        }
        at += line.len();
    }
    None
}

/// Returns what a key of another tool is here.
pub(crate) fn key(name: &str) -> Option<&'static str> {
    let mut known = KEYS.iter().filter(|(foreign, _)| *foreign == name);
    known.next().map(|(_, here)| *here)
}

/// Where each key stands. A key of several sections is most likely meant for the first.
const SECTIONS: &[(&str, &[&str])] = &[
    ("in the workload itself", workload::KEYS),
    ("under `cgroup` of a workload", limits::KEYS),
    ("under `recovery` of a workload", recovery::KEYS),
    ("under `stop` of a workload", recovery::STOP_KEYS),
    ("under `logs` of a workload", recovery::LOGS_KEYS),
    ("under `watch` of a workload", watch::KEYS),
    ("in a probe, such as `probes.liveness`", &probes::KINDS),
    ("in a probe, such as `probes.liveness`", &probes::TIMING),
    ("at the top of the file", document::KEYS),
    ("under `host`", host::KEYS),
    ("under `alerts`", alerts::KEYS),
];

/// Returns where a key stands that was found elsewhere: "under `recovery` of a workload".
pub(crate) fn place_of(key: &str) -> Option<&'static str> {
    let mut sections = SECTIONS.iter();
    let found = sections.find(|(_, keys)| keys.contains(&key));
    found.map(|(place, _)| *place)
}
