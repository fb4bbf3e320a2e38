//! What a large fleet costs while nothing happens, and the loss of its hosts.

use super::nodes::{
    Leases, changes_since, desired, key_of, list, live, node_id, put, spread, wait_for, workload,
};
use super::programs::{Program, client, config, etcd, metrics, scheduler};
use super::{GRACE, LOSSES, REPLICAS_OF_ONE, REST};
use enforcer_fleet::drive::Clock;
use enforcer_fleet_core::record::{Key, Record as _};
use enforcer_fleet_core::store::{Change, Keys};
use enforcer_fleet_core::{NodeId, Replica};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What a large fleet costs while nothing happens, and the loss of its hosts.
pub(crate) async fn run(folder: &Path, nodes: usize) {
    let own = etcd(&folder.join("etcd-large"));
    let config = config(folder, "large/");
    let schedulers = [scheduler(&config), scheduler(&config)];
    let leases: Leases = Arc::default();
    let mut all: Vec<JoinHandle<()>> = Vec::new();
    for number in 0..nodes {
        let live = live("large/".to_owned(), number, Arc::clone(&leases), None);
        all.push(tokio::spawn(live));
        // Hosts do not start in the same instant.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let client = client();
    wait_for(&client, "large/nodes/", nodes).await;
    let workloads = nodes / 10;
    let begun = Instant::now();
    for number in 0..workloads {
        let put = put(
            &Key::Desired(workload(number)),
            "large/",
            desired(REPLICAS_OF_ONE).encode(),
        );
        client.call(&put).await.unwrap();
    }
    let replicas = workloads * REPLICAS_OF_ONE as usize;
    wait_for(&client, "large/endpoints/", replicas).await;
    println!(
        "{nodes} nodes, {replicas} replicas: all are endpoints {:.1} s after they were applied",
        begun.elapsed().as_secs_f64()
    );

    // The heartbeats that follow a change are over by then.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (_, from) = list(&client, "large/memory".to_owned()).await;
    let before = metrics();
    let of = |program: &Program| program.cpu().as_secs_f64();
    let [first, second] = [&schedulers[0], &schedulers[1]].map(|one| of(&one.program));
    let of_etcd = of(&own);
    tokio::time::sleep(REST).await;
    let after = metrics();
    let rest = REST.as_secs_f64();
    let grown = |name: &str| {
        let value = |of: &BTreeMap<String, f64>| of.get(name).copied().unwrap_or_default();
        (value(&after) - value(&before)) / rest
    };
    let percent = |now: f64, then: f64| (now - then) / rest * 100.0;
    let leader = usize::from(schedulers[1].leads.load(Ordering::Relaxed));
    let schedule = [
        percent(of(&schedulers[0].program), first),
        percent(of(&schedulers[1].program), second),
    ];
    println!("at rest, {rest} s:");
    let beats = nodes as f64 / 10.0;
    let renewals = nodes as f64 / (GRACE.as_secs_f64() / 3.0);
    println!(
        "  heartbeats that are due: {beats:.0} a second; renewals of leases: {renewals:.0} a second"
    );
    println!(
        "  etcd: {:.1} puts a second, {:.1} renewals a second, {:.0} KiB a second received, {:.1} % of a CPU",
        grown("etcd_mvcc_put_total").max(grown("etcd_debugging_mvcc_put_total")),
        grown("grpc_server_msg_received_total LeaseKeepAlive"),
        grown("etcd_network_client_grpc_received_bytes_total") / 1024.0,
        percent(of(&own), of_etcd),
    );
    println!(
        "  leader: {:.2} % of a CPU, {} MiB; the other scheduler: {:.2} %, {} MiB",
        schedule[leader],
        schedulers[leader].program.memory(),
        schedule[1 - leader],
        schedulers[1 - leader].program.memory(),
    );
    // What was written meanwhile, by its kind.
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let keys = Keys::Prefix("large/".to_owned());
    for change in changes_since(&client, &keys, from).await {
        let key = match &change {
            Change::Put(entry) => &entry.key,
            Change::Deleted { key, .. } => key,
        };
        let kind = key.split('/').nth(1).unwrap_or_default();
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    println!("  changes since the rest began, by kind: {kinds:?}");

    // One host after another is gone, without a word.
    let (entries, from) = list(&client, "large/assigned/".to_owned()).await;
    let mut of_node: BTreeMap<NodeId, BTreeSet<Replica>> = BTreeMap::new();
    for entry in entries {
        if let Some(Key::Assigned(node, replica)) = key_of(&entry.key, "large/") {
            of_node.entry(node).or_default().insert(replica);
        }
    }
    let mut watch = client.watch(&keys, from.next()).await.unwrap();
    let follow = tokio::spawn(async move {
        let mut seen = Vec::new();
        let clock = Clock::default();
        let until = Instant::now() + GRACE * 4 + Duration::from_secs(LOSSES as u64);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let Ok(changes) = tokio::time::timeout(left, watch.next()).await else {
                break;
            };
            let now = clock.now();
            let changes = changes.unwrap().into_iter();
            seen.extend(changes.map(|change| (now, change)));
        }
        seen
    });
    let lost: Vec<NodeId> = (0..LOSSES)
        .map(|number| node_id(number * nodes / LOSSES))
        .collect();
    for (index, _) in lost.iter().enumerate() {
        all[index * nodes / LOSSES].abort();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let seen = follow.await.unwrap();
    let ends = leases.lock().clone();
    let (mut assigned, mut ready, mut twice) = (Vec::new(), Vec::new(), 0);
    for node in &lost {
        let end = ends[node];
        for replica in &of_node[node] {
            let puts = seen.iter().filter_map(|(at, change)| match change {
                Change::Put(entry) if at.0 + GRACE > end.0 => {
                    let after = at.0.as_secs_f64() - end.0.as_secs_f64();
                    Some((key_of(&entry.key, "large/")?, after))
                }
                Change::Put(_) | Change::Deleted { .. } => None,
            });
            let puts: Vec<(Key, f64)> = puts.collect();
            let place = puts.iter().find_map(|(key, after)| match key {
                Key::Assigned(other, of) if other != node && of == replica => Some((other, after)),
                _ => None,
            });
            let (other, after) = place.expect("a lost replica is placed elsewhere");
            // That host was silent already, too.
            if lost.contains(other) {
                twice += 1;
                continue;
            }
            let endpoint = puts.iter().find_map(|(key, after)| match key {
                Key::Endpoint(service, at, index) => {
                    let is_it =
                        at == other && *service == replica.workload && *index == replica.index;
                    is_it.then_some(after)
                }
                _ => None,
            });
            assigned.push(*after);
            ready.push(*endpoint.expect("a lost replica is an endpoint elsewhere"));
        }
    }
    println!(
        "{LOSSES} hosts are lost, one a second; from the end of the lease as the host knew it, for each replica:"
    );
    println!("  to its new assignment: {}", spread(assigned, "s"));
    println!("  to its new endpoint: {}", spread(ready, "s"));
    println!("  replicas that went to a host that was about to be lost as well: {twice}");
    for one in &all {
        one.abort();
    }
}
