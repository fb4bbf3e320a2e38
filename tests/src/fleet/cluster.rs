//! Three members of etcd, on loopback.

use super::MEMBERS;
use std::fs;
use std::process::{Child, Command, Stdio};

/// A cluster of three members.
pub struct Cluster(Vec<Option<Child>>);

impl Cluster {
    pub fn start() -> Self {
        let _ = fs::remove_dir_all("/tmp/fleet-etcd");
        let mut cluster = Self((0..MEMBERS.len()).map(|_| None).collect());
        for member in 0..MEMBERS.len() {
            cluster.go_on(member);
        }
        cluster
    }

    /// Starts a member with the data that it has.
    pub fn go_on(&mut self, member: usize) {
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

    pub fn kill(&mut self, member: usize) {
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
        // They are in the guest's memory.
        let _ = fs::remove_dir_all("/tmp/fleet-etcd");
    }
}
