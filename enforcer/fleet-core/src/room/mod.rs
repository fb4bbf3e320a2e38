//! Counts the room on the nodes, and chooses a node for a replica.
//!
//! A choice does not look at every node. The nodes that a workload may use are kept in the order in which they are good for it, so the
//! first one that fits is the best one ([`candidates`]).

mod candidates;

use crate::fleet::{Desired, Fleet, Node, NodeId, NodeState, Replica, Resources, WorkloadName};
use crate::reason::Wait;
use candidates::Candidates;
use enforcer_model::spec::Replicas;
use std::collections::{BTreeMap, BTreeSet};

/// The number of a node, in the order of their names.
pub(crate) type Number = usize;

/// The room of one node.
struct OfNode<'f> {
    id: &'f NodeId,
    node: &'f Node,
    free: Resources,
    /// The resources that become free when the leaving replicas have ended.
    leaving: Resources,
    /// The resources that are reserved for replicas that wait for them.
    promised: Resources,
    /// The replicas on it, by priority.
    residents: BTreeSet<(u8, Replica)>,
}

impl OfNode<'_> {
    fn left(&self) -> Resources {
        self.free.minus(self.promised)
    }

    /// Returns what will be free when those that leave have ended.
    fn left_soon(&self) -> Resources {
        self.free.plus(self.leaving).minus(self.promised)
    }
}

/// The replicas of one workload.
#[derive(Default)]
struct OfWorkload<'f> {
    on_node: BTreeMap<Number, u32>,
    in_domain: BTreeMap<&'f str, u32>,
    /// The places that its replicas have on a node. A host tells them apart by these.
    places: BTreeMap<Number, BTreeSet<u16>>,
    /// Made when the first node is chosen.
    candidates: Option<Candidates<'f>>,
    /// The answer for replicas without a node, as long as nothing changes.
    none: Option<(u64, Wait)>,
}

/// The room that the nodes of a fleet have, as replicas come and go.
pub(crate) struct Room<'f> {
    fleet: &'f Fleet,
    numbers: BTreeMap<&'f NodeId, Number>,
    nodes: Vec<OfNode<'f>>,
    workloads: BTreeMap<WorkloadName, OfWorkload<'f>>,
    /// Counts the changes of the room.
    changes: u64,
}

impl<'f> Room<'f> {
    /// Returns the room with all that is assigned, and with what may still run elsewhere.
    pub(crate) fn of(fleet: &'f Fleet) -> Self {
        let nodes = fleet.nodes.iter().map(|(id, node)| OfNode {
            id,
            node,
            free: node.capacity,
            leaving: Resources::default(),
            promised: Resources::default(),
            residents: BTreeSet::new(),
        });
        let mut room = Self {
            fleet,
            numbers: fleet.nodes.keys().zip(0..).collect(),
            nodes: nodes.collect(),
            workloads: BTreeMap::new(),
            changes: 0,
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

    fn priority(&self, replica: &Replica) -> u8 {
        let desired = self.fleet.desired.get(&replica.workload);
        desired.map_or(0, |desired| desired.priority)
    }

    fn number(&self, node: &NodeId) -> Option<Number> {
        self.numbers.get(node).copied()
    }

    fn on(&mut self, node: &NodeId) -> Option<&mut OfNode<'f>> {
        let number = self.number(node)?;
        self.changes += 1;
        self.nodes.get_mut(number)
    }

    fn of_workload(&mut self, workload: &WorkloadName) -> &mut OfWorkload<'f> {
        self.workloads.entry(workload.clone()).or_default()
    }

    fn take(&mut self, node: &NodeId, needs: Resources) {
        if let Some(on) = self.on(node) {
            on.free = on.free.minus(needs);
        }
    }

    fn becomes_free(&mut self, replica: &Replica, node: &NodeId) {
        let needs = self.needs(replica);
        if let Some(on) = self.on(node) {
            on.leaving = on.leaving.plus(needs);
        }
    }

    /// Keeps room on a node for a replica that waits for it.
    pub(crate) fn promise(&mut self, replica: &Replica, node: &NodeId) {
        let needs = self.needs(replica);
        if let Some(on) = self.on(node) {
            on.promised = on.promised.plus(needs);
        }
    }

