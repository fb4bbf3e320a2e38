//! The gate in front of the workloads' ports: which cgroup is behind which port, and whether its
//! connections get through. The sockets where they wait otherwise are in `waiting.rs`.

mod drain;
mod held;
mod waiting;

use super::Executor;
use super::start::io_failure;
use crate::report::error_chain;
use enforcer_core::ReplicaId;
use enforcer_core::event::{AgentEvent, CgroupId, Door, Event, StartError};
use enforcer_core::spec::{PortOf, Replicas, WorkloadSpec};
use enforcer_kernel::bpf::BpfError;
use enforcer_kernel::bpf::gate::{self, Chooser, Counts, Gate, GateId, Member};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::connections::{self, LocalSocket};
use nix::unistd::Uid;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use waiting::Waiting;

#[derive(Debug, Default)]
pub(super) struct Gates {
    /// Held while a workload is put behind the gate, which loads programs.
    setup: Mutex<()>,
    table: Mutex<Table>,
}

/// It is locked for short calls alone: the core's own task waits for it.
#[derive(Debug, Default)]
struct Table {
    open: Option<Arc<Gate>>,
    /// The last decision about each workload or replica.
    doors: BTreeMap<ReplicaId, Door>,
    of: BTreeMap<Owner, OfOwner>,
}

/// What has ports: a workload with all of its replicas, or one replica, whose ports are its own.
type Owner = ReplicaId;

#[derive(Debug, Default)]
struct OfOwner {
    /// The user that the program is started as, if this agent has started it.
    user: Option<u32>,
    /// By their names and numbers: another version may have another number.
    ports: BTreeMap<String, OfPort>,
}

#[derive(Debug)]
struct OfPort {
    id: GateId,
    port: u16,
    /// The replicas behind it, by their numbers in the gate.
    members: BTreeMap<u32, OfMember>,
    chooser: Arc<Chooser>,
    /// The connections of the port that had this number before.
    before: Counts,
    /// The sockets where connections wait, by their numbers.
    waiting: BTreeMap<u32, Waiting>,
}

#[derive(Debug)]
struct OfMember {
    replica: ReplicaId,
    cgroup: CgroupId,
    bound: Bound,
    /// The cgroup of its commands, whose connections reach it also while it is not ready.
    commands: Option<CgroupId>,
}

/// A port that a workload or a replica is to have.
struct Wanted {
    owner: Owner,
    key: String,
    port: u16,
    bound: Bound,
}

/// What the program binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    port: u16,
    /// It listens at every address of the host, whatever it binds.
    is_any: bool,
}

/// Returns the ports that a workload or a replica is to have.
fn wanted(replica: &ReplicaId, spec: &WorkloadSpec) -> Vec<Wanted> {
    let ports = spec.gated_ports().into_iter();
    let ports = ports.map(|(name, port)| Wanted {
        owner: match port.to {
            PortOf::Any => ReplicaId::from(replica.workload().clone()),
            PortOf::Each => replica.clone(),
        },
        key: format!("{name}:{}", port.port),
        port: port.port,
        bound: Bound {
            port: port.target.unwrap_or(port.port),
            is_any: port.address.is_some(),
        },
    });
    ports.collect()
}

/// Returns the owners of the ports that a workload or a replica may have.
fn owners(replica: &ReplicaId) -> BTreeSet<Owner> {
    [ReplicaId::from(replica.workload().clone()), replica.clone()].into()
}

/// Returns the name of a port in the manifest.
fn name_of_port(key: &str) -> &str {
    key.rsplit_once(':').map_or(key, |(name, _)| name)
}

/// Returns the number of a workload or a replica in the gate. A workload without replicas may get some,
/// and is among them until it has gone.
fn slot(replica: &ReplicaId) -> u32 {
    replica
        .index()
        .map_or(0, |index| u32::from(Replicas::place(index)) + 1)
}

impl OfPort {
    fn member(&self, slot: u32, cgroup: CgroupId, bound: Bound) -> Member {
        Member {
            cgroup,
            target: bound.port,
            is_any: bound.is_any,
            port: self.port,
            gate: self.id,
            replica: slot,
        }
    }

