//! The limits that the owner of an attached service sets for enforcer. What the service had before is kept, and the owner is asked
//! for it again when the manifest wants no limit any more.

use crate::limits::{Limits, is_in_effect};
use crate::spec::Attach;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values by the names of the kernel's files. The weight of an idle cgroup is `idle`.
pub type Values = BTreeMap<String, String>;

/// A limit that the owner was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    /// The value of the service's own.
    before: String,
    now: String,
}

/// The limits that the owner of a service was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerLimits {
    pub service: Attach,
    asked: BTreeMap<String, Asked>,
}

/// Returns the values that limits ask for.
#[must_use]
pub fn asked_values(limits: &Limits) -> Values {
    let asked = limits.files().into_iter().filter(|entry| entry.asked);
    let value = |file: &str, value| match file {
        "cpu.idle" => ("cpu.weight".to_owned(), "idle".to_owned()),
        _ => (file.to_owned(), value),
    };
    asked.map(|entry| value(entry.file, entry.value)).collect()
}

/// Returns the value of a file that the kernel does not have, because the owner uses no limit of its controller.
#[must_use]
pub fn default_of(file: &str) -> String {
    let all = Limits::default().files();
    let default = all.into_iter().find(|entry| entry.file == file);
    default.map_or_else(String::new, |entry| entry.value)
}

/// A quota of more hundredths of a percent is none: 10,000 CPUs.
const UNBOUND: u64 = 100_000_000;

/// Returns whether the kernel has what the owner was asked for. systemd takes a quota in hundredths of a percent, and
/// Podman gives a vast one where there was none.
#[must_use]
pub fn is_set(file: &str, asked: &str, present: &str) -> bool {
    let hundredths = |text: &str| -> Option<u64> {
        let (time, period) = text.trim().split_once(' ')?;
        let (time, period): (u64, u64) = (time.parse().ok()?, period.parse().ok()?);
        let share = time.checked_mul(10_000)?.checked_div(period)?;
        (share < UNBOUND).then_some(share)
    };
    let quotas = (hundredths(asked), hundredths(present));
    match (file, quotas) {
        ("cpu.max", (Some(asked), Some(present))) => asked.abs_diff(present) <= 1,
        // The period of no quota says nothing.
        ("cpu.max", (None, None)) => true,
        _ => is_in_effect(file, asked, present),
    }
}

impl OwnerLimits {
    #[must_use]
    pub fn new(service: Attach) -> Self {
        Self {
            service,
            asked: BTreeMap::new(),
        }
    }

    /// Returns whether there is nothing to give back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Returns the files whose values matter: those that are wanted, and those that were.
    #[must_use]
    pub fn files(&self, wanted: &Values) -> Vec<String> {
        let mut files: Vec<String> = wanted.keys().chain(self.asked.keys()).cloned().collect();
        files.sort();
        files.dedup();
        files
    }

    /// Returns what the owner has to be asked for, and notes what the service has had before. `present` has no values if the
    /// service does not run.
    pub fn change(&mut self, wanted: &Values, present: &Values) -> Values {
        let mut change = Values::new();
        for (file, value) in wanted {
            let found = present.get(file);
            let is_there = found.is_some_and(|found| is_set(file, value, found));
            match (self.asked.get_mut(file), found) {
                (Some(asked), found) => {
                    // Another one has set it meanwhile, so that is the service's own value now.
                    let other = found.filter(|found| !is_set(file, &asked.now, found));
                    if let Some(other) = other.filter(|_| !is_there) {
                        asked.before.clone_from(other);
                    }
                    asked.now.clone_from(value);
                }
                (None, Some(found)) if !is_there => {
                    let asked = Asked {
                        before: found.clone(),
                        now: value.clone(),
                    };
                    self.asked.insert(file.clone(), asked);
                }
                (None, _) => {}
            }
            if found.is_some() && !is_there {
                change.insert(file.clone(), value.clone());
            }
        }
        for (file, asked) in &self.asked {
            if wanted.contains_key(file) {
                continue;
            }
            let found = present.get(file);
            if found.is_none_or(|found| is_set(file, &asked.now, found)) {
                change.insert(file.clone(), asked.before.clone());
            }
        }
        change
    }

