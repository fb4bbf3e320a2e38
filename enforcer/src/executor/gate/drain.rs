//! The wait for the end of the connections at a workload's ports, before it is stopped.

use crate::executor::Executor;
use enforcer_core::ReplicaId;
use enforcer_core::event::{CgroupId, Drained, Event, InstanceEvent, InstanceId};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::clock;
use enforcer_kernel::connections::{self, LocalSocket};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The shortest drain: a connection whose handshake is under way takes a round trip.
const ROUND_TRIP: Duration = Duration::from_secs(1);
/// The pause between two looks at the connections: the kernel goes through all of them.
const LOOK: Duration = Duration::from_millis(100);

impl Executor {
    pub(in crate::executor) async fn drain(
        self: Arc<Self>,
        (workload, instance): (ReplicaId, InstanceId),
        limit: Duration,
    ) {
        let begun = clock::now();
        let cgroup = self.instances.get(&workload).map(|found| found.open.id);
        // Those of the running instance: the manifest may name others by now.
        let (ports, family): (Vec<Counted>, BTreeSet<CgroupId>) = {
            let table = self.gates.table.lock();
            let of_workload = table.of.iter();
            let of_workload =
                of_workload.filter(|(owner, _)| owner.workload() == workload.workload());
            let members = of_workload
                .flat_map(|(_, known)| known.ports.values())
                .flat_map(|of| of.members.values());
            let family = members.map(|member| member.cgroup).chain(cgroup).collect();
            let ports = table.ports_of(&workload);
            let ports = ports.map(|(_, of)| Counted {
                port: of.port,
                peers: of
                    .members
                    .values()
                    .map(|member| member.cgroup)
                    .filter(|peer| Some(*peer) != cgroup)
                    .collect(),
            });
            (ports.collect(), family)
        };
        let processes = self.instances.get(&workload).map(|found| found.open.cgroup);
        let mut first = None;
        // A connection that passes from one queue or process to another may be missed by one look.
        let mut was_none = false;
        let (left, unknown) = loop {
            let (asked, own, family) = (ports.clone(), processes.clone(), family.clone());
            let made = self.inodes_held_for(&workload);
            let count = move || {
                // First the queues, out of which connections come into the other number.
                let queued = queued(&asked, cgroup, &made)?;
                Ok(queued + count(&asked, (cgroup, &family), own.as_deref())?)
            };
            let counted = tokio::task::spawn_blocking(count).await;
            let counted = counted.unwrap_or_else(|error| Err(io::Error::other(error)));
            let took = clock::now().since(begun);
            match counted {
                Ok(left) => {
                    first.get_or_insert(left);
                    let is_none = left == 0;
                    if took >= limit || (is_none && was_none && took >= ROUND_TRIP) {
                        break (left, None);
                    }
                    was_none = is_none;
                }
                Err(error) if took >= limit => break (0, Some(error.to_string())),
                Err(_) => {}
            }
            tokio::time::sleep(LOOK.min(limit.saturating_sub(took))).await;
        };
        let drained = Drained {
            took: clock::now().since(begun),
            connections: first.unwrap_or(0),
            left,
            unknown,
        };
        let event = InstanceEvent::Drained { drained };
        self.events.send(Event::Instance(workload, instance, event));
    }
}

/// A port, and the cgroups of the other replicas behind it.
#[derive(Clone, Debug)]
struct Counted {
    port: u16,
    peers: BTreeSet<CgroupId>,
}

/// Counts the connections that an instance has accepted. One that has waited has the cgroup of the socket where it
/// did, so its descriptor says whose it is.
fn count(
    ports: &[Counted],
    (cgroup, family): (Option<CgroupId>, &BTreeSet<CgroupId>),
    processes: Option<&Cgroup>,
) -> io::Result<u32> {
    let mut count = 0;
    let mut held: Option<BTreeSet<u32>> = None;
    for Counted { port, peers } in ports {
        let open = connections::open(*port)?;
        // A program may have connections to itself, which end with it, and lasting ones to its peers.
        let dialled = connections::towards(*port)?.into_iter();
        let mut is_held = |inode: u32| {
            let held = held.get_or_insert_with(|| sockets_of(processes));
            held.contains(&inode)
        };
        let dialled = dialled.filter(|one| match one.cgroup {
            Some(of) => family.contains(&of),
            // The kernel does not say whose it is. Then at least its own ones are known.
            None => is_held(one.inode),
        });
        let own: BTreeSet<SocketAddr> = dialled
            .map(|one| plain(SocketAddr::new(one.address, one.port)))
            .collect();
        let accepted = open.iter().filter(|one| one.inode != 0);
        for one in accepted.filter(|one| !own.contains(&plain(one.remote))) {
            let is_own = cgroup.is_some() && one.cgroup == cgroup;
            let is_a_peers = one.cgroup.is_some_and(|of| peers.contains(&of));
            let is_its = is_own || (!is_a_peers && (peers.is_empty() || is_held(one.inode)));
            count += u32::from(is_its);
        }
    }
    Ok(count)
}

/// Counts the connections that wait to be accepted at the sockets of a replica. Those that were made for it have
/// not its cgroup, and neither have all connections that wait there.
fn queued(ports: &[Counted], cgroup: Option<CgroupId>, made: &BTreeSet<u32>) -> io::Result<u32> {
    let mut count = 0;
    for Counted { port, .. } in ports {
        let listed = connections::listening(*port)?.into_iter();
        let is_own = |one: &LocalSocket| cgroup.is_some() && one.cgroup == cgroup;
        let its = listed.filter(|one| is_own(one) || made.contains(&one.inode));
        count += its.map(|one| one.queued).sum::<u32>();
    }
    Ok(count)
}

/// Returns an address as IPv4 has it, if it is one of those.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Returns the inodes of the sockets that the processes of a cgroup have open.
fn sockets_of(processes: Option<&Cgroup>) -> BTreeSet<u32> {
    let mut sockets = BTreeSet::new();
    let mut seen = BTreeSet::new();
    loop {
        let pids = processes.map(Cgroup::all_processes).unwrap_or_default();
        let mut new = pids.into_iter().filter(|pid| seen.insert(*pid)).peekable();
        if new.peek().is_none() {
            return sockets;
        }
        // A process may hand a socket to its child and close it between the list and this.
        sockets.extend(new.flat_map(connections::sockets_of_process));
    }
}