    fn domain_of(&self, workload: &WorkloadName, number: Number) -> Option<&'f str> {
        let label = self.fleet.desired.get(workload)?.domain.as_ref()?;
        let node = self.nodes.get(number)?.node;
        node.labels.get(label).map(String::as_str)
    }

    fn occupy(&mut self, replica: &Replica, node: &NodeId) {
        if let Some(number) = self.number(node) {
            let of = self.of_workload(&replica.workload);
            of.places.entry(number).or_default().insert(place(replica));
        }
    }

    /// Gives a node a replica.
    pub(crate) fn enter(&mut self, replica: &Replica, node: &NodeId) {
        let (needs, priority) = (self.needs(replica), self.priority(replica));
        if let Some(on) = self.on(node) {
            on.free = on.free.minus(needs);
            on.residents.insert((priority, replica.clone()));
        }
        self.occupy(replica, node);
        self.count(&replica.workload, node, |count| count.saturating_add(1));
    }

    /// Changes the number of a workload's replicas on a node and in its domain.
    fn count(&mut self, workload: &WorkloadName, node: &NodeId, change: impl Fn(u32) -> u32) {
        let Some(number) = self.number(node) else {
            return;
        };
        let domain = self.domain_of(workload, number);
        let of = self.of_workload(workload);
        let on_node = of.on_node.entry(number).or_default();
        let before = *on_node;
        *on_node = change(before);
        let after = *on_node;
        if let Some(domain) = domain {
            let in_domain = of.in_domain.entry(domain).or_default();
            *in_domain = change(*in_domain);
        }
        if let Some(candidates) = &mut of.candidates {
            candidates.recount(number, domain, before, after);
        }
    }

    /// Returns the replicas that must leave a node for the others to fit, the least important ones first.
    pub(crate) fn surplus(&self, id: &NodeId) -> Vec<Replica> {
        let Some(on) = self.number(id).and_then(|number| self.nodes.get(number)) else {
            return Vec::new();
        };
        let residents = on.residents.iter();
        let used = residents.map(|(_, replica)| self.needs(replica));
        let mut used = used.fold(Resources::default(), Resources::plus);
        let mut surplus = Vec::new();
        for (_, replica) in &on.residents {
            if used.fits_in(on.node.capacity) {
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
        let priority = self.priority(replica);
        if let Some(on) = self.on(node) {
            on.residents.remove(&(priority, replica.clone()));
        }
        self.count(&replica.workload, node, |count| count.saturating_sub(1));
        self.becomes_free(replica, node);
    }

    /// Returns the best node for a replica: one with the fewest of its workload, in the domain with the fewest, with the most room.
    pub(crate) fn best(
        &mut self,
        replica: &Replica,
        desired: &Desired,
        is_avoided: impl Fn(&NodeId) -> bool,
    ) -> Result<NodeId, Wait> {
        let mut of = std::mem::take(self.of_workload(&replica.workload));
        let mut candidates = match of.candidates.take() {
            Some(candidates) => candidates,
            None => self.candidates(&replica.workload, &of, desired),
        };
        let is_suitable = |number: Number| {
            self.nodes.get(number).is_some_and(|on| {
                let taken = of.places.get(&number);
                let has_place = taken.is_none_or(|taken| !taken.contains(&place(replica)));
                has_place
                    && desired.needs.fits_in(on.left())
                    && !self.is_refused(&replica.workload, on.id)
                    && !is_avoided(on.id)
            })
        };
        let memory = |number: Number| {
            let on = self.nodes.get(number);
            on.map_or(0, |on| on.left().memory_bytes)
        };
        let best = candidates.best(
            &of.in_domain,
            desired.needs.memory_bytes,
            memory,
            is_suitable,
        );
        of.candidates = Some(candidates);
        let found = match best.and_then(|number| self.nodes.get(number)) {
            Some(on) => Ok(on.id.clone()),
            None => {
                // Of many replicas that wait, one look at all nodes says why.
                let known = of.none.take().filter(|(at, _)| *at == self.changes);
                let wait = match known {
                    Some((_, wait)) => wait,
                    None => self.why_none(&replica.workload, desired, is_avoided),
                };
                of.none = Some((self.changes, wait.clone()));
                Err(wait)
            }
        };
        *self.of_workload(&replica.workload) = of;
        found
    }

    /// Returns the nodes that a workload may use.
    fn candidates(
        &self,
        workload: &WorkloadName,
        of: &OfWorkload<'f>,
        desired: &Desired,
    ) -> Candidates<'f> {
        let nodes = self.nodes.iter().enumerate().filter(|(_, on)| {
            on.node.state == NodeState::Up && has_labels(&on.node.labels, &desired.requires)
        });
        let nodes = nodes.map(|(number, on)| {
            let count = of.on_node.get(&number).copied().unwrap_or_default();
            let domain = self.domain_of(workload, number);
            (number, domain, count, on.left().memory_bytes)
        });
        Candidates::of(nodes)
    }

    /// Returns why no node is suitable, by the first thing that each lacks.
    fn why_none(
        &self,
        workload: &WorkloadName,
        desired: &Desired,
        is_avoided: impl Fn(&NodeId) -> bool,
    ) -> Wait {
        let (mut down, mut unlike, mut refused, mut failed, mut full) = (0, 0, 0, 0, 0);
        for on in &self.nodes {
            if on.node.state != NodeState::Up {
                down += 1;
            } else if !has_labels(&on.node.labels, &desired.requires) {
                unlike += 1;
            } else if self.is_refused(workload, on.id) {
                refused += 1;
            } else if is_avoided(on.id) {
                failed += 1;
            } else {
                full += 1;
            }
        }
        Wait::NoNode {
            down,
            unlike,
            refused,
            failed,
            full,
        }
    }

    fn is_refused(&self, workload: &WorkloadName, id: &NodeId) -> bool {
        let refused = &self.fleet.refused;
        !refused.is_empty() && refused.contains(&(workload.clone(), id.clone()))
    }

    /// Returns the node on which room is made most cheaply, and the replicas of lower priority that must leave it: the least
    /// important ones, and the fewest. There are none where enough leave already.
    pub(crate) fn displaceable(
        &self,
        replica: &Replica,
        desired: &Desired,
        is_avoided: impl Fn(&NodeId) -> bool,
    ) -> Option<(NodeId, Vec<Replica>)> {
        let places = self.workloads.get(&replica.workload).map(|of| &of.places);
        let mut best: Option<((u8, usize), &NodeId, Vec<Replica>)> = None;
        for (number, on) in self.nodes.iter().enumerate() {
            let taken = places.and_then(|places| places.get(&number));
            let is_suitable = on.node.state == NodeState::Up
                && has_labels(&on.node.labels, &desired.requires)
                && taken.is_none_or(|taken| !taken.contains(&place(replica)))
                && !self.is_refused(&replica.workload, on.id)
                && !is_avoided(on.id);
            if !is_suitable {
                continue;
            }
            let (mut free, mut chosen, mut highest) = (on.left_soon(), Vec::new(), 0);
            for (priority, resident) in &on.residents {
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
                best = Some((cost, on.id, chosen));
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
