//! Leaders that are killed again and again, while a replica of each fleet fails.

use super::nodes::{changes_since, desired, list, live, put, spread, wait_for, workload};
use super::programs::{Scheduler, client, config, etcd, scheduler};
use super::{FLEETS, ROUNDS};
use enforcer_fleet::etcd::Client;
use enforcer_fleet_core::record::{HealthRecord, Key, NodeRecord, Record as _};
use enforcer_fleet_core::store::{Change, Keys};
use enforcer_fleet_core::{Replica, Time};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a fleet knows, as far as a killed scheduler must not change it.
async fn known(client: &Client, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let mut known = BTreeMap::new();
    for keys in ["assigned/", "desired/", "known/"] {
        let entries = list(client, format!("{prefix}{keys}")).await.0;
        known.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
    }
    known
}

/// Kills the leaders of several fleets again and again, while a replica of each fails.
pub(crate) async fn run(folder: &Path) {
    let _own = etcd(&folder.join("etcd-kills"));
    let client = client();
    let mut nodes = Vec::new();
    let mut schedulers: Vec<Vec<Scheduler>> = Vec::new();
    let prefixes: Vec<String> = (0..FLEETS).map(|fleet| format!("fleet-{fleet}/")).collect();
    let sick = Replica {
        workload: workload(0),
        index: 0,
    };
    let begun = Instant::now();
    let mut configs = Vec::new();
    for prefix in &prefixes {
        let put = put(&Key::Desired(workload(0)), prefix, desired(3).encode());
        client.call(&put).await.unwrap();
        for number in 0..4 {
            let live = live(prefix.clone(), number, Arc::default(), Some(sick.clone()));
            nodes.push(tokio::spawn(live));
        }
    }
    for prefix in &prefixes {
        wait_for(&client, &format!("{prefix}nodes/"), 4).await;
    }
    for prefix in &prefixes {
        let config = config(folder, prefix);
        schedulers.push(vec![scheduler(&config), scheduler(&config)]);
        configs.push(config);
    }
    for prefix in &prefixes {
        wait_for(&client, &format!("{prefix}assigned/"), 3).await;
    }
    let from = list(&client, "fleet-".to_owned()).await.1;
    let mut before = Vec::new();
    for prefix in &prefixes {
        before.push(known(&client, prefix).await);
    }
    let mut waits = Vec::new();
    for _ in 0..ROUNDS {
        let killed = Instant::now();
        for (of_fleet, config) in schedulers.iter_mut().zip(&configs) {
            let leads = |one: &Scheduler| one.leads.load(Ordering::Relaxed);
            let leader = of_fleet.iter().position(leads).expect("a leader");
            drop(of_fleet.remove(leader));
            of_fleet.push(scheduler(config));
        }
        for of_fleet in &schedulers {
            while !of_fleet.iter().any(|one| one.leads.load(Ordering::Relaxed)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert!(killed.elapsed().as_secs() < 60, "nobody leads");
            }
            waits.push(killed.elapsed().as_secs_f64());
        }
    }
    println!(
        "{} leaders were killed in {FLEETS} fleets, in {:.0} s",
        FLEETS * ROUNDS,
        begun.elapsed().as_secs_f64()
    );
    println!("  until another one leads: {}", spread(waits, "s"));
    // The replica that fails may have moved, once, after its time.
    let (mut changed, mut moved) = (0, 0);
    for (prefix, before) in prefixes.iter().zip(&before) {
        let after = known(&client, prefix).await;
        let sick = format!("/{sick}");
        let of_others = |all: &BTreeMap<String, Vec<u8>>| {
            let others = all.iter().filter(|(key, _)| !key.ends_with(&sick));
            others
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        changed += usize::from(of_others(&after) != of_others(before));
        moved += usize::from(after != *before);
    }
    println!("  fleets in which the place of a healthy replica has changed: {changed}");
    println!("  fleets in which the failing replica was moved: {moved}");
    // Nothing that a node has said went back.
    let mut failures: BTreeMap<String, u32> = BTreeMap::new();
    let mut checks: BTreeMap<String, Time> = BTreeMap::new();
    let (mut told, mut back) = (0, 0);
    let keys = Keys::Prefix("fleet-".to_owned());
    for change in changes_since(&client, &keys, from).await {
        let Change::Put(entry) = change else {
            continue;
        };
        let kind = entry.key.split('/').nth(1);
        if kind == Some("health") {
            let record = HealthRecord::decode(&entry.value).unwrap();
            let last = failures.insert(entry.key, record.consecutive_failures);
            back += usize::from(last.is_some_and(|last| last > record.consecutive_failures));
            told += 1;
        } else if kind == Some("nodes") {
            let record = NodeRecord::decode(&entry.value).unwrap();
            let newest = record.last_checks.values().max().copied();
            if let Some(newest) = newest {
                let last = checks.insert(entry.key, newest);
                back += usize::from(last.is_some_and(|last| last > newest));
            }
        }
    }
    println!("  reports of failures: {told}; failures or times of checks that went back: {back}");
    for one in nodes {
        one.abort();
    }
}