    /// Undoes everything that the kernel knows of a replica at this port.
    fn forget(&mut self, gate: Option<&Gate>, slot: u32) {
        let (Some(member), Some(gate)) = (self.members.remove(&slot), gate) else {
            return;
        };
        for cgroup in [Some(member.cgroup), member.commands].into_iter().flatten() {
            if let Err(error) = gate.remove(self.member(slot, cgroup, member.bound)) {
                let port = self.port;
                tracing::warn!("a cgroup stays behind the gate of port {port}: {error}");
            }
        }
    }

    /// Returns what becomes of new connections: they reach the replicas that are ready, or else wait for as
    /// long as one of them is waited for.
    fn door(&self, doors: &BTreeMap<ReplicaId, Door>) -> Door {
        let mut all = Door::Refuse;
        for member in self.members.values() {
            match doors.get(&member.replica).copied().unwrap_or(Door::Wait) {
                Door::Open => return Door::Open,
                Door::Wait => all = Door::Wait,
                Door::Refuse => {}
            }
        }
        all
    }

    /// Tells the kernel which replicas get connections.
    fn tell(&self, gate: &Gate, doors: &BTreeMap<ReplicaId, Door>) -> io::Result<()> {
        let is_open = |member: &OfMember| doors.get(&member.replica) == Some(&Door::Open);
        let open = self.members.iter().filter(|(_, member)| is_open(member));
        let ready = open.fold(0, |ready, (slot, _)| ready | 1 << slot);
        let refuses = self.door(doors) == Door::Refuse;
        gate.set(self.id, gate::Door { ready, refuses })
    }
}

impl Table {
    /// Returns the ports at which a workload or a replica is.
    fn ports_of<'t>(&'t self, replica: &ReplicaId) -> impl Iterator<Item = (&'t str, &'t OfPort)> {
        let slot = slot(replica);
        let owners = owners(replica).into_iter();
        let known = owners.filter_map(|owner| self.of.get(&owner));
        let ports = known.flat_map(|known| known.ports.iter());
        let ports = ports.filter(move |(_, of)| of.members.contains_key(&slot));
        ports.map(|(key, of)| (key.as_str(), of))
    }
}

impl Executor {
    /// Returns the gate of this host's workloads, and opens it for the first one.
    fn gate(self: &Arc<Self>) -> Result<Arc<Gate>, BpfError> {
        if let Some(open) = &self.gates.table.lock().open {
            return Ok(Arc::clone(open));
        }
        let parent = self.tree.workloads().id();
        let root = Cgroup::open(self.tree.root().0);
        let (parent, root) = parent
            .and_then(|parent| Ok((parent, root?)))
            .map_err(|error| BpfError::NoPlace(io::Error::other(error_chain(&error))))?;
        let open = Arc::new(Gate::open(parent, &root)?);
        self.gates.table.lock().open = Some(Arc::clone(&open));
        let this = Arc::clone(self);
        self.runtime.spawn(this.follow_listeners(Arc::clone(&open)));
        Ok(open)
    }

