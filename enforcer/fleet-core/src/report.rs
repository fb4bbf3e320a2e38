//! Describes a fleet to a person: its replicas, its nodes, and why a replica is where it is. The rows begin with their headings.

use crate::fleet::{Health, NodeId, NodeState, Replica, Resources, Time, WorkloadName};
use crate::reason::Change;
use crate::record::Mode;
use crate::view::View;
use enforcer_model::units::human_duration;
use std::collections::BTreeSet;
use std::time::Duration;

/// Draws rows in columns.
#[must_use]
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut drawn = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        drawn.push_str(line.join("  ").trim_end());
        drawn.push('\n');
    }
    drawn
}

/// Returns a row for each replica that should run or that still does.
#[must_use]
pub fn replicas(view: &View, now: Time) -> Vec<[String; 5]> {
    let headings = ["REPLICA", "NODE", "STATE", "RESTARTS", "WHY"];
    let mut rows = vec![headings.map(str::to_owned)];
    for replica in all_replicas(view) {
        let on: Vec<&NodeId> = nodes_of(view, &replica);
        if on.is_empty() {
            let why = would(view, &replica).or_else(|| waits(view, &replica));
            let why = why.unwrap_or_else(|| "the scheduler has not seen it yet".to_owned());
            let state = match is_observed(view, &replica.workload) {
                true => "observed",
                false => "waits",
            };
            let row = [&replica.to_string(), "-", state, "-", &why];
            rows.push(row.map(str::to_owned));
        }
        for node in on {
            let place = (replica.clone(), node.clone());
            let ends = view
                .assigned
                .get(&place)
                .and_then(|kept| kept.record.ends.clone());
            let health = view.health.get(&place).map(|kept| &kept.record);
            let restarts = health.map_or_else(|| "-".to_owned(), |of| of.restarts.to_string());
            let refusal = health.and_then(|of| of.refused.as_ref());
            let (state, why) = match (&ends, refusal) {
                (Some(reason), _) if view.nodes.contains_key(node) => ("ends", reason.to_string()),
                (Some(reason), _) => ("lost", reason.to_string()),
                (None, Some(refusal)) => ("refused", refusal.why.clone()),
                (None, None) => {
                    let state = match health.map(|of| of.health).unwrap_or_default() {
                        Health::Unknown => "starts",
                        Health::Ready => "ready",
                        Health::Unready { .. } => "unready",
                        Health::Failing { .. } => "failing",
                    };
                    let since = match health.map(|of| of.health) {
                        Some(
                            Health::Failing { since } | Health::Unready { since: Some(since) },
                        ) => {
                            format!("for {}; ", age(now, since))
                        }
                        _ => String::new(),
                    };
                    let waits = waits(view, &replica).unwrap_or_default();
                    (
                        state,
                        format!("{since}{waits}").trim_end_matches("; ").to_owned(),
                    )
                }
            };
            rows.push([
                replica.to_string(),
                node.to_string(),
                state.to_owned(),
                restarts,
                why,
            ]);
        }
    }
    rows
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Returns a row for each node.
#[must_use]
pub fn nodes(view: &View, now: Time) -> Vec<[String; 8]> {
    let headings = [
        "NODE", "STATE", "MEMORY", "CPU", "REPLICAS", "PRESSURE", "AGENT", "LABELS",
    ];
    let mut rows = vec![headings.map(str::to_owned)];
    let known: BTreeSet<&NodeId> = view.nodes.keys().chain(view.known.keys()).collect();
    for id in known {
        let present = view.nodes.get(id).map(|kept| &kept.record);
        let known = view.known.get(id).map(|kept| &kept.record);
        let state = match (present, known.and_then(|known| known.lost_since)) {
            (Some(_), _) if view.is_observed(id) => "observed".to_owned(),
            (Some(_), _) if view.drains.contains_key(id) => "drains".to_owned(),
            (Some(_), _) => "up".to_owned(),
            (None, Some(since)) => format!("lost for {}", age(now, since)),
            (None, None) => "lost".to_owned(),
        };
        let capacity = present
            .map(|node| node.capacity)
            .or(known.map(|node| node.capacity))
            .unwrap_or_default();
        let labels = present
            .map(|node| &node.labels)
            .or(known.map(|node| &node.labels));
        let labels = labels.into_iter().flatten();
        let labels: Vec<String> = labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let (used, count) = used_on(view, id);
        rows.push([
            id.to_string(),
            state,
            format!("{} of {}", mebibytes(used), mebibytes(capacity)),
            format!("{} of {}", cpus(used), cpus(capacity)),
            count.to_string(),
            or_none(present.and_then(|node| node.pressure)),
            or_none(present.and_then(|node| node.agent_version.as_ref())),
            labels.join(" "),
        ]);
    }
    rows
}

/// The state of a fleet in a few lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Everything is as it should be.
    pub is_well: bool,
    pub lines: Vec<String>,
}

