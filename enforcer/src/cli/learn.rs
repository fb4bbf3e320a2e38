//! `sandbox learn`: what a workload did, and what it would need in `sandbox: strict`.

use super::format::Output;
use super::{client, escaped};
use crate::fault::Fault;
use crate::name_servers::name_servers;
use crate::report::error_chain;
use crate::settings::Settings;
use enforcer_core::spec::{
    Bind, Block, Network, Peer, Protocol, Sandbox, openable_calls, strict_calls,
};
use enforcer_core::units::human_duration;
use enforcer_kernel::bpf::learning::{Learning, Seen};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::signal::Ends;
use enforcer_manifest::parse_duration;
use enforcer_model::views::Inspection;
use nix::unistd::geteuid;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// What a workload was seen to need.
#[derive(Debug, PartialEq, Serialize)]
struct Proposal {
    sandbox: Sandbox,
    /// The system calls that the level would refuse.
    system_calls: Vec<&'static str>,
    /// The system calls that it refuses whatever the keys say.
    refused: Vec<&'static str>,
    network: Network,
}

/// Reads the time to watch for.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than 0".to_owned()),
        Ok(time) => Ok(time),
        Err(expected) => Err(format!("expected {expected}")),
    }
}

pub(super) fn learn(
    settings: &Settings,
    workload: &str,
    time: Duration,
    restart: bool,
    output: Output,
) -> Result<(), Fault> {
    if !geteuid().is_root() {
        return Err(Fault::NotPermitted(
            "only root may watch system calls".to_owned(),
        ));
    }
    let path = format!("/v1/workloads/{}", escaped(workload));
    let inspected: Inspection = client::get(settings, &path)?.read()?;
    if inspected.sandbox != Sandbox::Off {
        eprintln!(
            "note: {workload} runs in `sandbox: {}`; the system calls that it refuses are not seen",
            inspected.sandbox
        );
    }
    let failed = |error: &dyn std::error::Error| {
        Fault::Failed(format!(
            "failed to watch {workload}: {}",
            error_chain(error)
        ))
    };
    let cgroup =
        Cgroup::open(Path::new(&inspected.workload.cgroup)).map_err(|error| failed(&error))?;
    let ends = Ends::watch().map_err(|error| failed(&error))?;
    let learning =
        Learning::begin(&cgroup, client::agent(settings)?).map_err(|error| failed(&error))?;
    if restart {
        client::order(settings, &format!("{path}/restart"))?;
    }
    let limit = human_duration(time);
    eprintln!("watching {workload} for {limit}; Ctrl-C ends it earlier");
    ends.comes_within(time);
    let calls = learning.system_calls().map_err(|error| failed(&error))?;
    let addresses = learning.addresses().map_err(|error| failed(&error))?;
    drop(learning);
    if calls.is_empty() {
        return Err(Fault::Failed(format!(
            "{workload} made no system call meanwhile; watch it while it works, or use --restart"
        )));
    }
    if addresses.len() >= Learning::MOST_ADDRESSES {
        eprintln!(
            "note: more than {} addresses were used; some are missing",
            Learning::MOST_ADDRESSES
        );
    }
    let resolvers = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let proposal = propose(&calls, &addresses, &name_servers(&resolvers));
    if !output.print(&proposal, None)? {
        println!("# {} different system calls were seen.", calls.len());
        print!("{}", proposal.yaml());
    }
    Ok(())
}

