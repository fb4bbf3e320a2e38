//! Counts the room on the nodes, and chooses a node for a replica.

use crate::fleet::{Desired, Fleet, NodeId, NodeState, Replica, Resources, WorkloadName};
use crate::reason::Wait;
use enforcer_model::spec::Replicas;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How good a node is for a replica; less is better. The replicas of the same workload in its failure domain and on it, and its free memory.
type Rank = (u32, u32, Reverse<u64>);

/// The room that the nodes of a fleet have, as replicas come and go.
pub(crate) struct Room<'f> {
    fleet: &'f Fleet,
    free: BTreeMap<&'f NodeId, Resources>,
    /// The resources that become free when the leaving replicas have ended.
    leaving: BTreeMap<NodeId, Resources>,
    /// The resources that are reserved for replicas that wait for them.
    promised: BTreeMap<NodeId, Resources>,
    /// The replicas of each workload on a node.
    on_node: BTreeMap<(WorkloadName, NodeId), u32>,
    /// The replicas of each workload in a failure domain.
    in_domain: BTreeMap<(WorkloadName, String), u32>,
    /// The places that the replicas of a workload have on a node. A host tells them apart by these.
    places: BTreeMap<(WorkloadName, NodeId), BTreeSet<u16>>,
    /// The replicas on each node, by priority.
    residents: BTreeMap<NodeId, BTreeSet<(u8, Replica)>>,
}

impl<'f> Room<'f> {
    /// Returns the room with all that is assigned, and with what may still run elsewhere.
    pub(crate) fn of(fleet: &'f Fleet) -> Self {
        let free = fleet.nodes.iter().map(|(id, node)| (id, node.capacity));
        let mut room = Self {
            fleet,
            free: free.collect(),
            leaving: BTreeMap::new(),
            promised: BTreeMap::new(),
            on_node: BTreeMap::new(),
            in_domain: BTreeMap::new(),
            places: BTreeMap::new(),
            residents: BTreeMap::new(),
        };
        for (replica, node) in &fleet.assigned {
            room.enter(replica, node);
        }
        for (replica, nodes) in &fleet.leaving {
            for node in nodes {
                room.take(node, room.needs(replica));
                room.occupy(replica, node);
                room.becomes_free(replica, node);
            }
        }
        room
    }

    fn needs(&self, replica: &Replica) -> Resources {
        let desired = self.fleet.desired.get(&replica.workload);
        desired.map_or_else(Resources::default, |desired| desired.needs)
    }

    fn take(&mut self, node: &NodeId, needs: Resources) {
        if let Some(free) = self.free.get_mut(node) {
            *free = free.minus(needs);
        }
    }

    fn becomes_free(&mut self, replica: &Replica, node: &NodeId) {
        let needs = self.needs(replica);
        let leaving = self.leaving.entry(node.clone()).or_default();
        *leaving = leaving.plus(needs);
    }

    /// Keeps room on a node for a replica that waits for it.
    pub(crate) fn promise(&mut self, replica: &Replica, node: &NodeId) {
        let needs = self.needs(replica);
        let promised = self.promised.entry(node.clone()).or_default();
        *promised = promised.plus(needs);
    }

    fn domain_of(&self, replica: &Replica, node: &NodeId) -> Option<(WorkloadName, String)> {
        let label = self.fleet.desired.get(&replica.workload)?.domain.as_ref()?;
        let value = self.fleet.nodes.get(node)?.labels.get(label)?;
        Some((replica.workload.clone(), value.clone()))
    }

    fn occupy(&mut self, replica: &Replica, node: &NodeId) {
        let of_node = (replica.workload.clone(), node.clone());
        self.places
            .entry(of_node)
            .or_default()
            .insert(place(replica));
    }

    /// Returns whether a node has a place for one more replica of this workload, with this number.
    fn has_place(&self, replica: &Replica, node: &NodeId) -> bool {
        let of_node = (replica.workload.clone(), node.clone());
        let taken = self.places.get(&of_node);
        taken.is_none_or(|taken| !taken.contains(&place(replica)))
    }

    /// Gives a node a replica.
    pub(crate) fn enter(&mut self, replica: &Replica, node: &NodeId) {
        self.take(node, self.needs(replica));
        self.occupy(replica, node);
        let of_node = (replica.workload.clone(), node.clone());
        *self.on_node.entry(of_node).or_default() += 1;
        if let Some(domain) = self.domain_of(replica, node) {
            *self.in_domain.entry(domain).or_default() += 1;
        }
        let priority = self.priority(replica);
        let residents = self.residents.entry(node.clone()).or_default();
        residents.insert((priority, replica.clone()));
    }

    /// Returns the replicas that must leave a node for the others to fit, the least important ones first.
    pub(crate) fn surplus(&self, id: &NodeId) -> Vec<Replica> {
        let Some(node) = self.fleet.nodes.get(id) else {
            return Vec::new();
        };
        let residents = self.residents.get(id).into_iter().flatten();
        let used = residents.clone().map(|(_, replica)| self.needs(replica));
        let mut used = used.fold(Resources::default(), Resources::plus);
        let mut surplus = Vec::new();
        for (_, replica) in residents {
            if used.fits_in(node.capacity) {
                break;
            }
            used = used.minus(self.needs(replica));
            surplus.push(replica.clone());
        }
        surplus
    }

