//! The wait for the end of the connections at a workload's ports, before it is stopped.

use crate::executor::Executor;
use enforcer_core::ReplicaId;
use enforcer_core::event::{CgroupId, Drained, Event, InstanceEvent, InstanceId};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::{clock, connections};
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
        let (left, unknown) = loop {
            let (asked, own, family) = (ports.clone(), processes.clone(), family.clone());
            let made = self.inodes_held_for(&workload);
            let count = move || {
                Ok(count(&asked, (cgroup, &family), own.as_deref())? + queued(&asked, &made)?)
            };
            let counted = tokio::task::spawn_blocking(count).await;
            let counted = counted.unwrap_or_else(|error| Err(io::Error::other(error)));
            let took = clock::now().since(begun);
            match counted {
                Ok(left) => {
                    first.get_or_insert(left);
                    if took >= limit || (left == 0 && took >= ROUND_TRIP) {
                        break (left, None);
                    }
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

/// Counts the connections of an instance: those that it has accepted, and those in its queues. A
/// connection that waits has neither an inode nor its cgroup. One that has waited has the cgroup of the
/// socket where it did, so its descriptor says whose it is.
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
        for one in open.iter().filter(|one| !own.contains(&plain(one.remote))) {
            let is_own = cgroup.is_some() && one.cgroup == cgroup;
            let is_a_peers = one.cgroup.is_some_and(|of| peers.contains(&of));
            let is_its = match one.inode {
                _ if is_own => true,
                0 => false,
                _ if is_a_peers => false,
                _ if peers.is_empty() => true,
                inode => is_held(inode),
            };
            count += u32::from(is_its);
        }
    }
    Ok(count)
}

/// Counts the connections that wait at the sockets which were made for a replica: those have not its cgroup.
fn queued(ports: &[Counted], made: &BTreeSet<u32>) -> io::Result<u32> {
    let mut count = 0;
    for Counted { port, .. } in ports.iter().filter(|_| !made.is_empty()) {
        let listed = connections::listening(*port)?.into_iter();
        let its = listed.filter(|one| made.contains(&one.inode));
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
    let pids = processes.map(Cgroup::all_processes).unwrap_or_default();
    let of = |pid: u32| connections::sockets_of_process(pid);
    pids.into_iter().flat_map(of).collect()
}
