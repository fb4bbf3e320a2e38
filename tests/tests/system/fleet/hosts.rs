//! A fleet of several hosts in one kernel: each has a network of its own, an agent with a cgroup of its own, and a node. The way
//! between a host and etcd is a relay in this process, which can be cut.

use super::super::*;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const AGENT: &str = "/usr/libexec/enforcer/enforcer";
const FLEET: &str = "/usr/bin/enforcer-fleet";
/// The clients' ports of the members of etcd.
const MEMBERS: [u16; 3] = [24_001, 24_011, 24_021];
const HOSTS: usize = 3;
/// The time to live of a node's lease, in seconds.
const GRACE: u64 = 20;
/// Where the singleton writes down that it lives.
const LIFE: &str = "/srv/fleet/life";

/// A cluster of three members.
struct Cluster(Vec<Option<Child>>);

impl Cluster {
    fn start() -> Self {
        let _ = fs::remove_dir_all("/tmp/fleet-etcd");
        let mut cluster = Self((0..MEMBERS.len()).map(|_| None).collect());
        for member in 0..MEMBERS.len() {
            cluster.go_on(member);
        }
        cluster
    }

    /// Starts a member with the data that it has.
    fn go_on(&mut self, member: usize) {
        let peers = |of: usize| format!("http://127.0.0.1:{}", MEMBERS[of] + 1);
        let clients = format!("http://127.0.0.1:{}", MEMBERS[member]);
        let all = (0..MEMBERS.len()).map(|of| format!("m{of}={}", peers(of)));
        let all: Vec<String> = all.collect();
        let process = Command::new("/usr/bin/etcd")
            .args(["--name", &format!("m{member}"), "--log-level", "error"])
            .args(["--data-dir", &format!("/tmp/fleet-etcd/m{member}")])
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers(member)])
            .args(["--initial-advertise-peer-urls", &peers(member)])
            .args(["--initial-cluster", &all.join(",")])
            // The guest is emulated, and three members share its processor.
            .args(["--heartbeat-interval", "500", "--election-timeout", "5000"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.0[member] = Some(process.unwrap());
    }

    fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.0[member].take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in 0..self.0.len() {
            self.kill(member);
        }
    }
}

