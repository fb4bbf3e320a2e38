//! The records of a fleet's manifest, and what another version of it would change.

use crate::fleet::{Desired, Resources, Time, WorkloadName};
use crate::record::{DesiredRecord, Mode};
use crate::report::told;
use crate::schedule::{Settings, decide};
use crate::store::Revision;
use crate::view::{Kept, View};
use enforcer_manifest::{FleetFile, FleetWorkload, Node, Value as Tree};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

/// Returns a part of a manifest as JSON. A word is a number or a truth only where YAML would say so.
fn json(node: &Node) -> Value {
    match &node.value {
        Tree::Null => Value::Null,
        Tree::Scalar { text, plain: false } => Value::String(text.clone()),
        Tree::Scalar { text, plain: true } => match text.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => match text.parse::<u64>() {
                Ok(number) if number.to_string() == *text => Value::Number(Number::from(number)),
                _ => Value::String(text.clone()),
            },
        },
        Tree::Sequence(items) => Value::Array(items.iter().map(json).collect()),
        Tree::Mapping(_) => {
            let pairs = node.value.pairs();
            let pairs = pairs.map(|(key, _, value)| (key.to_owned(), json(value)));
            Value::Object(pairs.collect::<Map<String, Value>>())
        }
    }
}

/// Returns the records of a manifest without faults.
#[must_use]
pub fn records(file: &FleetFile) -> BTreeMap<WorkloadName, DesiredRecord> {
    let all = file.workloads.iter();
    all.map(|(name, workload)| (name.clone(), record(workload)))
        .collect()
}

fn record(workload: &FleetWorkload) -> DesiredRecord {
    DesiredRecord {
        scheduling: Desired {
            replicas: workload.replicas,
            needs: Resources {
                memory_bytes: workload.memory.0,
                cpu_millis: workload.cpu_millis,
            },
            requires: workload.requires.clone(),
            domain: workload.spread.clone(),
            priority: workload.spec.priority,
            singleton: workload.singleton,
            max_unavailable: u32::from(workload.spec.rollout.max_unavailable.max(1)),
        },
        mode: match workload.is_observed {
            true => Mode::Observe,
            false => Mode::Enforce,
        },
        workload: json(&workload.node),
    }
}

/// Returns the records that differ from those of the fleet.
#[must_use]
pub fn changed(
    view: &View,
    records: BTreeMap<WorkloadName, DesiredRecord>,
) -> BTreeMap<WorkloadName, DesiredRecord> {
    let all = records.into_iter();
    all.filter(|(name, record)| {
        let present = view.desired.get(name);
        present.is_none_or(|present| present.record != *record)
    })
    .collect()
}

/// Returns what these records change about each workload, in a line each.
#[must_use]
pub fn summary(view: &View, changed: &BTreeMap<WorkloadName, DesiredRecord>) -> Vec<String> {
    let lines = changed.iter().map(|(name, record)| {
        let new = &record.scheduling;
        let Some(present) = view.desired.get(name).map(|kept| &kept.record) else {
            return match new.replicas {
                1 => format!("{name}: new, with 1 replica"),
                count => format!("{name}: new, with {count} replicas"),
            };
        };
        let mut what = Vec::new();
        let old = &present.scheduling;
        if old.replicas != new.replicas {
            what.push(format!("{} → {} replicas", old.replicas, new.replicas));
        }
        if present.workload != record.workload {
            what.push("another version, replica by replica".to_owned());
        }
        let demands = |of: &Desired| (of.needs, of.requires.clone(), of.domain.clone());
        if demands(old) != demands(new) {
            what.push("other demands on its nodes".to_owned());
        }
        if what.is_empty() {
            what.push("other rules".to_owned());
        }
        format!("{name}: {}", what.join(", "))
    });
    lines.collect()
}

/// Returns the first decision about these records, line by line.
#[must_use]
pub fn plan(
    view: &View,
    changed: &BTreeMap<WorkloadName, DesiredRecord>,
    settings: &Settings,
    now: Time,
) -> Vec<String> {
    let mut next = view.clone();
    for (name, record) in changed {
        let kept = Kept {
            record: record.clone(),
            created: Revision::default(),
            modified: Revision::default(),
        };
        next.desired.insert(name.clone(), kept);
    }
    let memory = view.memory.as_ref();
    let mut memory = memory.map(|kept| kept.record.clone()).unwrap_or_default();
    let fleet = next.fleet(now, Mode::ALL, &[Mode::Enforce]);
    let decision = decide(&fleet, &mut memory, settings, now);
    let is_of = |name: &WorkloadName| changed.contains_key(name);
    let changes = decision.changes.iter();
    let changes = changes.filter(|change| is_of(&change.replica.workload));
    let changes = changes.map(|change| format!("{}: {}", change.replica, told(change)));
    let waiting = decision.waiting.iter();
    let waiting = waiting.filter(|waiting| is_of(&waiting.replica.workload));
    let waiting = waiting.map(|waiting| format!("{}: waits: {}", waiting.replica, waiting.why));
    changes.chain(waiting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_manifest::parse_fleet;

    #[test]
    fn a_manifest_becomes_records_and_a_plan() {
        let text = |replicas: u32, program: &str| {
            format!(
                "version: 2
workloads:
  web:
    command: [{program}, \"8080\", plain]
    user: web
    replicas: {replicas}
    umask: 0022
    private_tmp: true
    cgroup: {{ memory.max: 64M, pids.max: 30 }}
"
            )
        };
        let of = |replicas, program| {
            let file = parse_fleet(&text(replicas, program));
            assert_eq!(file.faults, []);
            records(&file)
        };
        let first = of(2, "/bin/web");
        let web = WorkloadName::parse("web").expect("a name");
        expect_test::expect![[r#"{"cgroup":{"memory.max":"64M","pids.max":30},"command":["/bin/web","8080","plain"],"private_tmp":true,"umask":"0022","user":"web"}"#]].assert_eq(&first[&web].workload.to_string());
        let mut view = View::default();
        for (name, record) in first.clone() {
            let kept = Kept {
                record,
                created: Revision(1),
                modified: Revision(1),
            };
            view.desired.insert(name, kept);
        }
        assert_eq!(changed(&view, first), BTreeMap::new());
        let next = changed(&view, of(3, "/bin/web2"));
        let mut lines = summary(&view, &next);
        lines.extend(plan(&view, &next, &Settings::default(), Time::default()));
        expect_test::expect![[r#"
            web: 2 → 3 replicas, another version, replica by replica
            web/0: waits: the fleet has no node
            web/1: waits: the fleet has no node
            web/2: waits: the fleet has no node"#]]
        .assert_eq(&lines.join("\n"));
    }
}