/// Returns how a fleet is. `schedulers` is the number of those that live.
#[must_use]
pub fn summary(view: &View, schedulers: usize, now: Time) -> Summary {
    let fleet = view.fleet(now, &[Mode::Enforce], &[Mode::Enforce]);
    let mut counts = [0_usize; 4];
    for node in fleet.nodes.values() {
        let place = match node.state {
            NodeState::Up => 0,
            NodeState::Draining => 1,
            NodeState::Lost { .. } => 2,
            NodeState::Observed => 3,
        };
        counts[place] += 1;
    }
    let [up, draining, lost, observed] = counts;
    let observed = match observed {
        0 => String::new(),
        count => format!(", {count} only observed"),
    };
    let wanted: u64 = fleet
        .desired
        .values()
        .map(|desired| u64::from(desired.replicas))
        .sum();
    let ready = fleet.assigned.keys();
    let ready = ready.filter(|replica| fleet.health(replica) == Health::Ready);
    let ready = u64::try_from(ready.count()).unwrap_or(u64::MAX);
    let mut lines = vec![
        format!("nodes: {up} up, {draining} draining, {lost} lost{observed}"),
        format!("replicas: {ready} of {wanted} ready"),
        match schedulers {
            0 => {
                "schedulers: none, so nothing is placed; start `enforcer-fleet schedule`".to_owned()
            }
            1 => "schedulers: 1".to_owned(),
            count => format!("schedulers: {count}, of which one leads"),
        },
    ];
    let unreadable = view.unreadable.iter();
    lines.extend(unreadable.map(|(key, error)| format!("{key}: {error}")));
    let is_well = lost == 0 && ready >= wanted && schedulers > 0 && view.unreadable.is_empty();
    Summary { is_well, lines }
}

/// Returns the chain of what has happened to the replicas of a workload; `None` if the fleet knows none of this name.
#[must_use]
pub fn why(view: &View, workload: &WorkloadName, now: Time) -> Option<Vec<String>> {
    let of_workload = |replica: &Replica| replica.workload == *workload;
    let replicas: Vec<Replica> = all_replicas(view).into_iter().filter(of_workload).collect();
    let desired = view.desired.get(workload);
    if desired.is_none() && replicas.is_empty() {
        return None;
    }
    let mut lines = Vec::new();
    match desired {
        Some(kept) => {
            let of = &kept.record.scheduling;
            let count = match of.replicas {
                1 => "1 replica".to_owned(),
                count => format!("{count} replicas"),
            };
            let kind = if of.singleton {
                ", never two of one"
            } else {
                ""
            };
            let mode = match kept.record.mode {
                Mode::Observe => "; it is only observed",
                Mode::Enforce => "",
            };
            lines.push(format!("{workload}: {count}{kind}{mode}"));
        }
        None => lines.push(format!("{workload}: the fleet no longer wants it")),
    }
    for replica in replicas {
        let history = view.history.get(&replica).map(|kept| &kept.record);
        let changes = history.into_iter().flat_map(|history| &history.changes);
        for (at, change) in changes {
            let ago = age(now, *at);
            lines.push(format!("{replica}: {ago} ago: {}", told(change)));
        }
        if let Some(would) = would(view, &replica) {
            lines.push(format!("{replica}: {would}"));
        }
        if let Some(waits) = waits(view, &replica) {
            lines.push(format!("{replica}: now: {waits}"));
        }
    }
    Some(lines)
}

/// Returns what has become of a replica, in words.
#[must_use]
pub fn told(change: &Change) -> String {
    let what = match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!("moved from {from} to {to}"),
        (None, Some(to)) => format!("placed on {to}"),
        (Some(from), None) => format!("taken off {from}"),
        (None, None) => "left without a node".to_owned(),
    };
    format!("{what}: {}", change.why)
}

fn all_replicas(view: &View) -> BTreeSet<Replica> {
    let desired = view.desired.iter().flat_map(|(workload, kept)| {
        let all = 0..kept.record.scheduling.replicas;
        all.map(|index| Replica {
            workload: workload.clone(),
            index,
        })
    });
    let assigned = view.assigned.keys().map(|(replica, _)| replica.clone());
    desired.chain(assigned).collect()
}