    /// Puts the cgroup of a workload or a replica behind its ports, before a program that is started as
    /// `user` can listen there. Without a user, the program runs already.
    pub(super) fn put_behind_gate(
        self: &Arc<Self>,
        replica: &ReplicaId,
        spec: &WorkloadSpec,
        cgroup: CgroupId,
        user: Option<Uid>,
    ) -> Result<(), StartError> {
        let wanted = wanted(replica, spec);
        let is_known = self.gates.table.lock().ports_of(replica).next().is_some();
        let has_waiting = || {
            let mut owners = owners(replica).into_iter();
            owners.any(|owner| !self.waiting_sockets(&owner).is_empty())
        };
        if wanted.is_empty() && !is_known && !has_waiting() {
            return Ok(());
        }
        let _alone = self.gates.setup.lock();
        for owner in owners(replica) {
            self.close_stale_waiting(&owner, replica, &wanted, user);
        }
        self.leave_ports(replica, &wanted);
        if wanted.is_empty() {
            return Ok(());
        }
        let closed = |error: BpfError| StartError {
            stage: "open the gate of its ports".to_owned(),
            errno: None,
            error: format!("{}; without `ports` it starts", error_chain(&error)),
        };
        let failed = |error| io_failure("put it behind its ports", &error);
        let gate = self.gate().map_err(closed)?;
        let slot = slot(replica);
        for Wanted {
            owner,
            key,
            port,
            bound,
        } in &wanted
        {
            let is_known = {
                let mut table = self.gates.table.lock();
                let known = table.of.entry(owner.clone()).or_default();
                known.user = user.map(Uid::as_raw).or(known.user);
                known.ports.contains_key(key)
            };
            let new = match is_known {
                true => None,
                false => Some(new_port(&gate, *port).map_err(|error| match error {
                    NewPort::Kernel(error) => failed(error),
                    NewPort::Program(error) => closed(error),
                })?),
            };
            let mut table = self.gates.table.lock();
            let Table { doors, of, .. } = &mut *table;
            let known = of.entry(owner.clone()).or_default();
            known.ports.extend(new.map(|new| (key.clone(), new)));
            let Some(of) = known.ports.get_mut(key) else {
                continue;
            };
            let older = of.members.get(&slot);
            let older = older.map(|member| (member.cgroup, member.bound));
            if let Some((older, was)) = older.filter(|older| *older != (cgroup, *bound)) {
                gate.remove(of.member(slot, older, was)).map_err(failed)?;
            }
            gate.add(of.member(slot, cgroup, *bound)).map_err(failed)?;
            let member = of.members.entry(slot).or_insert_with(|| OfMember {
                replica: replica.clone(),
                cgroup,
                bound: *bound,
                commands: None,
            });
            (member.cgroup, member.bound) = (cgroup, *bound);
            if user.is_some() {
                gate.begin(of.id, slot).map_err(failed)?;
                of.tell(&gate, doors).map_err(failed)?;
            }
        }
        for owner in owners(replica) {
            self.take_waiting(&owner);
        }
        if user.is_none() {
            self.hold_at_gate(replica, spec);
            self.join_listeners(replica);
        }
        Ok(())
    }

    /// Takes a workload or a replica away from the ports that are not wanted of it.
    fn leave_ports(&self, replica: &ReplicaId, wanted: &[Wanted]) {
        let mut table = self.gates.table.lock();
        let Table { open, doors, of } = &mut *table;
        let gate = open.as_deref();
        let slot = slot(replica);
        for owner in owners(replica) {
            let Some(known) = of.get_mut(&owner) else {
                continue;
            };
            let is_wanted = |key: &str| {
                wanted
                    .iter()
                    .any(|one| one.owner == owner && one.key == key)
            };
            known.ports.retain(|key, of| {
                if is_wanted(key) || !of.members.contains_key(&slot) {
                    return true;
                }
                of.forget(gate, slot);
                if let Some(gate) = gate
                    && let Err(error) = of.tell(gate, doors)
                {
                    tracing::error!("{owner}: the gate of its port {key} stays: {error}");
                }
                !of.members.is_empty()
            });
            if known.ports.is_empty() {
                of.remove(&owner);
            }
        }
    }

    /// Goes on with the gate of the workloads that were taken over.
    pub(crate) fn resume_gate(self: &Arc<Self>) {
        for (workload, instance) in self.instances.all() {
            let cgroup = instance.open.id;
            let behind = self.put_behind_gate(&workload, &instance.spec, cgroup, None);
            if let Err(error) = behind {
                let why = format!("{workload}: failed to {}: {}", error.stage, error.error);
                self.report_ports(why);
            }
            self.keep_door(&workload);
        }
        let there = self.tree.workloads().id().is_ok_and(Gate::is_there);
        if there && let Ok(gate) = self.gate() {
            self.sweep(&gate);
        }
    }

