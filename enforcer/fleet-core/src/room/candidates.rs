//! The nodes that a workload may use, the best ones first.

use super::Number;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How good a node is within its domain; less is better. The workload's replicas on it, its free memory, and its number.
type Rank = (u32, Reverse<u64>, Number);

/// The nodes by failure domain. The free memory in a rank may be more than there is: other workloads take some, and it is put right when the
/// node's turn comes.
#[derive(Debug, Default)]
pub(super) struct Candidates<'f> {
    domains: BTreeMap<Option<&'f str>, BTreeSet<Rank>>,
    /// The free memory that each node's rank has.
    ranked: BTreeMap<Number, u64>,
}

impl<'f> Candidates<'f> {
    /// Takes nodes with their domains, the workload's replicas on them, and their free memory.
    pub(super) fn of(nodes: impl Iterator<Item = (Number, Option<&'f str>, u32, u64)>) -> Self {
        let mut all = Self::default();
        for (number, domain, count, memory) in nodes {
            let ranks = all.domains.entry(domain).or_default();
            ranks.insert((count, Reverse(memory), number));
            all.ranked.insert(number, memory);
        }
        all
    }

    /// Takes another number of the workload's replicas on a node.
    pub(super) fn recount(
        &mut self,
        number: Number,
        domain: Option<&'f str>,
        before: u32,
        after: u32,
    ) {
        let Some(memory) = self.ranked.get(&number).copied() else {
            return;
        };
        if let Some(ranks) = self.domains.get_mut(&domain)
            && ranks.remove(&(before, Reverse(memory), number))
        {
            ranks.insert((after, Reverse(memory), number));
        }
    }

    /// Returns the best node that is suitable. `needed` is the memory that it must have, and `memory` what it has.
    pub(super) fn best(
        &mut self,
        in_domain: &BTreeMap<&'f str, u32>,
        needed: u64,
        memory: impl Fn(Number) -> u64,
        is_suitable: impl Fn(Number) -> bool,
    ) -> Option<Number> {
        let count_of = |domain: &Option<&str>| {
            let count = domain.and_then(|domain| in_domain.get(domain));
            count.copied().unwrap_or_default()
        };
        let mut order: Vec<(u32, Option<&'f str>)> = (self.domains.keys())
            .map(|domain| (count_of(domain), *domain))
            .collect();
        order.sort_unstable();
        let mut best: Option<(u32, Rank)> = None;
        for (count, domain) in order {
            // Those of a domain with more replicas are worse, whatever else they have.
            if best.is_some_and(|(of, _)| of < count) {
                break;
            }
            let Some(ranks) = self.domains.get_mut(&domain) else {
                continue;
            };
            let found = first(ranks, &mut self.ranked, needed, &memory, &is_suitable);
            if let Some(rank) = found
                && best.is_none_or(|(_, other)| rank < other)
            {
                best = Some((count, rank));
            }
        }
        best.map(|(_, (.., number))| number)
    }
}

/// Returns the first suitable node of a domain.
fn first(
    ranks: &mut BTreeSet<Rank>,
    ranked: &mut BTreeMap<Number, u64>,
    needed: u64,
    memory: impl Fn(Number) -> u64,
    is_suitable: impl Fn(Number) -> bool,
) -> Option<Rank> {
    let mut from: Rank = (0, Reverse(u64::MAX), 0);
    loop {
        let rank = *ranks.range(from..).next()?;
        let (count, Reverse(was), number) = rank;
        let is = memory(number);
        if is != was {
            ranks.remove(&rank);
            ranks.insert((count, Reverse(is), number));
            ranked.insert(number, is);
            // It has less now, so its turn is later; with more, it would be its turn now.
            from = from.min((count, Reverse(is), number));
            continue;
        }
        if is_suitable(number) {
            return Some(rank);
        }
        from = match is < needed {
            // Nor have the others with so many replicas enough.
            true => (count.saturating_add(1), Reverse(u64::MAX), 0),
            false => (count, Reverse(was), number.saturating_add(1)),
        };
    }
}