/// The way from a host to a member of etcd.
struct Relay {
    is_open: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Listens at the member's own port, in the network of a host.
    fn new(network: &str, port: u16) -> Self {
        let relay = Self {
            is_open: Arc::new(AtomicBool::new(true)),
            ends: Arc::default(),
            connections: Arc::default(),
        };
        let network = File::open(format!("/run/netns/{network}")).unwrap();
        let listener = std::thread::spawn(move || {
            // A thread has a network of its own, and a socket stays in the one that it was made in.
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(("127.0.0.1", port)).unwrap()
        });
        let listener = listener.join().unwrap();
        let (is_open, ends) = (Arc::clone(&relay.is_open), Arc::clone(&relay.ends));
        let connections = Arc::clone(&relay.connections);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), true) = (client, is_open.load(Ordering::Relaxed)) else {
                    continue;
                };
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                let pairs = [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server.try_clone().unwrap(), client.try_clone().unwrap()),
                ];
                connections.lock().unwrap().extend([client, server]);
                for (mut from, mut to) in pairs {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    fn set(&self, open: bool) {
        self.is_open.store(open, Ordering::Relaxed);
        if !open {
            for connection in self.connections.lock().unwrap().drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.set(false);
    }
}

struct Host {
    number: usize,
    agent: Option<Child>,
    node: Option<Child>,
    relays: Vec<Relay>,
}

impl Host {
    fn name(&self) -> String {
        format!("host-{}", self.number)
    }

    fn folder(&self) -> String {
        format!("/srv/fleet/{}", self.name())
    }

    fn cgroup(&self) -> String {
        format!("/sys/fs/cgroup/fleet-{}", self.number)
    }

    /// Runs a program in the network of this host. `ip netns exec` would hide the cgroups.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        let network = format!("--net=/run/netns/{}", self.name());
        command.args([&network, program]);
        command
    }

    fn start(number: usize) -> Self {
        let mut host = Self {
            number,
            agent: None,
            node: None,
            relays: Vec::new(),
        };
        let (name, folder) = (host.name(), host.folder());
        sh(&format!(
            "set -e; mkdir -p -m 755 {folder}/workloads.d {folder}/run {folder}/state
             ip netns add {name}
             ip link add fl{number} type veth peer name eth0 netns {name}
             ip link set fl{number} master fleet0 up
             nsenter --net=/run/netns/{name} ip address add 10.77.0.{number}/24 dev eth0
             nsenter --net=/run/netns/{name} ip link set eth0 up
             nsenter --net=/run/netns/{name} ip link set lo up"
        ));
        host.relays = MEMBERS.map(|port| Relay::new(&name, port)).into();
        let zone = ["a", "b"][number % 2];
        let config = format!(
            "etcd:\n  endpoints: [{}]\n  grace: {GRACE}s\nnode:\n  name: {name}\n  address: 10.77.0.{number}\n  \
             labels: {{ zone: {zone} }}\nallow:\n  users: [web]\n  ports: [8000-8099]\n  memory: 2G\n",
            MEMBERS
                .map(|port| format!("\"http://127.0.0.1:{port}\""))
                .join(", ")
        );
        fs::write(format!("{folder}/fleet.yaml"), config).unwrap();
        host.start_agent();
        host.start_node();
        host
    }

    fn start_agent(&mut self) {
        let folder = self.folder();
        let log = File::create(format!("{folder}/agent.log")).unwrap();
        let agent = self
            .command(AGENT)
            .args(["daemon", "--manifest", &format!("{folder}/workloads.d")])
            .args(["--runtime-dir", &format!("{folder}/run")])
            .args(["--state-dir", &format!("{folder}/state")])
            .args(["--cgroup-root", &self.cgroup()])
            .args(["--delegate", "enforcer-fleet=enforcer-fleet.yaml"])
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        self.agent = Some(agent.unwrap());
        let socket = format!("{folder}/run/enforcer.sock");
        wait_for("the agent's socket", || {
            Path::new(&socket).exists().then_some(())
        });
    }

    fn start_node(&mut self) {
        let folder = self.folder();
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(format!("{folder}/node.log"))
            .unwrap();
        let node = self
            .command("/usr/bin/setpriv")
            .args(["--reuid", "enforcer-fleet", "--regid", "enforcer-fleet"])
            .args(["--groups", "enforcer", FLEET])
            .args(["--config", &format!("{folder}/fleet.yaml"), "node"])
            .args(["--agent", &format!("{folder}/run/enforcer.sock")])
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        self.node = Some(node.unwrap());
    }

    fn set_way(&self, open: bool) {
        self.relays.iter().for_each(|relay| relay.set(open));
    }

    fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// Loses the host at once, with its network and all of its processes.
    fn lose(&mut self) {
        let number = self.number;
        sh(&format!("ip link set fl{number} down"));
        self.set_way(false);
        self.kill_node();
        self.kill_agent();
        let _ = fs::write(format!("{}/cgroup.kill", self.cgroup()), "1");
    }

    fn log(&self) -> String {
        let of = |name: &str| {
            let text = fs::read_to_string(format!("{}/{name}.log", self.folder()));
            let text = text.unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.len().saturating_sub(25);
            format!("--- {} {name}\n{}\n", self.name(), lines[last..].join("\n"))
        };
        of("node") + &of("agent")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        self.kill_node();
        self.kill_agent();
        let (name, number, cgroup) = (self.name(), self.number, self.cgroup());
        let _ = fs::write(format!("{cgroup}/cgroup.kill"), "1");
        shell(&format!(
            "ip netns del {name}; ip link del fl{number}
             for i in 1 2 3 4 5; do find {cgroup} -depth -type d -exec rmdir {{}} + && break; sleep 1; done"
        ));
    }
}

/// The whole fleet, with what is around it.
struct World {
    hosts: Vec<Host>,
    schedulers: Vec<Child>,
    cluster: Cluster,
}

