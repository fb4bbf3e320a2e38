//! The fleet's file in the manifest of a host's agent. The node reads it back when it starts, so it needs no state of its own.

use crate::fleet::WorkloadName;
use crate::node::Local;
use crate::store::Revision;
use enforcer_manifest::{Severity, parse_anywhere};
use enforcer_model::spec::WorkloadSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The beginning of the file, which is JSON otherwise: a kind of YAML.
const HEAD: &str = "# Written by enforcer-fleet, which replaces all changes.\n";
/// The key of what the agent does not read.
const OWN: &str = "x-fleet";

/// The node reads this of a workload when it starts again.
#[derive(Serialize, Deserialize)]
struct Own {
    revision: Revision,
    singleton: bool,
    /// The workload as the fleet has it.
    workload: Value,
    replicas: BTreeMap<u32, Revision>,
}

/// Returns the manifest of these workloads.
#[must_use]
pub fn write(workloads: &BTreeMap<WorkloadName, Local>) -> String {
    let all: Map<String, Value> = workloads
        .iter()
        .map(|(name, local)| (name.to_string(), entry(local)))
        .collect();
    let whole = json!({ "version": 2, "workloads": all });
    // A tree of plain values is always JSON.
    HEAD.to_owned() + &serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
}

fn entry(local: &Local) -> Value {
    let mut entry = match &local.workload {
        Value::Object(keys) => keys.clone(),
        _ => Map::new(),
    };
    if local.singleton {
        entry.insert("leased".to_owned(), json!(true));
        let fence = local.replicas.values().next();
        if let Some(fence) = fence {
            let variables = entry
                .entry("environment")
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(variables) = variables {
                variables.insert("ENFORCER_FENCE".to_owned(), json!(fence.0.to_string()));
            }
        }
    } else {
        let indexes: Vec<u32> = local.replicas.keys().copied().collect();
        entry.insert("replicas".to_owned(), json!({ "indexes": indexes }));
    }
    let own = Own {
        revision: local.revision,
        singleton: local.singleton,
        workload: local.workload.clone(),
        replicas: local.replicas.clone(),
    };
    entry.insert(OWN.to_owned(), json!(own));
    Value::Object(entry)
}

/// Reads the file. One that this program has not written has no workloads of it.
#[must_use]
pub fn read(text: &str) -> BTreeMap<WorkloadName, Local> {
    let json = text.strip_prefix(HEAD).unwrap_or(text);
    let Ok(whole) = serde_json::from_str::<Value>(json) else {
        return BTreeMap::new();
    };
    let workloads = whole.get("workloads").and_then(Value::as_object);
    let read = workloads.into_iter().flatten().filter_map(|(name, entry)| {
        let own: Own = serde_json::from_value(entry.get(OWN)?.clone()).ok()?;
        let local = Local {
            revision: own.revision,
            workload: own.workload,
            singleton: own.singleton,
            replicas: own.replicas,
        };
        Some((WorkloadName::parse(name)?, local))
    });
    read.collect()
}

/// Returns a workload as the host's agent reads it.
///
/// # Errors
/// The first fault of its manifest.
pub fn spec_of(name: &WorkloadName, local: &Local) -> Result<Arc<WorkloadSpec>, String> {
    let one = [(name.clone(), local.clone())].into();
    let parsed = parse_anywhere(&write(&one));
    let mut faults = parsed.faults.into_iter();
    if let Some(fault) = faults.find(|fault| fault.severity == Severity::Error) {
        return Err(match fault.label.is_empty() {
            true => fault.message,
            false => format!("{} ({})", fault.message, fault.label),
        });
    }
    let spec = parsed.manifest.workloads.get(name);
    spec.cloned().ok_or_else(|| "it is no workload".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> WorkloadName {
        WorkloadName::parse(text).expect("a name")
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let web = Local {
            revision: Revision(7),
            workload: json!({ "command": ["/bin/web"], "user": "web" }),
            singleton: false,
            replicas: [(0, Revision(3)), (40, Revision(9))].into(),
        };
        let db = Local {
            workload: json!({ "command": ["/bin/db"], "user": "db", "stop": { "grace": "3s" } }),
            singleton: true,
            replicas: [(0, Revision(5))].into(),
            ..web.clone()
        };
        let all: BTreeMap<_, _> = [(name("web"), web.clone()), (name("db"), db.clone())].into();
        assert_eq!(read(&write(&all)), all);
        let spec = spec_of(&name("web"), &web).expect("a workload");
        assert_eq!(spec.replica_indexes, [0, 40].into());
        let spec = spec_of(&name("db"), &db).expect("a workload");
        assert!(spec.leased);
        assert_eq!(spec.environment["ENFORCER_FENCE"], "5");
        assert_eq!(spec.stop.grace.as_secs(), 3);
        let faulty = Local {
            workload: json!({ "comand": [] }),
            ..web
        };
        let why = spec_of(&name("web"), &faulty).expect_err("a fault");
        assert!(why.contains("comand") || why.contains("command"), "{why}");
        assert_eq!(read(""), BTreeMap::new());
        assert_eq!(read("version: 2\n"), BTreeMap::new());
    }
}
