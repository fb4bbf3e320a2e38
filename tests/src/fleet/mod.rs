//! A fleet of several hosts in one kernel: each has a network of its own, an agent with a cgroup of its own, and a node. The way
//! between a host and etcd is a relay in this process, which can be cut.

mod clients;
mod cluster;
mod host;
mod relay;

pub use clients::{Clients, HAPROXY, ask};
pub use cluster::Cluster;
pub use host::Host;
pub use relay::Way;

use crate::wait_within;
use enforcer_model::views::Workloads;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

pub const AGENT: &str = "/usr/libexec/enforcer/enforcer";
pub const FLEET: &str = "/usr/bin/enforcer-fleet";
/// The clients' ports of the members of etcd.
pub const MEMBERS: [u16; 3] = [24_001, 24_011, 24_021];
/// The time to live of a node's lease, in seconds. A guest on a busy host may stand still for half of it.
pub const GRACE: u64 = 45;
/// Where the singleton writes down that it lives.
const LIFE: &str = "/srv/fleet/life";

/// The longest wait. A lost host is noticed only after its lease.
const PATIENCE: Duration = Duration::from_secs(180);

fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Runs a script.
///
/// # Panics
/// If there is no shell.
pub fn shell(script: &str) -> Output {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).stdin(Stdio::null());
    shell.output().unwrap()
}