impl World {
    fn start() -> Self {
        sh("set -e; mkdir -p -m 777 /srv/fleet; chmod 777 /srv/fleet; rm -rf /srv/fleet/*
            ip link add fleet0 type bridge; ip address add 10.77.0.254/24 dev fleet0; ip link set fleet0 up");
        let cluster = Cluster::start();
        let hosts = (1..=HOSTS).map(Host::start).collect();
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

    fn start_scheduler(&mut self) {
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
    fn replicas(&self) -> Option<Vec<(String, String, String)>> {
        let shown = shell(&format!("{} ps -o json", command_line()));
        let rows: Vec<Value> = serde_json::from_slice(&shown.stdout).ok()?;
        let of = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = rows.iter();
        Some(
            rows.map(|row| (of(row, "replica"), of(row, "node"), of(row, "state")))
                .collect(),
        )
    }

    fn wait_for_ready(&self, what: &str, not_on: &[&str]) -> BTreeMap<String, String> {
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

    fn logs(&self) -> String {
        let schedulers = fs::read_to_string("/srv/fleet/schedule.log").unwrap_or_default();
        let hosts: String = self.hosts.iter().map(Host::log).collect();
        format!("--- schedulers\n{schedulers}\n{hosts}")
    }

    /// Returns the main process of each replica of `web`, as the agents know them.
    fn pids(&self) -> BTreeSet<(String, u32)> {
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
        shell("ip link del fleet0");
    }
}

fn command_line() -> String {
    format!("{FLEET} --config /srv/fleet/host-1/fleet.yaml")
}

fn fleet(arguments: &str) -> String {
    sh(&format!("{} {arguments}", command_line()))
}

const MANIFEST: &str = "version: 2
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
    command: [/bin/sh, -c, \"while :; do echo $ENFORCER_FENCE $(date +%s%N) >>/srv/fleet/life; sleep 0.2; done\"]
    user: web
    singleton: true
    sandbox: off
    stop: { grace: 1s }
    cgroup: { memory.max: 32M }
";

/// Clients of HAProxy, which ask until they are told to end.
struct Clients {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start() -> Self {
        let mut clients = Self {
            ends: Arc::default(),
            answered: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..2 {
            let (ends, answered) = (Arc::clone(&clients.ends), Arc::clone(&clients.answered));
            let failed = Arc::clone(&clients.failed);
            clients.threads.push(std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    match ask() {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
            }));
        }
        clients
    }

    /// Waits for so many answers more.
    fn wait_for_more(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for("answers", || {
            (self.answered.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }

    fn failures(&self) -> Vec<String> {
        self.failed.lock().unwrap().clone()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn ask() -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect("127.0.0.1:8090").map_err(text)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .map_err(text)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        .map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    let head = answer.lines().next().unwrap_or_default();
    match head.contains(" 200 ") {
        true => Ok(()),
        false => Err(head.to_owned()),
    }
}

const HAPROXY: &str = "global
    stats socket /run/haproxy-fleet.sock mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout queue 30s
    option redispatch 1
    retries 5
    retry-on conn-failure empty-response response-timeout
frontend all
    bind 127.0.0.1:8090
    default_backend web
backend web
    balance roundrobin
    server-template web 6 0.0.0.0:1 disabled
";

/// A program that ends with this.
pub(super) struct Program(pub(super) Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that one instance of the singleton has ended before the next one began: the times of one fence do not lie among those of another.
fn check_singleton() -> usize {
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

#[test]
fn hosts_etcd_and_schedulers_fail_and_the_fleet_goes_on() {
    install_anew();
    sh("dpkg --install /root/enforcer-fleet_1.deb");
    let mut world = World::start();
    fs::write("/srv/fleet/all.yaml", MANIFEST).unwrap();
    wait_for("etcd", || {
        shell(&format!("{} nodes", command_line()))
            .status
            .success()
            .then_some(())
    });
    let planned = fleet("plan -f /srv/fleet/all.yaml");
    assert!(planned.contains("web: new, with 4 replicas"), "{planned}");
    fleet("apply -f /srv/fleet/all.yaml");
    let placed = world.wait_for_ready("all replicas", &[]);
    let nodes: BTreeSet<&String> = placed.values().collect();
    assert_eq!(nodes.len(), HOSTS, "{placed:?}");
    assert_eq!(fleet("apply -f /srv/fleet/all.yaml"), "no changes");

    // HAProxy follows the endpoints.
    fs::write("/srv/fleet/haproxy.cfg", HAPROXY).unwrap();
    let proxy = Command::new("/usr/sbin/haproxy")
        .args(["-db", "-f", "/srv/fleet/haproxy.cfg"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _proxy = Program(proxy.unwrap());
    let follower = Command::new(FLEET)
        .args([
            "--config",
            "/srv/fleet/host-1/fleet.yaml",
            "endpoints",
            "web",
            "--watch",
        ])
        .args([
            "-o",
            "haproxy",
            "--backend",
            "web",
            "--socket",
            "/run/haproxy-fleet.sock",
        ])
        .stdout(File::create("/srv/fleet/haproxy.log").unwrap())
        .stderr(Stdio::null())
        .spawn();
    let _follower = Program(follower.unwrap());
    wait_for("HAProxy to have servers", || ask().ok());
    let clients = Clients::start();
    clients.wait_for_more(20);

    // Each member of etcd is killed in turn, and then two at once, so that nobody can write.
    let before = world.pids();
    assert_eq!(before.len(), 4);
    for member in 0..MEMBERS.len() {
        world.cluster.kill(member);
        wait_for("an answer of the others", || world.replicas().map(drop));
        world.cluster.go_on(member);
        std::thread::park_timeout(Duration::from_secs(3));
    }
    world.cluster.kill(0);
    world.cluster.kill(1);
    std::thread::park_timeout(Duration::from_secs(GRACE + 10));
    assert_eq!(world.pids(), before, "{}", world.logs());
    world.cluster.go_on(0);
    world.cluster.go_on(1);
    world.wait_for_ready("all after the quorum is back", &[]);
    assert_eq!(world.pids(), before, "{}", world.logs());

    // An agent, a node and a scheduler are killed.
    world.hosts[0].kill_agent();
    world.hosts[0].start_agent();
    world.hosts[1].kill_node();
    world.hosts[1].start_node();
    let mut first = world.schedulers.remove(0);
    first.kill().unwrap();
    first.wait().unwrap();
    world.start_scheduler();
    world.wait_for_ready("all after the kills", &[]);
    assert_eq!(world.pids(), before, "{}", world.logs());
    clients.wait_for_more(20);
    assert_eq!(clients.failures(), Vec::<String>::new());

    // The host of the singleton is cut off from etcd: it ends there, and begins elsewhere. The others' clients reach it still.
    let present = world.wait_for_ready("all", &[]);
    let cut = world
        .hosts
        .iter()
        .position(|host| host.name() == present["db/0"])
        .unwrap();
    let cut_name = world.hosts[cut].name();
    world.hosts[cut].set_way(false);
    let moved = world.wait_for_ready("all elsewhere", &[&cut_name]);
    assert!(moved.values().all(|node| *node != cut_name), "{moved:?}");
    world.hosts[cut].set_way(true);
    // What it has no longer is its own ends there.
    wait_for("the host that was cut off to be empty", || {
        let shown = fleet("nodes -o json");
        let rows: Vec<Value> = serde_json::from_str(&shown).ok()?;
        let row = rows
            .into_iter()
            .find(|row| row["node"] == cut_name.as_str())?;
        (row["state"] == "up" && row["replicas"] == "0").then_some(())
    });
    assert!(check_singleton() >= 2);

    // A host is lost. Requests that were at it are lost, and no others: HAProxy tries another server.
    let lost = world.hosts.iter().position(|host| {
        let name = host.name();
        name != cut_name && moved.values().any(|node| *node == name)
    });
    let lost = lost.unwrap();
    let lost_name = world.hosts[lost].name();
    world.hosts[lost].lose();
    let after = world.wait_for_ready("all on the hosts that are left", &[&lost_name]);
    assert!(after.values().all(|node| *node != lost_name), "{after:?}");
    clients.wait_for_more(20);
    assert_eq!(clients.failures(), Vec::<String>::new(), "{}", world.logs());
    check_singleton();
    let why = fleet("why web");
    assert!(why.contains("its node is lost"), "{why}");
    let status = shell(&format!("{} status", command_line()));
    assert_eq!(status.status.code(), Some(3), "{status:?}");

    // A node is drained, and nobody notices.
    let left: Vec<String> = world
        .hosts
        .iter()
        .map(Host::name)
        .filter(|name| *name != lost_name)
        .collect();
    fleet(&format!("drain {}", left[0]));
    let away = wait_for("the drain", || {
        let found = world.replicas()?;
        let on: Vec<_> = found
            .iter()
            .filter(|(_, node, _)| *node == left[0])
            .collect();
        let ready = found.iter().filter(|(.., state)| state == "ready").count();
        (on.is_empty() && ready == 5).then_some(found)
    });
    assert!(!away.is_empty());
    clients.wait_for_more(20);
    assert_eq!(clients.failures(), Vec::<String>::new(), "{}", world.logs());
    check_singleton();
    fleet(&format!("uncordon {}", left[0]));
    fleet("remove web");
    fleet("remove db");
    wait_for("nothing to be left", || {
        world.replicas()?.is_empty().then_some(())
    });
    drop(clients);
    drop(world);
    sh("dpkg --purge enforcer-fleet");
    purge();
}