    /// Leaves the door of a replica as the agent before has left it, until there is another decision. A replica
    /// without a door would get no connections as soon as another one has one.
    fn keep_door(&self, replica: &ReplicaId) {
        let mut table = self.gates.table.lock();
        let Some(gate) = &table.open else {
            return;
        };
        let left = table
            .ports_of(replica)
            .next()
            .map(|(_, of)| gate.door(of.id));
        let door = match left {
            Some(Ok(left)) if left.ready >> slot(replica) & 1 == 1 => Door::Open,
            Some(Ok(left)) if left.refuses => Door::Refuse,
            Some(Ok(_)) => Door::Wait,
            Some(Err(_)) | None => return,
        };
        table.doors.entry(replica.clone()).or_insert(door);
    }

    /// Removes the cgroups that belong to no workload any more.
    fn sweep(&self, gate: &Gate) {
        let members = gate.members().unwrap_or_default();
        let table = self.gates.table.lock();
        let ports = || table.of.values().flat_map(|known| known.ports.values());
        let is_known = |member: &Member| {
            let mut known = ports().flat_map(|of| of.members.values());
            known.any(|of| of.cgroup == member.cgroup)
        };
        for member in members.into_iter().filter(|member| !is_known(member)) {
            if let Err(error) = gate.remove(member) {
                tracing::warn!(
                    "a cgroup stays behind the gate of port {}: {error}",
                    member.port
                );
            }
        }
    }

    fn report_ports(&self, why: String) {
        let what = "ports".to_owned();
        self.events
            .send(Event::Agent(AgentEvent::Degraded { what, why }));
    }

    /// Reports other processes that listen at a port of the workload, which does not run.
    pub(super) fn name_strangers(&self, replica: &ReplicaId, spec: &WorkloadSpec) {
        for Wanted {
            owner, key, port, ..
        } in wanted(replica, spec)
        {
            let mut ours = self.inodes_of_waiting(&owner);
            ours.extend(self.inodes_held_for_all(owner.workload()));
            let peers = self.peers(&owner, &key);
            let listed = connections::listening(port).unwrap_or_default();
            let is_peer = |one: &LocalSocket| match one.cgroup {
                Some(cgroup) => peers.contains(&cgroup),
                // The kernel does not say whose it is.
                None => peers.len() > 1,
            };
            let mut others = listed
                .iter()
                .filter(|one| !ours.contains(&one.inode) && !is_peer(one));
            let Some(other) = others.next() else {
                continue;
            };
            let by = match connections::holder_of(other.inode) {
                Some((pid, command)) => format!("{command} (pid {pid})"),
                None => format!("a process of user {}", other.uid),
            };
            let address = SocketAddr::new(other.address, port);
            let name = name_of_port(&key);
            self.report_ports(format!(
                "{replica}: another program listens at its port `{name}`: {by} at {address}"
            ));
        }
    }

    /// Returns the cgroups of all replicas at a port.
    fn peers(&self, owner: &Owner, key: &str) -> BTreeSet<CgroupId> {
        let table = self.gates.table.lock();
        let of = table.of.get(owner).and_then(|known| known.ports.get(key));
        let members = of.into_iter().flat_map(|of| of.members.values());
        members.map(|member| member.cgroup).collect()
    }

    /// Returns whether a workload, or one of its replicas, is behind a port.
    pub(super) fn has_ports(&self, owner: &Owner) -> bool {
        self.gates.table.lock().of.contains_key(owner)
    }

    /// Takes a workload or a replica away from its ports.
    pub(super) fn take_from_gate(&self, replica: &ReplicaId) {
        self.leave_ports(replica, &[]);
        let mut table = self.gates.table.lock();
        // The next start may have been decided on already, with its door.
        let is_refused = |door: &Door| *door == Door::Refuse;
        if table.doors.get(replica).is_none_or(is_refused) {
            table.doors.remove(replica);
        }
        let is_there = |owner: &Owner| table.of.contains_key(owner);
        let left: Vec<Owner> = owners(replica)
            .into_iter()
            .filter(|owner| owner != replica && !is_there(owner))
            .collect();
        drop(table);
        // With the last replica, nobody is waited for.
        left.iter().for_each(|owner| self.close_sockets(owner));
    }