/// Returns what the level lacks of what was seen.
fn propose(
    calls: &BTreeSet<&'static str>,
    addresses: &BTreeSet<Seen>,
    resolvers: &[IpAddr],
) -> Proposal {
    let openable: BTreeSet<&str> = openable_calls(Sandbox::Strict).collect();
    let allowed: BTreeSet<&str> = strict_calls().collect();
    let mut bind = Vec::new();
    let mut connect = Network::default().connect;
    for seen in addresses {
        if seen.is_bound {
            let wanted = match (seen.protocol, seen.port) {
                (Protocol::Udp, 0) => continue,
                // Only the kernel knows which one it will be.
                (Protocol::Tcp, 0) => Bind::Any,
                (protocol, port) => Bind::Port(protocol, port),
            };
            if !bind.contains(&wanted) {
                bind.push(wanted);
            }
            continue;
        }
        // The C library connects to port 0 to see which of its own addresses the kernel would use.
        let is_question = seen.port == 0;
        let is_resolver = seen.port == 53 && resolvers.contains(&seen.address);
        let is_usual = seen.address.is_loopback() || is_resolver;
        let wanted = Peer::Block(whole(seen.address), Some(seen.port));
        if !is_question && !is_usual && !connect.contains(&wanted) {
            connect.push(wanted);
        }
    }
    Proposal {
        sandbox: Sandbox::Strict,
        system_calls: calls
            .iter()
            .copied()
            .filter(|call| openable.contains(call))
            .collect(),
        refused: calls
            .iter()
            .copied()
            .filter(|call| !openable.contains(call) && !allowed.contains(call))
            .collect(),
        network: Network { bind, connect },
    }
}

fn whole(address: IpAddr) -> Block {
    Block {
        address,
        prefix: if address.is_ipv6() { 128 } else { 32 },
    }
}

impl Proposal {
    /// Returns the keys of the manifest.
    fn yaml(&self) -> String {
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let mut text = String::new();
        if !self.refused.is_empty() {
            text.push_str(&format!(
                "# It refuses these, whatever the keys say: {}\n",
                self.refused.join(", ")
            ));
        }
        text.push_str(&format!("sandbox: {}\n", self.sandbox));
        if !self.system_calls.is_empty() {
            let calls = self.system_calls.iter().map(|call| (*call).to_owned());
            text.push_str(&format!("system_calls: {}\n", list(calls.collect())));
        }
        if self.network != Network::default() {
            let bind = self.network.bind.iter().map(ToString::to_string);
            let connect = self.network.connect.iter().map(|peer| match peer {
                Peer::Any | Peer::Loopback | Peer::Resolver => peer.to_string(),
                Peer::Block(..) => format!("\"{peer}\""),
            });
            let (bind, connect) = (list(bind.collect()), list(connect.collect()));
            text.push_str(&format!(
                "network: {{ bind: {bind}, connect: {connect} }}\n"
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(is_bound: bool, protocol: Protocol, address: &str, port: u16) -> Seen {
        Seen {
            is_bound,
            protocol,
            address: address.parse().expect("an address"),
            port,
        }
    }

    #[test]
    fn a_proposal_opens_what_was_seen_and_no_more() {
        let calls = BTreeSet::from(["read", "chown", "ptrace", "socket", "mount"]);
        let addresses = BTreeSet::from([
            seen(true, Protocol::Tcp, "0.0.0.0", 8080),
            seen(true, Protocol::Tcp, "::", 8080),
            seen(true, Protocol::Udp, "0.0.0.0", 0),
            seen(false, Protocol::Tcp, "127.0.0.1", 6379),
            seen(false, Protocol::Udp, "192.0.2.1", 53),
            seen(false, Protocol::Udp, "192.0.2.9", 53),
            seen(false, Protocol::Tcp, "192.0.2.2", 5432),
            seen(false, Protocol::Udp, "192.0.2.3", 0),
            seen(false, Protocol::Tcp, "2001:db8::1", 443),
        ]);
        let resolvers = ["192.0.2.1".parse().expect("an address")];
        assert_eq!(
            propose(&calls, &addresses, &resolvers).yaml(),
            "# It refuses these, whatever the keys say: mount\n\
             sandbox: strict\n\
             system_calls: [chown, ptrace]\n\
             network: { bind: [tcp/8080], connect: [loopback, resolver, \"192.0.2.2/32:5432\", \
             \"[2001:db8::1/128]:443\", \"192.0.2.9/32:53\"] }\n"
        );
        let nothing = propose(&BTreeSet::from(["read"]), &BTreeSet::new(), &[]);
        assert_eq!(nothing.yaml(), "sandbox: strict\n");
    }
}