fn nodes_of<'v>(view: &'v View, replica: &Replica) -> Vec<&'v NodeId> {
    let all = view.assigned.keys();
    all.filter(|(one, _)| one == replica)
        .map(|(_, node)| node)
        .collect()
}

fn is_observed(view: &View, workload: &WorkloadName) -> bool {
    let desired = view.desired.get(workload);
    desired.is_some_and(|kept| kept.record.mode == Mode::Observe)
}

fn waits(view: &View, replica: &Replica) -> Option<String> {
    let history = &view.history.get(replica)?.record;
    history.waits.as_ref().map(ToString::to_string)
}

/// Returns what would become of a replica of a workload that is only observed.
fn would(view: &View, replica: &Replica) -> Option<String> {
    let history = &view.history.get(replica)?.record;
    let would = history.would.as_ref()?;
    Some(format!("would be {}", told(would)))
}

/// Returns what the replicas of a node need, and how many there are.
fn used_on(view: &View, node: &NodeId) -> (Resources, usize) {
    let of_node = view.assigned.keys().filter(|(_, on)| on == node);
    of_node.fold((Resources::default(), 0), |(used, count), (replica, _)| {
        let desired = view.desired.get(&replica.workload);
        let needs = desired.map_or_else(Resources::default, |kept| kept.record.scheduling.needs);
        (used.plus(needs), count + 1)
    })
}

fn mebibytes(of: Resources) -> String {
    format!("{} MiB", of.memory_bytes >> 20)
}

fn cpus(of: Resources) -> String {
    format!("{}.{:02}", of.cpu_millis / 1000, of.cpu_millis % 1000 / 10)
}

