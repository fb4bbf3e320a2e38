//! A host: a network, an agent with a cgroup, and a node.

use super::relay::{Relay, Way};
use super::wait_for;
use super::{AGENT, FLEET, GRACE, MEMBERS, run, shell};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};

pub struct Host {
    number: usize,
    agent: Option<Child>,
    node: Option<Child>,
    relays: Vec<Relay>,
}

impl Host {
    pub fn name(&self) -> String {
        format!("host-{}", self.number)
    }

    pub fn folder(&self) -> String {
        format!("/srv/fleet/{}", self.name())
    }

    pub fn cgroup(&self) -> String {
        format!("/sys/fs/cgroup/fleet-{}", self.number)
    }

    /// Runs a program in the network of this host. `ip netns exec` would hide the cgroups.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        let network = format!("--net=/run/netns/{}", self.name());
        command.args([&network, program]);
        command
    }

    pub fn start(number: usize) -> Self {
        let mut host = Self {
            number,
            agent: None,
            node: None,
            relays: Vec::new(),
        };
        let (name, folder) = (host.name(), host.folder());
        run(&format!(
            "set -e; mkdir -p -m 755 {folder}/workloads.d {folder}/run {folder}/state
             ip netns add {name}
             ip link add fl{number} type veth peer name eth0 netns {name}
             ip address add 10.77.{number}.254/24 dev fl{number}
             ip link set fl{number} up
             nsenter --net=/run/netns/{name} ip address add 10.77.{number}.1/24 dev eth0
             nsenter --net=/run/netns/{name} ip link set eth0 up
             nsenter --net=/run/netns/{name} ip link set lo up"
        ));
        host.relays = MEMBERS.map(|port| Relay::new(&name, port)).into();
        let zone = ["a", "b"][number % 2];
        let config = format!(
            "etcd:\n  endpoints: [{}]\n  grace: {GRACE}s\nnode:\n  name: {name}\n  address: 10.77.{number}.1\n  \
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

    pub fn start_agent(&mut self) {
        let folder = self.folder();
        let log = File::create(format!("{folder}/agent.log")).unwrap();
        let agent = self
            .command(AGENT)
            .args(["daemon", "--manifest", &format!("{folder}/workloads.d")])
            .args(["--runtime-dir", &format!("{folder}/run")])
            .args(["--state-dir", &format!("{folder}/state")])
            .args(["--cgroup-root", &self.cgroup()])
            .arg("--delegate")
            .arg(format!(
                "enforcer-fleet=enforcer-fleet.yaml:{folder}/fleet.yaml"
            ))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn();
        self.agent = Some(agent.unwrap());
        let socket = format!("{folder}/run/enforcer.sock");
        wait_for("the agent's socket", || {
            Path::new(&socket).exists().then_some(())
        });
    }

    pub fn start_node(&mut self) {
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

    pub fn set_way(&self, way: Way) {
        self.relays.iter().for_each(|relay| relay.set(way));
    }

    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    pub fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    /// Loses the host at once, with its network and all of its processes.
    pub fn lose(&mut self) {
        let number = self.number;
        run(&format!("ip link set fl{number} down"));
        self.set_way(Way::Cut);
        self.kill_node();
        self.kill_agent();
        let _ = fs::write(format!("{}/cgroup.kill", self.cgroup()), "1");
    }

    pub fn log(&self) -> String {
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
