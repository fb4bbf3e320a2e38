//! The difference between what is and what a manifest wants, setting by
//! setting, and whether each change needs a restart. Planning an applied plan
//! yields nothing.

use crate::name::WorkloadName;
use crate::spec::{Manifest, WorkloadSpec};
use crate::units::{Bytes, Limit};
pub use enforcer_model::limits::MemoryNow;
pub use enforcer_model::plan::{Change, Effect, Plan, SettingChange};
use enforcer_model::settings::differences;
use std::collections::BTreeMap;

/// Returns the changes from one manifest to another.
#[must_use]
pub fn between(old: &Manifest, new: &Manifest) -> Plan {
    let mut plan = Plan {
        host: differences(&old.host, &new.host),
        workloads: BTreeMap::new(),
    };
    for (name, spec) in &new.workloads {
        match old.workloads.get(name) {
            None => drop(plan.workloads.insert(name.clone(), Change::Add)),
            Some(present) => {
                let changes = spec_changes(present, spec);
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

/// Returns the limits of memory that become lower than the memory in use: the kernel would reclaim,
/// and then kill. `ceiling` is the new limit of all workloads together. A limit that was in force
/// before does not count, even if more than that is in use.
#[must_use]
pub fn shrinks_below_use(
    new: &Manifest,
    ceiling: Option<Bytes>,
    now: &BTreeMap<Option<WorkloadName>, MemoryNow>,
) -> Vec<Shrink> {
    let of_workloads = new.workloads.iter().map(|(name, spec)| {
        let max = spec.limits.memory_max.and_then(Limit::at);
        (Some(name.clone()), max)
    });
    of_workloads
        .chain([(None, ceiling)])
        .filter_map(|(workload, max)| {
            let (max, now) = (max?, now.get(&workload)?);
            let is_lower = now.max.at().is_none_or(|before| max < before);
            (is_lower && now.used > max).then_some(Shrink {
                workload,
                in_use_bytes: now.used,
                memory_max_bytes: max,
            })
        })
        .collect()
}

/// Returns the changes between two versions of one workload.
#[must_use]
pub fn spec_changes(old: &WorkloadSpec, new: &WorkloadSpec) -> Vec<SettingChange> {
    differences(old, new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_limit_below_the_use_is_a_shrink_only_if_it_is_lower_than_before() {
        let name = WorkloadName::parse("web").expect("a name");
        let limited = |limit: u64| {
            let mut spec = WorkloadSpec::default();
            spec.limits.memory_max = Some(Limit::At(Bytes(limit)));
            let workloads = [(name.clone(), Arc::new(spec))].into();
            Manifest {
                workloads,
                ..Manifest::default()
            }
        };
        let shrinks = |limit, before, used| {
            let now = MemoryNow {
                max: before,
                used: Bytes(used),
            };
            let now = [(Some(name.clone()), now), (None, now)].into();
            let shrinks = shrinks_below_use(&limited(limit), Some(Bytes(limit)), &now);
            shrinks.len()
        };
        assert_eq!(shrinks(64, Limit::Max, 100), 2, "the workload and the host");
        assert_eq!(shrinks(64, Limit::At(Bytes(128)), 100), 2);
        assert_eq!(shrinks(64, Limit::At(Bytes(64)), 100), 0, "it is in force");
        assert_eq!(shrinks(100, Limit::Max, 100), 0, "it fits");
    }
}
