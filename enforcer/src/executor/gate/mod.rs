//! The gate in front of the workloads' ports: which cgroup is behind which port, and whether its
//! connections get through. The sockets where they wait otherwise are in `waiting.rs`.

mod drain;
mod waiting;

use super::Executor;
use super::start::io_failure;
use crate::report::error_chain;
use enforcer_core::WorkloadName;
use enforcer_core::event::{AgentEvent, CgroupId, Door, Event, StartError};
use enforcer_core::spec::WorkloadSpec;
use enforcer_kernel::bpf::BpfError;
use enforcer_kernel::bpf::gate::{self, Chooser, Counts, Gate, GateId, Member};
use enforcer_kernel::cgroupfs::Cgroup;
use enforcer_kernel::connections;
use nix::unistd::Uid;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use waiting::Waiting;

/// The one replica of a workload.
const ALONE: u32 = 0;

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
    of: BTreeMap<WorkloadName, OfWorkload>,
}

#[derive(Debug, Default)]
struct OfWorkload {
    /// The last decision; `None` before the first.
    door: Option<Door>,
    /// The user that the program is started as, if this agent has started it.
    user: Option<u32>,
    ports: BTreeMap<String, OfPort>,
}

#[derive(Debug)]
struct OfPort {
    id: GateId,
    port: u16,
    /// The workload's cgroup, once it is behind the gate.
    cgroup: Option<CgroupId>,
    /// The cgroup of its commands, whose connections reach it also while it is not ready.
    commands: Option<CgroupId>,
    chooser: Arc<Chooser>,
    /// The connections of the port that had this number before.
    before: Counts,
    /// The sockets where connections wait, by their numbers.
    waiting: BTreeMap<u32, Waiting>,
}

impl OfPort {
    fn member(&self, cgroup: CgroupId) -> Member {
        Member {
            cgroup,
            port: self.port,
            gate: self.id,
            replica: ALONE,
        }
    }

    /// Undoes everything that the kernel knows of the port.
    fn forget(&self, gate: &Gate) {
        for cgroup in [self.cgroup, self.commands].into_iter().flatten() {
            if let Err(error) = gate.remove(self.member(cgroup)) {
                let port = self.port;
                tracing::warn!("a cgroup stays behind the gate of port {port}: {error}");
            }
        }
    }
}

