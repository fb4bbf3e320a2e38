//! The sockets of `listen` that each replica has behind the gate.

use super::{owners, slot};
use crate::executor::Executor;
use crate::executor::sockets::PORT;
use crate::holder::SocketName;
use enforcer_core::ReplicaId;
use enforcer_core::name::WorkloadName;
use enforcer_core::spec::WorkloadSpec;
use enforcer_kernel::listening;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Executor {
    /// Has the gate give connections to the sockets of a replica that is about to start, and has them wait
    /// at the same addresses.
    pub(in crate::executor) fn hold_and_join(
        self: &Arc<Self>,
        replica: &ReplicaId,
        spec: &WorkloadSpec,
    ) {
        if spec.listen.values().any(|listen| listen.gated().is_some()) {
            self.hold_at_gate(replica, spec);
            self.join_listeners(replica);
        }
    }

    /// Has the gate give connections to the sockets that are kept for a replica, while it is ready.
    pub(in crate::executor) fn hold_at_gate(
        self: &Arc<Self>,
        replica: &ReplicaId,
        spec: &WorkloadSpec,
    ) {
        let mut by_port: BTreeMap<u16, Vec<Arc<OwnedFd>>> = BTreeMap::new();
        for (name, listen) in &spec.listen {
            let kept = self.kept_socket(&SocketName {
                workload: replica.clone(),
                name: name.clone(),
            });
            if let (Some(address), Some(socket)) = (listen.gated(), kept) {
                by_port.entry(address.port()).or_default().push(socket);
            }
        }
        let slot = slot(replica);
        let table = self.gates.table.lock();
        let Some(gate) = &table.open else {
            return;
        };
        let known = owners(replica).into_iter();
        let known = known.filter_map(|owner| table.of.get(&owner));
        for of in known.flat_map(|known| known.ports.values()) {
            let Some(sockets) = by_port.get(&of.port) else {
                continue;
            };
            let sockets: Vec<&OwnedFd> = sockets.iter().map(Arc::as_ref).collect();
            let attached = sockets
                .iter()
                .try_for_each(|socket| of.chooser.attach(socket));
            let held = attached.and_then(|()| gate.hold(of.id, slot, &sockets));
            if let Err(error) = held {
                self.report_ports(format!(
                    "{replica}: its sockets at port {} are not behind the gate: {error}",
                    of.port
                ));
            }
        }
    }

    /// Has the connections that a replica which has ended did not accept go to others. What comes while none
    /// is ready waits for the next one.
    pub(in crate::executor) fn pass_on_held(
        self: &Arc<Self>,
        replica: &ReplicaId,
        spec: &WorkloadSpec,
    ) {
        let mut has_any = false;
        // A socket that has ceased to listen stays in the map of the gate (seen on Linux 6.1), and a connection that is passed on to such a
        // one is reset. The door of this replica may be open still, and other replicas may end at the same time.
        self.let_go_of_held(replica, spec);
        for (name, listen) in &spec.listen {
            let kept = self.kept_socket(&SocketName {
                workload: replica.clone(),
                name: name.clone(),
            });
            let Some(socket) = kept.filter(|_| listen.gated().is_some()) else {
                continue;
            };
            has_any = true;
            if let Err(error) = listening::flush(&socket, listen.backlog) {
                tracing::warn!("{replica}: what waits at its socket {name} stays there: {error}");
            }
        }
        if has_any {
            self.hold_at_gate(replica, spec);
        }
    }

    /// Has the gate give no connection to the sockets that are kept for a replica.
    fn let_go_of_held(&self, replica: &ReplicaId, spec: &WorkloadSpec) {
        let gated = spec.listen.values().filter_map(|listen| listen.gated());
        let ports: BTreeSet<u16> = gated.map(|address| address.port()).collect();
        let table = self.gates.table.lock();
        let Some(gate) = &table.open else {
            return;
        };
        let known = owners(replica).into_iter();
        let known = known.filter_map(|owner| table.of.get(&owner));
        let known = known.flat_map(|known| known.ports.values());
        for of in known.filter(|of| ports.contains(&of.port)) {
            if let Err(error) = gate.begin(of.id, slot(replica)) {
                tracing::warn!("{replica}: the gate keeps its sockets: {error}");
            }
        }
    }

    /// Returns the inodes of the sockets that are kept for a replica.
    pub(super) fn inodes_held_for(&self, replica: &ReplicaId) -> BTreeSet<u32> {
        self.inodes_held(|name| name.workload == *replica)
    }

    /// Returns the inodes of the sockets that are kept for a workload and its replicas.
    pub(super) fn inodes_held_for_all(&self, workload: &WorkloadName) -> BTreeSet<u32> {
        self.inodes_held(|name| name.workload.workload() == workload)
    }

    fn inodes_held(&self, which: impl Fn(&SocketName) -> bool) -> BTreeSet<u32> {
        // The sockets where connections wait belong to no instance.
        let kept = self.all_kept(|name| !name.name.starts_with(PORT) && which(name));
        let inodes = kept.iter().map(|socket| listening::inode(socket));
        inodes.flatten().collect()
    }
}