    /// Takes a replica off a node. It needs its room there until it has ended, which may be after the next one's start, so the room is not
    /// free yet.
    pub(crate) fn leave(&mut self, replica: &Replica, node: &NodeId) {
        let of_node = (replica.workload.clone(), node.clone());
        if let Some(count) = self.on_node.get_mut(&of_node) {
            *count = count.saturating_sub(1);
        }
        if let Some(domain) = self.domain_of(replica, node)
            && let Some(count) = self.in_domain.get_mut(&domain)
        {
            *count = count.saturating_sub(1);
        }
        let priority = self.priority(replica);
        if let Some(residents) = self.residents.get_mut(node) {
            residents.remove(&(priority, replica.clone()));
        }
        self.becomes_free(replica, node);
    }

    fn priority(&self, replica: &Replica) -> u8 {
        let desired = self.fleet.desired.get(&replica.workload);
        desired.map_or(0, |desired| desired.priority)
    }

    /// Returns the best node for a replica: one with the fewest of its workload, in the domain with the fewest, with the most room.
    pub(crate) fn best(
        &self,
        replica: &Replica,
        desired: &Desired,
        is_avoided: impl Fn(&NodeId) -> bool,
    ) -> Result<NodeId, Wait> {
        let (mut down, mut unlike, mut refused, mut failed, mut full) = (0, 0, 0, 0, 0);
        let mut best: Option<(Rank, &NodeId)> = None;
        for (id, node) in &self.fleet.nodes {
            if node.state != NodeState::Up {
                down += 1;
            } else if !has_labels(&node.labels, &desired.requires) {
                unlike += 1;
            } else if self.is_refused(replica, id) {
                refused += 1;
            } else if is_avoided(id) {
                failed += 1;
            } else if !desired.needs.fits_in(self.free_on(id)) || !self.has_place(replica, id) {
                full += 1;
            } else {
                let rank = self.rank(replica, id);
                if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                    best = Some((rank, id));
                }
            }
        }
        match best {
            Some((_, id)) => Ok(id.clone()),
            None => Err(Wait::NoNode {
                down,
                unlike,
                refused,
                failed,
                full,
            }),
        }
    }

    fn rank(&self, replica: &Replica, id: &NodeId) -> Rank {
        let domain = self.domain_of(replica, id);
        let in_domain = domain
            .and_then(|domain| self.in_domain.get(&domain))
            .copied();
        let on_node = self
            .on_node
            .get(&(replica.workload.clone(), id.clone()))
            .copied();
        (
            in_domain.unwrap_or_default(),
            on_node.unwrap_or_default(),
            Reverse(self.free_on(id).memory_bytes),
        )
    }

    fn free_on(&self, id: &NodeId) -> Resources {
        let of = |all: &BTreeMap<NodeId, Resources>| all.get(id).copied().unwrap_or_default();
        let free = self.free.get(id).copied().unwrap_or_default();
        free.minus(of(&self.promised))
    }

    /// Returns what will be free on a node when those that leave it have ended.
    fn free_soon(&self, id: &NodeId) -> Resources {
        let of = |all: &BTreeMap<NodeId, Resources>| all.get(id).copied().unwrap_or_default();
        let free = self.free.get(id).copied().unwrap_or_default();
        free.plus(of(&self.leaving)).minus(of(&self.promised))
    }

    fn is_refused(&self, replica: &Replica, id: &NodeId) -> bool {
        let refused = &self.fleet.refused;
        refused.contains(&(replica.workload.clone(), id.clone()))
    }

    /// Returns the node on which room is made most cheaply, and the replicas of lower priority that must leave it: the least
    /// important ones, and the fewest. There are none where enough leave already.
    pub(crate) fn displaceable(
        &self,
        replica: &Replica,
        desired: &Desired,
        is_avoided: impl Fn(&NodeId) -> bool,
    ) -> Option<(NodeId, Vec<Replica>)> {
        let mut best: Option<((u8, usize), &NodeId, Vec<Replica>)> = None;
        for (id, node) in &self.fleet.nodes {
            let is_suitable = node.state == NodeState::Up
                && has_labels(&node.labels, &desired.requires)
                && !self.is_refused(replica, id)
                && self.has_place(replica, id)
                && !is_avoided(id);
            if !is_suitable {
                continue;
            }
            let (mut free, mut chosen, mut highest) = (self.free_soon(id), Vec::new(), 0);
            for (priority, resident) in self.residents.get(id).into_iter().flatten() {
                if desired.needs.fits_in(free) || *priority >= desired.priority {
                    break;
                }
                free = free.plus(self.needs(resident));
                chosen.push(resident.clone());
                highest = *priority;
            }
            let cost = (highest, chosen.len());
            if desired.needs.fits_in(free) && best.as_ref().is_none_or(|(other, ..)| cost < *other)
            {
                best = Some((cost, id, chosen));
            }
        }
        best.map(|(_, id, chosen)| (id.clone(), chosen))
    }
}

/// Returns the place of a replica on any host.
fn place(replica: &Replica) -> u16 {
    let index = replica.index % u32::from(Replicas::MOST);
    u16::try_from(index).unwrap_or_default()
}

/// Returns whether a node has all of these labels.
pub(crate) fn has_labels(
    labels: &BTreeMap<String, String>,
    requires: &BTreeMap<String, String>,
) -> bool {
    requires
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