    /// Opens or closes the gate of a workload or a replica. Connections that wait get through, or are
    /// refused.
    pub(super) fn set_door(self: &Arc<Self>, replica: &ReplicaId, door: Door) {
        {
            let mut table = self.gates.table.lock();
            table.doors.insert(replica.clone(), door);
            if let Some(gate) = &table.open {
                for (key, of) in table.ports_of(replica) {
                    if let Err(error) = of.tell(gate, &table.doors) {
                        let name = name_of_port(key);
                        tracing::error!("{replica}: the gate of its port {name} stays: {error}");
                    }
                }
            }
        }
        for owner in owners(replica) {
            let this = Arc::clone(self);
            self.runtime.spawn(this.renew_waiting(owner));
        }
    }

    /// Has a probe reach the instance itself, ready or not, if its port is behind the gate.
    pub(crate) fn direct(&self, replica: &ReplicaId, from: u16, to: u16) {
        let table = self.gates.table.lock();
        let found = table.ports_of(replica).find(|(_, of)| of.port == to);
        if let (Some(gate), Some((_, of))) = (&table.open, found)
            && let Err(error) = gate.direct(from, to, (of.id, slot(replica)))
        {
            tracing::warn!("{replica}: a probe may wait at the gate: {error}");
        }
    }

    /// Has the commands of a workload or a replica reach its own ports.
    pub(super) fn admit_commands(&self, replica: &ReplicaId, cgroup: CgroupId) {
        let mut table = self.gates.table.lock();
        let Some(gate) = table.open.clone() else {
            return;
        };
        let slot = slot(replica);
        for owner in owners(replica) {
            let known = table.of.get_mut(&owner).into_iter();
            for of in known.flat_map(|known| known.ports.values_mut()) {
                let Some(bound) = of.members.get(&slot).map(|member| member.bound) else {
                    continue;
                };
                let as_member = of.member(slot, cgroup, bound);
                let Some(member) = of.members.get_mut(&slot) else {
                    continue;
                };
                if member.commands == Some(cgroup) {
                    continue;
                }
                match gate.add(as_member) {
                    Ok(()) => member.commands = Some(cgroup),
                    Err(error) => {
                        tracing::warn!("{replica}: a command may wait at the gate: {error}");
                    }
                }
            }
        }
    }

    /// Returns the connections of the ports of a workload or a replica so far, by their names.
    pub(crate) fn gate_counts(&self, replica: &ReplicaId) -> Vec<(String, OfReplica)> {
        let table = self.gates.table.lock();
        let Some(gate) = &table.open else {
            return Vec::new();
        };
        let number = slot(replica);
        let ports = table.ports_of(replica).map(|(key, of)| {
            let counts = gate.counts(of.id).since(&of.before);
            let given = counts
                .given
                .get(usize::try_from(number).unwrap_or(usize::MAX));
            let is_first = of.members.keys().next() == Some(&number);
            let of_replica = OfReplica {
                given: given.copied().unwrap_or(0),
                others: is_first.then_some((counts.parked, counts.refused)),
            };
            (name_of_port(key).to_owned(), of_replica)
        });
        ports.collect()
    }

    /// Ends the gate: no workload is left.
    pub(super) fn close_gate(&self) {
        if let Some(gate) = self.gates.table.lock().open.take() {
            gate.close();
        }
    }
}

/// The connections of one replica at a port.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfReplica {
    pub(crate) given: u64,
    /// Those that had to wait, and those that were refused, of all replicas together. Only the first
    /// replica has them.
    pub(crate) others: Option<(u64, u64)>,
}

enum NewPort {
    Kernel(io::Error),
    Program(BpfError),
}

/// Finds the gate of a port that an agent before has left, or a free one.
fn new_port(gate: &Gate, port: u16) -> Result<OfPort, NewPort> {
    let members = gate.members().map_err(NewPort::Kernel)?;
    let mut members = members.iter();
    let left = members.find(|member| member.port == port);
    let (id, before) = match left {
        Some(member) => (member.gate, Counts::default()),
        None => {
            let free = gate.free().map_err(NewPort::Kernel)?;
            (free, gate.counts(free))
        }
    };
    Ok(OfPort {
        id,
        port,
        members: BTreeMap::new(),
        chooser: Arc::new(gate.chooser(id).map_err(NewPort::Program)?),
        before,
        waiting: BTreeMap::new(),
    })
}
