//! A fleet over a real etcd, on this machine: what it writes while nothing happens, how soon the replicas of a lost host are placed
//! elsewhere, and what is left of its knowledge when its leaders are killed again and again.
//!
//! The schedulers are processes of their own. The nodes are state machines in this process, each with its own connections, and their
//! hosts are emulated: a replica is ready when it is assigned, so no figure has the time of a program's start.
//!
//! Takes the path of etcd in `ETCD`, a folder on a disk in `FOLDER`, and the number of nodes in `NODES`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark measures times itself, and says where it could not go on"
)]

mod kills;
mod large;
mod nodes;
mod programs;

use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The port of etcd; the next one is for its peers.
const PORT: u16 = 23_610;
/// The replicas of each workload of the large fleet.
const REPLICAS_OF_ONE: u32 = 100;
/// The time in which nothing happens.
const REST: Duration = Duration::from_secs(60);
/// The hosts that are lost, one a second.
const LOSSES: usize = 20;
/// The time to live of the nodes' leases.
const GRACE: Duration = Duration::from_secs(10);
/// The fleets whose leaders are killed, and how often.
const FLEETS: usize = 25;
const ROUNDS: usize = 20;

fn main() {
    let nodes = std::env::var("NODES")
        .ok()
        .and_then(|text| text.parse().ok());
    let folder = PathBuf::from(std::env::var("FOLDER").expect("a folder in FOLDER"));
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(large::run(&folder, nodes.unwrap_or(1000)));
    runtime.block_on(kills::run(&folder));
    let _ = std::fs::remove_dir_all(&folder);
}