fn door_of(door: Door) -> gate::Door {
    gate::Door {
        ready: u32::from(door == Door::Open) << ALONE,
        refuses: door == Door::Refuse,
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

    /// Puts the cgroup of a workload behind its ports, before a program that is started as `user` can
    /// listen there. Without a user, the program runs already.
    pub(super) fn put_behind_gate(
        self: &Arc<Self>,
        workload: &WorkloadName,
        spec: &WorkloadSpec,
        cgroup: CgroupId,
        user: Option<Uid>,
    ) -> Result<(), StartError> {
        let is_known = self.gates.table.lock().of.contains_key(workload);
        if spec.ports.is_empty() && !is_known && self.waiting_sockets(workload).is_empty() {
            return Ok(());
        }
        let _alone = self.gates.setup.lock();
        self.close_stale_waiting(workload, spec, user);
        if spec.ports.is_empty() {
            self.take_from_gate(workload);
            return Ok(());
        }
        let closed = |error: BpfError| StartError {
            stage: "open the gate of its ports".to_owned(),
            errno: None,
            error: format!("{}; without `ports` it starts", error_chain(&error)),
        };
        let failed = |error| io_failure("put it behind its ports", &error);
        let gate = self.gate().map_err(closed)?;
        {
            let mut table = self.gates.table.lock();
            let known = table.of.entry(workload.clone()).or_default();
            known.user = user.map(Uid::as_raw).or(known.user);
            known.ports.retain(|name, of| {
                let wanted = spec.ports.get(name);
                let stays = wanted.is_some_and(|port| port.port == of.port);
                if !stays {
                    of.forget(&gate);
                }
                stays
            });
        }
        for (name, port) in &spec.ports {
            let is_known = {
                let table = self.gates.table.lock();
                let known = table.of.get(workload);
                known.is_some_and(|known| known.ports.contains_key(name))
            };
            let new = match is_known {
                true => None,
                false => Some(
                    new_port(&gate, port.port, cgroup).map_err(|error| match error {
                        NewPort::Kernel(error) => failed(error),
                        NewPort::Program(error) => closed(error),
                    })?,
                ),
            };
            let mut table = self.gates.table.lock();
            let known = table.of.entry(workload.clone()).or_default();
            known.ports.extend(new.map(|new| (name.clone(), new)));
            let Some(of) = known.ports.get_mut(name) else {
                continue;
            };
            if let Some(older) = of.cgroup.filter(|older| *older != cgroup) {
                gate.remove(of.member(older)).map_err(failed)?;
            }
            gate.add(of.member(cgroup)).map_err(failed)?;
            of.cgroup = Some(cgroup);
            if user.is_some() {
                gate.begin(of.id, ALONE).map_err(failed)?;
                let door = known.door.unwrap_or(Door::Wait);
                gate.set(of.id, door_of(door)).map_err(failed)?;
            }
        }
        self.take_waiting(workload);
        if user.is_none() {
            self.join_listeners(workload);
        }
        Ok(())
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
        }
        let there = self.tree.workloads().id().is_ok_and(Gate::is_there);
        if there && let Ok(gate) = self.gate() {
            self.sweep(&gate);
        }
    }

    /// Removes the cgroups that belong to no workload any more.
    fn sweep(&self, gate: &Gate) {
        let members = gate.members().unwrap_or_default();
        let table = self.gates.table.lock();
        let ports = || table.of.values().flat_map(|known| known.ports.values());
        let is_known = |member: &Member| ports().any(|of| of.cgroup == Some(member.cgroup));
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
    pub(super) fn name_strangers(&self, workload: &WorkloadName, spec: &WorkloadSpec) {
        if spec.ports.is_empty() {
            return;
        }
        let ours = self.inodes_of_waiting(workload);
        for (name, port) in &spec.ports {
            let listed = connections::listening(port.port).unwrap_or_default();
            let mut others = listed.iter().filter(|one| !ours.contains(&one.inode));
            let Some(other) = others.next() else {
                continue;
            };
            let by = match connections::holder_of(other.inode) {
                Some((pid, command)) => format!("{command} (pid {pid})"),
                None => format!("a process of user {}", other.uid),
            };
            let address = SocketAddr::new(other.address, port.port);
            self.report_ports(format!(
                "{workload}: another program listens at its port `{name}`: {by} at {address}"
            ));
        }
    }

    /// Takes a workload away from its ports.
    pub(super) fn take_from_gate(&self, workload: &WorkloadName) {
        let mut table = self.gates.table.lock();
        let gate = table.open.clone();
        let Some(known) = table.of.get_mut(workload) else {
            return;
        };
        // The next start may have been decided on already, with its door.
        let ports = std::mem::take(&mut known.ports);
        if known.door.is_none_or(|door| door == Door::Refuse) {
            table.of.remove(workload);
        }
        if let Some(gate) = gate {
            ports.values().for_each(|of| of.forget(&gate));
        }
    }

    /// Opens or closes the gate of a workload. Connections that wait get through, or are refused.
    pub(super) fn set_door(self: &Arc<Self>, workload: &WorkloadName, door: Door) {
        {
            let mut table = self.gates.table.lock();
            let gate = table.open.clone();
            let known = table.of.entry(workload.clone()).or_default();
            known.door = Some(door);
            if let Some(gate) = gate {
                for (name, of) in &known.ports {
                    if let Err(error) = gate.set(of.id, door_of(door)) {
                        tracing::error!("{workload}: the gate of its port {name} stays: {error}");
                    }
                }
            }
        }
        let this = Arc::clone(self);
        self.runtime.spawn(this.renew_waiting(workload.clone()));
    }

    /// Has a probe reach the instance itself, ready or not, if its port is behind the gate.
    pub(crate) fn direct(&self, workload: &WorkloadName, from: u16, to: u16) {
        let table = self.gates.table.lock();
        let known = table.of.get(workload).into_iter();
        let mut ports = known.flat_map(|known| known.ports.values());
        if let (Some(gate), Some(of)) = (&table.open, ports.find(|of| of.port == to))
            && let Err(error) = gate.direct(from, to, (of.id, ALONE))
        {
            tracing::warn!("{workload}: a probe may wait at the gate: {error}");
        }
    }

    /// Has the commands of a workload reach its own ports.
    pub(super) fn admit_commands(&self, workload: &WorkloadName, cgroup: CgroupId) {
        let mut table = self.gates.table.lock();
        let Some(gate) = table.open.clone() else {
            return;
        };
        let known = table.of.get_mut(workload).into_iter();
        for of in known.flat_map(|known| known.ports.values_mut()) {
            if of.commands == Some(cgroup) {
                continue;
            }
            match gate.add(of.member(cgroup)) {
                Ok(()) => of.commands = Some(cgroup),
                Err(error) => tracing::warn!("{workload}: a command may wait at the gate: {error}"),
            }
        }
    }

    /// Returns the connections of a workload's ports so far, by their names.
    pub(crate) fn gate_counts(&self, workload: &WorkloadName) -> Vec<(String, Counts)> {
        let table = self.gates.table.lock();
        let (Some(gate), Some(known)) = (&table.open, table.of.get(workload)) else {
            return Vec::new();
        };
        let ports = known.ports.iter();
        ports
            .map(|(name, of)| (name.clone(), gate.counts(of.id).since(&of.before)))
            .collect()
    }

    /// Ends the gate: no workload is left.
    pub(super) fn close_gate(&self) {
        if let Some(gate) = self.gates.table.lock().open.take() {
            gate.close();
        }
    }
}

enum NewPort {
    Kernel(io::Error),
    Program(BpfError),
}

/// Finds the gate of a cgroup's port that an agent before has left, or a free one.
fn new_port(gate: &Gate, port: u16, cgroup: CgroupId) -> Result<OfPort, NewPort> {
    let members = gate.members().map_err(NewPort::Kernel)?;
    let mut members = members.iter();
    let left = members.find(|member| (member.cgroup, member.port) == (cgroup, port));
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
        cgroup: None,
        commands: None,
        chooser: Arc::new(gate.chooser(id).map_err(NewPort::Program)?),
        before,
        waiting: BTreeMap::new(),
    })
}
