//! The difference between what is and what a manifest wants, setting by
//! setting, and whether each change needs a restart. Planning an applied plan
//! yields nothing.

use crate::name::WorkloadName;
use crate::spec::{Host, Manifest, WorkloadSpec};
use crate::units::{Bytes, Limit};
pub use enforcer_model::plan::{Change, Effect, Plan, SettingChange};
use enforcer_model::settings::differences;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Returns the changes from one manifest to another.
#[must_use]
pub fn between(old: &Manifest, new: &Manifest) -> Plan {
    let mut plan = Plan {
        host: differences(&*old.host, &*new.host),
        workloads: BTreeMap::new(),
        rolled_back: BTreeSet::new(),
    };
    for (name, spec) in &new.workloads {
        match old.workloads.get(name) {
            None => drop(plan.workloads.insert(name.clone(), Change::Add)),
            Some(present) => {
                let changes = differences(present, spec);
                if !changes.is_empty() {
                    plan.workloads.insert(name.clone(), Change::Update(changes));
                }
            }
        }
    }
    for name in old.workloads.keys() {
        if !new.workloads.contains_key(name) {
            plan.workloads.insert(name.clone(), Change::Remove);
        }
    }
    plan
}

/// A limit that is lower than the memory in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrink {
    /// `None` for the limit of all workloads together.
    pub workload: Option<WorkloadName>,
    pub in_use_bytes: Bytes,
    pub memory_max_bytes: Bytes,
}

/// Returns the limits of memory that a new manifest lowers below the memory in use: the kernel would
/// reclaim, and then kill. `ceiling` gives the limit of all workloads together, and `used` the memory
/// of each and of all (`None`). A limit that is in force already does not count, even if more than
/// that is in use, or if the kernel is still reclaiming for it.
#[must_use]
pub fn shrinks_below_use(
    old: &Manifest,
    new: &Manifest,
    ceiling: impl Fn(&Host) -> Option<Bytes>,
    used: &BTreeMap<Option<WorkloadName>, Bytes>,
) -> Vec<Shrink> {
    let memory_max = |spec: &Arc<WorkloadSpec>| spec.limits.memory_max.and_then(Limit::at);
    let of_workloads = new.workloads.iter().map(|(name, spec)| {
        let before = old.workloads.get(name).and_then(memory_max);
        (Some(name.clone()), before, memory_max(spec))
    });
    let of_host = (None, ceiling(&old.host), ceiling(&new.host));
    of_workloads
        .chain([of_host])
        .filter_map(|(workload, before, max)| {
            let (max, used) = (max?, *used.get(&workload)?);
            let is_lower = before.is_none_or(|before| max < before);
            (is_lower && used > max).then_some(Shrink {
                workload,
                in_use_bytes: used,
                memory_max_bytes: max,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_the_use_is_a_shrink_only_if_it_is_lower_than_before() {
        let name = WorkloadName::parse("web").expect("a name");
        let limited = |max: Option<u64>| {
            let mut spec = WorkloadSpec::default();
            spec.limits.memory_max = max.map(|max| Limit::At(Bytes(max)));
            let mut manifest = Manifest::default();
            manifest.host.limits.memory_max = spec.limits.memory_max;
            manifest.workloads.insert(name.clone(), Arc::new(spec));
            manifest
        };
        let ceiling = |host: &Host| host.limits.memory_max.and_then(Limit::at);
        let used = [(Some(name.clone()), Bytes(100)), (None, Bytes(100))].into();
        let shrinks = |old: &Manifest, new| {
            let shrinks = shrinks_below_use(old, &limited(new), ceiling, &used);
            shrinks.len()
        };
        assert_eq!(shrinks(&limited(None), Some(64)), 2, "workload and host");
        assert_eq!(shrinks(&limited(Some(128)), Some(64)), 2);
        assert_eq!(shrinks(&limited(Some(64)), Some(64)), 0, "it is in force");
        assert_eq!(shrinks(&limited(None), Some(100)), 0, "it fits");
        assert_eq!(
            shrinks(&Manifest::default(), Some(64)),
            2,
            "it was unmanaged"
        );
    }
}
