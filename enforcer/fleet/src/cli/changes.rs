//! The commands that change what the fleet should do.

use super::{Fleet, say};
use crate::config::{check, text_of};
use enforcer_client::Fault;
use enforcer_fleet_core::desired::{self, changed, records};
use enforcer_fleet_core::fleet::WorkloadName;
use enforcer_fleet_core::record::{DesiredRecord, DrainRecord, Key, Record as _};
use enforcer_fleet_core::store::{Condition, Operation, Revision, Transaction};
use enforcer_fleet_core::view::View;
use enforcer_fleet_core::{NodeId, Settings};
use enforcer_manifest::parse_fleet;
use std::collections::BTreeMap;
use std::path::Path;

/// The workloads of one transaction.
const BATCH: usize = 50;

fn read(file: &Path) -> Result<BTreeMap<WorkloadName, DesiredRecord>, Fault> {
    let text = text_of(file)?;
    let parsed = parse_fleet(&text);
    check(file, &text, &parsed.faults)?;
    Ok(records(&parsed))
}

fn settings(fleet: &Fleet) -> Settings {
    Settings {
        grace: fleet.config.etcd.grace,
        ..Settings::default()
    }
}

fn print_summary(view: &View, changes: &BTreeMap<WorkloadName, DesiredRecord>) {
    if changes.is_empty() {
        say("no changes");
    }
    for line in desired::summary(view, changes) {
        say(line);
    }
}

pub(super) async fn plan(fleet: &Fleet, file: &Path) -> Result<(), Fault> {
    let records = read(file)?;
    let (view, _) = fleet.all().await?;
    let changes = changed(&view, records);
    print_summary(&view, &changes);
    for line in desired::plan(&view, &changes, &settings(fleet), Fleet::now()) {
        say(line);
    }
    Ok(())
}

pub(super) async fn apply(fleet: &Fleet, file: &Path) -> Result<(), Fault> {
    let records = read(file)?;
    let (view, _) = fleet.all().await?;
    let changes = changed(&view, records);
    let all: Vec<(&WorkloadName, &DesiredRecord)> = changes.iter().collect();
    for batch in all.chunks(BATCH) {
        let mut transaction = Transaction::default();
        for (name, record) in batch {
            let key = fleet.key(&Key::Desired((*name).clone()));
            let present = view.desired.get(*name);
            let known = present.map(|kept| kept.modified).unwrap_or_default();
            transaction
                .conditions
                .push(Condition::Modified(key.clone(), known));
            transaction.then.push(Operation::Put {
                key,
                value: record.encode(),
                lease: None,
            });
        }
        if !fleet.transact(transaction).await? {
            let message =
                "somebody else has changed the fleet meanwhile; `plan` shows what is left to do";
            return Err(Fault::Failed(message.to_owned()));
        }
    }
    print_summary(&view, &changes);
    Ok(())
}

/// Deletes a key that should be there.
async fn delete(fleet: &Fleet, key: Key, missing: String) -> Result<(), Fault> {
    let text = fleet.key(&key);
    let (_, got) = fleet.all().await?;
    let present = got.entries.iter().find(|entry| entry.key == text);
    let Some(present) = present else {
        return Err(Fault::NoSuchWorkload(missing));
    };
    let transaction = Transaction {
        conditions: vec![Condition::Modified(text, present.modified)],
        then: vec![fleet.delete(&key)],
        otherwise: Vec::new(),
    };
    match fleet.transact(transaction).await? {
        true => Ok(()),
        false => Err(Fault::Failed(
            "somebody else has changed it meanwhile; try again".to_owned(),
        )),
    }
}

pub(super) async fn remove(fleet: &Fleet, workload: &WorkloadName) -> Result<(), Fault> {
    let missing = format!("the fleet has no workload `{workload}`");
    delete(fleet, Key::Desired(workload.clone()), missing).await?;
    say(format_args!("{workload}: removed; its replicas end"));
    Ok(())
}

pub(super) async fn drain(fleet: &Fleet, node: &NodeId, why: String) -> Result<(), Fault> {
    let (view, _) = fleet.all().await?;
    is_known(&view, node)?;
    let put = Operation::Put {
        key: fleet.key(&Key::Drain(node.clone())),
        value: DrainRecord { why }.encode(),
        lease: None,
    };
    let transaction = Transaction {
        then: vec![put],
        ..Transaction::default()
    };
    fleet.transact(transaction).await?;
    say(format_args!(
        "{node}: gets nothing new, and what it has moves away"
    ));
    Ok(())
}

fn is_known(view: &View, node: &NodeId) -> Result<(), Fault> {
    match view.nodes.contains_key(node) || view.known.contains_key(node) {
        true => Ok(()),
        false => Err(Fault::NoSuchWorkload(format!(
            "the fleet has no node `{node}`; `enforcer-fleet nodes` lists them"
        ))),
    }
}

pub(super) async fn uncordon(fleet: &Fleet, node: &NodeId) -> Result<(), Fault> {
    let missing = format!("`{node}` is not drained");
    delete(fleet, Key::Drain(node.clone()), missing).await?;
    say(format_args!(
        "{node}: may get replicas again; none come back by themselves"
    ));
    Ok(())
}

pub(super) async fn forget(fleet: &Fleet, node: &NodeId) -> Result<(), Fault> {
    let (view, _) = fleet.all().await?;
    is_known(&view, node)?;
    let (present, known) = (Key::Node(node.clone()), Key::Known(node.clone()));
    let transaction = Transaction {
        conditions: vec![Condition::Modified(fleet.key(&present), Revision(0))],
        then: vec![
            fleet.delete(&known),
            fleet.delete(&Key::Drain(node.clone())),
        ],
        otherwise: Vec::new(),
    };
    match fleet.transact(transaction).await? {
        true => say(format_args!(
            "{node}: forgotten; what it had is placed elsewhere"
        )),
        false => {
            return Err(Fault::Refused(format!(
                "{node} is up; stop `enforcer-fleet node` there first"
            )));
        }
    }
    Ok(())
}