/// Returns what a script prints.
///
/// # Panics
/// If it does not end well.
pub fn run(script: &str) -> String {
    let output = shell(script);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{script}`: {}\n{text}{error}",
        output.status
    );
    text.trim().to_owned()
}

/// Says how far a test is. A guest that prints nothing for five minutes is killed.
pub fn say(step: &str) {
    let _ = writeln!(std::io::stderr().lock(), "fleet: {step}");
}

/// A program that ends with this.
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The whole fleet, with what is around it.
pub struct World {
    pub hosts: Vec<Host>,
    pub schedulers: Vec<Child>,
    pub cluster: Cluster,
}

impl World {
    pub fn start(hosts: usize) -> Self {
        crate::modules::load(&["veth"]);
        run("mkdir -p /srv/fleet; chmod 777 /srv/fleet; rm -rf /srv/fleet/*");
        let cluster = Cluster::start();
        let hosts = (1..=hosts).map(Host::start).collect();
        let mut world = Self {
            hosts,
            schedulers: Vec::new(),
            cluster,
        };
        for _ in 0..2 {
            world.start_scheduler();
        }
        world
    }

    pub fn start_scheduler(&mut self) {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open("/srv/fleet/schedule.log")
            .unwrap();
        let scheduler = Command::new(FLEET)
            .args(["--config", "/srv/fleet/host-1/fleet.yaml", "schedule"])
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        self.schedulers.push(scheduler.unwrap());
    }

    /// Returns the replicas with their nodes and their states, as `ps` tells them.
    pub fn replicas(&self) -> Option<Vec<(String, String, String)>> {
        let shown = shell(&format!("{} ps -o json", command_line()));
        let rows: Vec<Value> = serde_json::from_slice(&shown.stdout).ok()?;
        let of = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = rows.iter();
        Some(
            rows.map(|row| (of(row, "replica"), of(row, "node"), of(row, "state")))
                .collect(),
        )
    }

    pub fn wait_for_ready(&self, what: &str, not_on: &[&str]) -> BTreeMap<String, String> {
        say(&format!("waiting for {what}"));
        let wanted = ["db/0", "web/0", "web/1", "web/2", "web/3"];
        let mut last = None;
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                let found = self.replicas()?;
                last = Some(found.clone());
                let is_well = found.iter().all(|(_, node, state)| {
                    let is_lost = not_on.contains(&node.as_str());
                    (state == "ready" && !is_lost) || (state == "lost" && is_lost)
                });
                let ready = found.into_iter().filter(|(.., state)| state == "ready");
                let ready: BTreeMap<String, String> =
                    ready.map(|(replica, node, _)| (replica, node)).collect();
                (is_well && ready.keys().eq(wanted)).then_some(ready)
            })
        }));
        looked.unwrap_or_else(|_| panic!("{what}: {last:#?}\n{}", self.logs()))
    }

    pub fn logs(&self) -> String {
        let schedulers = fs::read_to_string("/srv/fleet/schedule.log").unwrap_or_default();
        let hosts: String = self.hosts.iter().map(Host::log).collect();
        format!("--- schedulers\n{schedulers}\n{hosts}")
    }

    /// Returns the main process of each replica of `web`, as the agents know them.
    pub fn pids(&self) -> BTreeSet<(String, u32)> {
        let mut pids = BTreeSet::new();
        for host in &self.hosts {
            let socket = format!("{}/run/enforcer.sock", host.folder());
            let shown = shell(&format!("enforcer --socket {socket} ps --json"));
            let Ok(listed) = serde_json::from_slice::<Workloads>(&shown.stdout) else {
                continue;
            };
            let web = listed.workloads.into_iter();
            let web = web.filter(|view| view.name.workload().as_str() == "web");
            pids.extend(web.filter_map(|view| Some((view.name.to_string(), view.pid?))));
        }
        pids
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for scheduler in &mut self.schedulers {
            let _ = scheduler.kill();
            let _ = scheduler.wait();
        }
        self.hosts.clear();
        let _ = fs::remove_dir_all("/srv/fleet");
    }
}

/// Starts HAProxy. Its servers are nowhere yet.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn start_haproxy() -> Program {
    fs::write("/srv/fleet/haproxy.cfg", HAPROXY).unwrap();
    let proxy = Command::new("/usr/sbin/haproxy")
        .args(["-db", "-f", "/srv/fleet/haproxy.cfg"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Program(proxy.unwrap())
}

/// Starts the program that has HAProxy's servers follow the fleet's endpoints, and waits until they do.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn follow_endpoints() -> Program {
    let follower = Command::new(FLEET)
        .args(["--config", "/srv/fleet/host-1/fleet.yaml"])
        .args(["endpoints", "web", "--watch", "-o", "haproxy"])
        .args(["--backend", "web", "--socket", "/run/haproxy-fleet.sock"])
        .stdout(File::create("/srv/fleet/haproxy.log").unwrap())
        .stderr(Stdio::null())
        .spawn();
    let follower = Program(follower.unwrap());
    wait_for("HAProxy to have servers", || ask().ok());
    follower
}

pub fn command_line() -> String {
    format!("{FLEET} --config /srv/fleet/host-1/fleet.yaml")
}

pub fn fleet(arguments: &str) -> String {
    run(&format!("{} {arguments}", command_line()))
}

pub const MANIFEST: &str = "version: 2
workloads:
  web:
    command: [/usr/bin/fixture, serve, \"8080\"]
    user: web
    replicas: 4
    spread: zone
    sandbox: off
    cgroup: { memory.max: 32M }
    ports: { http: { port: 8080, address: \"*\" } }
    probes: { readiness: { tcp: { port: 8080 }, period: 1s, timeout: 30s } }
  db:
    command: [/bin/sh, -c, \"while :; do read t rest </proc/uptime; echo $ENFORCER_FENCE ${t%.*}${t#*.} >>/srv/fleet/life; sleep 0.2; done\"]
    user: web
    singleton: true
    sandbox: off
    stop: { grace: 1s }
    cgroup: { memory.max: 32M }
";

/// Checks that one instance of the singleton has ended before the next one began: the times of one fence do not lie among those of another.
pub fn check_singleton() -> usize {
    let text = fs::read_to_string(LIFE).unwrap_or_default();
    let mut lives: BTreeMap<u64, (u128, u128)> = BTreeMap::new();
    for line in text.lines() {
        let Some((fence, time)) = line.split_once(' ') else {
            continue;
        };
        let (Ok(fence), Ok(time)) = (fence.parse(), time.parse()) else {
            continue;
        };
        let life = lives.entry(fence).or_insert((time, time));
        *life = (life.0.min(time), life.1.max(time));
    }
    let lives: Vec<(u128, u128)> = lives.into_values().collect();
    for pair in lives.windows(2) {
        assert!(pair[0].1 < pair[1].0, "two at once: {lives:?}");
    }
    lives.len()
}