    /// Forgets what is no longer wanted: it was given back.
    pub fn keep(&mut self, wanted: &Values) {
        self.asked.retain(|file, _| wanted.contains_key(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Bytes, CpuWeight, Limit};

    fn values(all: &[(&str, &str)]) -> Values {
        let all = all.iter();
        all.map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn owner() -> OwnerLimits {
        OwnerLimits::new(Attach::Systemd("shop.service".to_owned()))
    }

    #[test]
    fn what_was_before_is_given_back() {
        let mut owner = owner();
        let wanted = values(&[("memory.max", "52428800"), ("cpu.weight", "10")]);
        let before = values(&[("memory.max", "max"), ("cpu.weight", "100")]);
        assert_eq!(owner.change(&wanted, &before), wanted);
        owner.keep(&wanted);
        // Nothing is asked twice.
        assert_eq!(owner.change(&wanted, &wanted), Values::new());
        // Another value, and then none.
        let other = values(&[("memory.max", "62914560")]);
        let asked = owner.change(&other, &wanted);
        assert_eq!(
            asked,
            values(&[("memory.max", "62914560"), ("cpu.weight", "100")])
        );
        owner.keep(&other);
        assert_eq!(
            owner.change(&Values::new(), &other),
            values(&[("memory.max", "max")])
        );
        owner.keep(&Values::new());
        assert!(owner.is_empty());
    }

    #[test]
    fn what_another_one_has_set_is_not_taken_back() {
        let mut owner = owner();
        let wanted = values(&[("memory.max", "52428800")]);
        owner.change(&wanted, &values(&[("memory.max", "max")]));
        let theirs = values(&[("memory.max", "31457280")]);
        assert_eq!(owner.clone().change(&Values::new(), &theirs), Values::new());
        // While it is wanted, it is asked for once more, and theirs is the value to give back.
        assert_eq!(owner.change(&wanted, &theirs), wanted);
        assert_eq!(owner.change(&Values::new(), &wanted), theirs);
    }

    #[test]
    fn a_value_of_the_services_own_is_not_ours_to_take_back() {
        let mut owner = owner();
        let wanted = values(&[("memory.max", "52428800")]);
        assert_eq!(owner.change(&wanted, &wanted), Values::new());
        assert_eq!(owner.change(&Values::new(), &wanted), Values::new());
    }

    #[test]
    fn a_service_that_does_not_run_gets_back_what_it_had() {
        let mut owner = owner();
        let wanted = values(&[("pids.max", "10")]);
        assert_eq!(owner.change(&wanted, &Values::new()), Values::new());
        assert!(owner.is_empty(), "nobody knows what it has");
        owner.change(&wanted, &values(&[("pids.max", "4096")]));
        assert_eq!(
            owner.change(&Values::new(), &Values::new()),
            values(&[("pids.max", "4096")])
        );
    }

    #[test]
    fn values_are_compared_as_their_owner_takes_them() {
        assert!(is_set("cpu.max", "33333 100000", "33330 100000"));
        assert!(!is_set("cpu.max", "33333 100000", "33000 100000"));
        assert!(is_set("cpu.max", "max 100000", "max 50000"));
        assert!(!is_set("cpu.max", "max 100000", "50000 100000"));
        assert!(is_set("cpu.max", "max 100000", "1000000000000 100000"));
        assert!(is_set("memory.max", "52428801", "52428800"));
        assert_eq!(default_of("cpu.max"), "max 100000");
        let limits = Limits {
            cpu_weight: Some(CpuWeight::Idle),
            memory_max: Some(Limit::At(Bytes(4096))),
            ..Limits::default()
        };
        assert_eq!(
            asked_values(&limits),
            values(&[("cpu.weight", "idle"), ("memory.max", "4096")])
        );
    }
}