fn age(now: Time, since: Time) -> String {
    let seconds = now.since(since).as_secs();
    human_duration(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Desired;
    use crate::reason::{Reason, Wait};
    use crate::record::Key;
    use crate::record::{
        AssignedRecord, DesiredRecord, HealthRecord, HistoryRecord, KnownRecord, NodeRecord,
        Record as _, Refusal,
    };
    use crate::store::{Entry, Revision};
    use std::collections::BTreeMap;

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    fn node(text: &str) -> NodeId {
        NodeId::parse(text).expect("a node")
    }

    fn replica(text: &str) -> Replica {
        let (workload, index) = text.split_once('/').expect("a replica");
        Replica {
            workload: WorkloadName::parse(workload).expect("a name"),
            index: index.parse().expect("a number"),
        }
    }

    fn view() -> View {
        let mut view = View::default();
        let mut put = |key: Key, value: Vec<u8>| {
            let entry = Entry {
                key: key.to_string(),
                value,
                created: Revision(2),
                modified: Revision(2),
                lease: None,
            };
            view.put("", &entry);
        };
        let capacity = Resources {
            memory_bytes: 4 << 30,
            cpu_millis: 2000,
        };
        let labels: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
        let here = NodeRecord {
            capacity,
            labels: labels.clone(),
            agent_version: Some("0.2.0".to_owned()),
            pressure: Some(crate::record::Pressure {
                cpu_percent: 3,
                memory_percent: 0,
                io_percent: 1,
            }),
            ..NodeRecord::default()
        };
        put(Key::Node(node("host-1")), here.encode());
        put(
            Key::Drain(node("host-3")),
            crate::record::DrainRecord::default().encode(),
        );
        put(Key::Node(node("host-3")), here.encode());
        let lost = KnownRecord {
            capacity,
            labels,
            lost_since: Some(at(940)),
        };
        put(Key::Known(node("host-2")), lost.encode());
        for (workload, replicas, singleton, mode) in [
            ("db", 1, true, Mode::Enforce),
            ("new", 1, false, Mode::Observe),
            ("web", 3, false, Mode::Enforce),
        ] {
            let desired = DesiredRecord {
                scheduling: Desired {
                    replicas,
                    needs: Resources {
                        memory_bytes: 256 << 20,
                        cpu_millis: 250,
                    },
                    singleton,
                    ..Desired::default()
                },
                mode,
                workload: serde_json::json!({}),
            };
            let name = WorkloadName::parse(workload).expect("a name");
            put(Key::Desired(name), desired.encode());
        }
        let runs = AssignedRecord::default();
        let ends = AssignedRecord {
            ends: Some(Reason::NodeLost),
            ..AssignedRecord::default()
        };
        put(
            Key::Assigned(node("host-2"), replica("web/0")),
            ends.encode(),
        );
        put(
            Key::Assigned(node("host-1"), replica("web/0")),
            runs.encode(),
        );
        put(
            Key::Assigned(node("host-1"), replica("web/1")),
            runs.encode(),
        );
        put(
            Key::Assigned(node("host-1"), replica("db/0")),
            runs.encode(),
        );
        let ready = HealthRecord {
            health: Health::Ready,
            restarts: 2,
            ..HealthRecord::default()
        };
        put(
            Key::Health(node("host-1"), replica("web/0")),
            ready.encode(),
        );
        let failing = HealthRecord {
            health: Health::Failing { since: at(700) },
            restarts: 14,
            ..HealthRecord::default()
        };
        put(
            Key::Health(node("host-1"), replica("web/1")),
            failing.encode(),
        );
        let refused = HealthRecord {
            refused: Some(Refusal {
                why: "its user `root` is not allowed here".to_owned(),
                of: Revision(2),
            }),
            ..HealthRecord::default()
        };
        put(
            Key::Health(node("host-1"), replica("db/0")),
            refused.encode(),
        );
        let mut history = HistoryRecord::default();
        let change = |from: Option<&str>, to: Option<&str>, why: Reason| Change {
            replica: replica("web/0"),
            from: from.map(node),
            to: to.map(node),
            why,
        };
        history.add(at(100), change(None, Some("host-2"), Reason::Placed));
        history.add(
            at(970),
            change(Some("host-2"), Some("host-1"), Reason::NodeLost),
        );
        put(Key::History(replica("web/0")), history.encode());
        let waits = HistoryRecord {
            waits: Some(Wait::NoNode {
                down: 1,
                unlike: 0,
                refused: 0,
                failed: 0,
                full: 1,
            }),
            ..HistoryRecord::default()
        };
        put(Key::History(replica("web/2")), waits.encode());
        let would = HistoryRecord {
            would: Some(Change {
                replica: replica("new/0"),
                ..change(None, Some("host-1"), Reason::Placed)
            }),
            ..HistoryRecord::default()
        };
        put(Key::History(replica("new/0")), would.encode());
        view
    }

    fn joined<const N: usize>(rows: &[[String; N]]) -> String {
        let lines: Vec<String> = rows.iter().map(|row| row.join(" | ") + "\n").collect();
        lines.concat()
    }

    #[test]
    fn replicas_and_nodes_are_listed() {
        let view = view();
        expect_test::expect![[r#"
            REPLICA | NODE | STATE | RESTARTS | WHY
            db/0 | host-1 | refused | 0 | its user `root` is not allowed here
            new/0 | - | observed | - | would be placed on host-1: it had no node
            web/0 | host-1 | ready | 2 | 
            web/0 | host-2 | lost | - | its node is lost
            web/1 | host-1 | failing | 14 | for 5m
            web/2 | - | waits | - | no node is suitable: 1 not up, 1 without room
        "#]]
        .assert_eq(&joined(&replicas(&view, at(1000))));
        expect_test::expect![[r#"
            NODE | STATE | MEMORY | CPU | REPLICAS | PRESSURE | AGENT | LABELS
            host-1 | up | 768 MiB of 4096 MiB | 0.75 of 2.00 | 3 | cpu 3 %, memory 0 %, io 1 % | 0.2.0 | zone=a
            host-2 | lost for 1m | 256 MiB of 4096 MiB | 0.25 of 2.00 | 1 | - | - | zone=a
            host-3 | drains | 0 MiB of 4096 MiB | 0.00 of 2.00 | 0 | cpu 3 %, memory 0 %, io 1 % | 0.2.0 | zone=a
        "#]]
        .assert_eq(&joined(&nodes(&view, at(1000))));
    }

    #[test]
    fn a_chain_tells_why() {
        let view = view();
        let chain = |name: &str| {
            let lines = why(&view, &WorkloadName::parse(name).expect("a name"), at(1000));
            lines.map(|lines| lines.join("\n"))
        };
        expect_test::expect![[r#"
            web: 3 replicas
            web/0: 15m ago: placed on host-2: it had no node
            web/0: 30s ago: moved from host-2 to host-1: its node is lost
            web/2: now: no node is suitable: 1 not up, 1 without room"#]]
        .assert_eq(&chain("web").unwrap_or_default());
        expect_test::expect![[r#"
            new: 1 replica; it is only observed
            new/0: would be placed on host-1: it had no node"#]]
        .assert_eq(&chain("new").unwrap_or_default());
        assert_eq!(chain("nothing"), None);
    }
}
