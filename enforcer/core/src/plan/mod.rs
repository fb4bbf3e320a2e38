//! The difference between what is and what a manifest wants, setting by
//! setting, and whether each change needs a restart. Planning an applied plan
//! yields nothing.

mod settings;

use crate::name::WorkloadName;
use crate::spec::{Manifest, Mode, WorkloadSpec};
use crate::units::{Bytes, Limit};
pub use enforcer_model::limits::MemoryNow;
pub use enforcer_model::plan::{Change, Effect, Plan, SettingChange};
use settings::{alert_settings, limit_settings, settings, shown_disk, shown_threshold};
use std::collections::BTreeMap;

/// Returns the changes from one manifest to another.
#[must_use]
pub fn between(old: &Manifest, new: &Manifest) -> Plan {
    let mut plan = Plan {
        host: host_changes(old, new),
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
    difference(&settings(old), &settings(new))
}

fn host_changes(old: &Manifest, new: &Manifest) -> Vec<SettingChange> {
    let settings = |manifest: &Manifest| {
        let mut settings = limit_settings(&manifest.host.limits);
        if manifest.host.mode != Mode::default() {
            settings.insert("mode".to_owned(), "observe".to_owned().into());
        }
        let reserve = manifest.host.reserve;
        if let Some(starts) = manifest.host.starts_at_once {
            settings.insert("starts_at_once".to_owned(), starts.to_string().into());
        }
        let watch = &manifest.host.watch;
        let disk = watch.disk.as_ref();
        for (key, watch) in [
            (
                "watch.memory",
                watch.memory.map(|watch| shown_threshold(&watch)),
            ),
            ("watch.cpu", watch.cpu.map(|watch| shown_threshold(&watch))),
            ("watch.disk", disk.map(shown_disk)),
        ] {
            settings.extend(watch.map(|watch| (key.to_owned(), watch.into())));
        }
        for (key, portion) in [
            ("reserve.memory", reserve.memory),
            ("reserve.swap", reserve.swap),
        ] {
            if let Some(portion) = portion {
                settings.insert(key.to_owned(), format!("{portion:?}").into());
            }
        }
        settings.extend(alert_settings(&manifest.host.alerts));
        settings
    };
    difference(&settings(old), &settings(new))
}

type Settings = BTreeMap<String, Setting>;

/// The value of a setting. What may be a secret is compared and never shown: not its length,
/// and no digest, which a dictionary would turn back into a short secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    shown: String,
    hidden: String,
}

impl Setting {
    fn secret(shown: &str, hidden: String) -> Self {
        Self {
            shown: shown.to_owned(),
            hidden,
        }
    }
}

impl From<String> for Setting {
    fn from(shown: String) -> Self {
        let hidden = String::new();
        Self { shown, hidden }
    }
}

fn difference(old: &Settings, new: &Settings) -> Vec<SettingChange> {
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let shown = |settings: &Settings| settings.get(key).map(|value| value.shown.clone());
            let (from, mut to) = (shown(old), shown(new));
            if from == to
                && let Some(text) = &mut to
            {
                text.push_str(" (changed)");
            }
            SettingChange {
                setting: key.clone(),
                from,
                to,
                effect: effect(key),
            }
        })
        .collect()
}

fn effect(setting: &str) -> Effect {
    const LIVE: [&str; 14] = [
        "alerts.",
        "cgroup.",
        "recovery.",
        "stop.",
        "reserve.",
        "logs.max_size",
        "logs.keep",
        "commands.",
        "watch.",
        "probes.",
        "needs",
        "on_",
        "starts_at_once",
        "start_timeout",
    ];
    let live = setting == "mode" || LIVE.iter().any(|prefix| setting.starts_with(prefix));
    if live { Effect::Live } else { Effect::Restart }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Check, Probe, ProbeName};
    use std::sync::Arc;

    fn spec(secret: &str) -> WorkloadSpec {
        let headers = [("authorization".to_owned(), secret.to_owned())].into();
        let check = Check::Http {
            host: "127.0.0.1".to_owned(),
            port: 80,
            path: "/".to_owned(),
            headers,
        };
        WorkloadSpec {
            environment: [("TOKEN".to_owned(), secret.to_owned())].into(),
            probes: [(ProbeName::Liveness, Probe::of(check))].into(),
            ..WorkloadSpec::default()
        }
    }

    #[test]
    fn a_changed_secret_is_a_change_that_shows_nothing_of_it() {
        let changes = spec_changes(&spec("hunter2"), &spec("hunter3"));
        let settings: Vec<&str> = changes
            .iter()
            .map(|change| change.setting.as_str())
            .collect();
        assert_eq!(settings, ["environment.TOKEN", "probes.liveness"]);
        let told = format!("{changes:?}");
        assert!(!told.contains("hunter"), "{told}");
        assert_eq!(
            changes[0].to.as_deref(),
            Some("a value that is not shown (changed)")
        );
        // The text is the same for every secret, so it reveals nothing.
        let other = spec_changes(&spec("a"), &spec("correct horse battery staple"));
        assert_eq!(changes, other);
        assert!(spec_changes(&spec("same"), &spec("same")).is_empty());
    }

    #[test]
    fn a_limit_below_the_use_is_a_shrink_only_if_it_is_lower_than_before() {
        let name = WorkloadName::parse("web").expect("a name");
        let limited = |limit: u64| {
            let mut spec = spec("");
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

    #[test]
    fn root_without_any_capability_differs_from_root_with_all() {
        let listed = WorkloadSpec {
            capabilities_listed: true,
            ..WorkloadSpec::default()
        };
        let changes = spec_changes(&WorkloadSpec::default(), &listed);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].to.as_deref(), Some("none"));
        assert_eq!(changes[0].effect, Effect::Restart);
    }
}
