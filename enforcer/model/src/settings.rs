//! The comparison of two versions of a manifest's section, setting by setting. The section's type
//! derives it, so a new field cannot be forgotten; the derive macro has the attributes as a table.
//!
//! ```text
//! probes.liveness.http.path   /ready → /health   (live)
//! environment.TOKEN           (not shown) → (changed)   (restart)
//! ```

use crate::name::WorkloadName;
use crate::plan::{Effect, SettingChange};
use crate::units::{Bytes, CpuQuota, CpuWeight, Limit, Percent, human_duration};
pub use enforcer_model_derive::Setting;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// The text of a value that may be a secret. It is the same for every value, so that it reveals
/// nothing: not a length, and no digest, which a dictionary would turn back into a short secret.
const NOT_SHOWN: &str = "(not shown)";
/// The mark of a change that the texts of the values do not show.
const CHANGED: &str = "(changed)";

/// A value of a manifest that can be compared and shown.
pub trait Setting: PartialEq + Sized {
    /// The separator between the values of a list.
    const SEPARATOR: &'static str = ", ";

    /// Returns the value as the manifest writes it; `None` if the manifest would not have it.
    fn text(&self) -> Option<String>;

    /// Adds the settings in which two values differ.
    fn compare(old: &Self, new: &Self, at: &Place, changes: &mut Vec<SettingChange>) {
        at.compare_whole(old, new, changes);
    }
}

/// The place of a setting in the manifest, and what is known about every setting there.
#[derive(Clone, Debug)]
pub struct Place {
    key: String,
    effect: Effect,
    is_secret: bool,
    unset: Option<&'static str>,
    unit: &'static str,
}

impl Place {
    /// Returns the place of a whole section. Its settings have no key in front of their own.
    #[must_use]
    pub fn root() -> Self {
        Self {
            key: String::new(),
            effect: Effect::Restart,
            is_secret: false,
            unset: None,
            unit: "",
        }
    }

    /// Returns the place of a key inside this one.
    pub(crate) fn field(&self, key: &str) -> Self {
        let separator = if self.key.is_empty() || key.is_empty() {
            ""
        } else {
            "."
        };
        Self {
            key: format!("{}{separator}{key}", self.key),
            unset: None,
            unit: "",
            ..self.clone()
        }
    }

    pub(crate) fn live(mut self) -> Self {
        self.effect = Effect::Live;
        self
    }

    pub(crate) fn restart(mut self) -> Self {
        self.effect = Effect::Restart;
        self
    }

    pub(crate) fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    pub(crate) fn unset(mut self, text: &'static str) -> Self {
        self.unset = Some(text);
        self
    }

    pub(crate) fn unit(mut self, text: &'static str) -> Self {
        self.unit = text;
        self
    }

    /// Returns the text of a value at this place.
    fn shown(&self, text: Option<String>) -> Option<String> {
        match text {
            Some(_) if self.is_secret => Some(NOT_SHOWN.to_owned()),
            Some(text) => Some(text + self.unit),
            None => self.unset.map(str::to_owned),
        }
    }

    /// Adds a change if the values differ.
    pub(crate) fn compare_whole<T: Setting>(
        &self,
        old: &T,
        new: &T,
        changes: &mut Vec<SettingChange>,
    ) {
        if old != new {
            changes.push(self.change(old.text(), new.text()));
        }
    }

    fn change(&self, old: Option<String>, new: Option<String>) -> SettingChange {
        let (from, mut to) = (self.shown(old), self.shown(new));
        if from == to {
            to = Some(match to {
                Some(text) if !self.is_secret => format!("{text} {CHANGED}"),
                _ => CHANGED.to_owned(),
            });
        }
        SettingChange {
            setting: self.key.clone(),
            from,
            to,
            effect: self.effect,
        }
    }
}

/// The text of a section, put together from its fields.
#[derive(Debug, Default)]
pub(crate) struct SectionText {
    name: Option<&'static str>,
    parts: Vec<String>,
}

impl SectionText {
    pub(crate) fn of(name: &'static str) -> Self {
        Self {
            name: Some(name),
            parts: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, at: &Place, value: &impl Setting) {
        if let Some(text) = at.shown(value.text()) {
            let separator = if at.key.is_empty() { "" } else { " " };
            self.parts.push(format!("{}{separator}{text}", at.key));
        }
    }

    pub(crate) fn finish(self) -> Option<String> {
        let parts = self.parts.join(", ");
        match self.name {
            Some(name) if parts.is_empty() => Some(name.to_owned()),
            Some(name) => Some(format!("{name}: {parts}")),
            None => (!parts.is_empty()).then_some(parts),
        }
    }
}

/// Implements [`Setting`] for types whose text is what they display.
macro_rules! displayed {
    ($($Type:ty),+ $(,)?) => {
        $(impl $crate::settings::Setting for $Type {
            fn text(&self) -> Option<String> {
                Some(self.to_string())
            }
        })+
    };
}

pub(crate) use displayed;

displayed!(
    bool,
    u8,
    u16,
    u32,
    u64,
    i32,
    f64,
    Bytes,
    CpuQuota,
    CpuWeight,
    Percent,
    WorkloadName,
);

/// Implements [`Setting`] for closed sets of words that have `as_str`.
macro_rules! words_are_settings {
    ($($Type:ty),+ $(,)?) => {
        $(impl $crate::settings::Setting for $Type {
            fn text(&self) -> Option<String> {
                Some(self.as_str().to_owned())
            }
        })+
    };
}

pub(crate) use words_are_settings;

/// Words are written as a shell would read them again.
impl Setting for String {
    const SEPARATOR: &'static str = " ";

    fn text(&self) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
        Some(match self.is_empty() || !self.bytes().all(plain) {
            true => format!("'{}'", self.replace('\'', "'\\''")),
            false => self.clone(),
        })
    }
}

impl Setting for Duration {
    fn text(&self) -> Option<String> {
        Some(human_duration(*self))
    }
}

impl<T: Display + PartialEq> Setting for Limit<T> {
    fn text(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl<T: Setting> Setting for Option<T> {
    fn text(&self) -> Option<String> {
        self.as_ref().and_then(Setting::text)
    }

    fn compare(old: &Self, new: &Self, at: &Place, changes: &mut Vec<SettingChange>) {
        match (old, new) {
            (Some(old), Some(new)) => T::compare(old, new, at, changes),
            (old, new) => at.compare_whole(old, new, changes),
        }
    }
}

impl<T: Setting> Setting for Arc<T> {
    fn text(&self) -> Option<String> {
        (**self).text()
    }

    fn compare(old: &Self, new: &Self, at: &Place, changes: &mut Vec<SettingChange>) {
        if !Arc::ptr_eq(old, new) {
            T::compare(old, new, at, changes);
        }
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn text(&self) -> Option<String> {
        joined(self)
    }
}

impl<T: Setting + Ord> Setting for BTreeSet<T> {
    fn text(&self) -> Option<String> {
        joined(self)
    }
}

fn joined<'a, T: Setting + 'a>(values: impl IntoIterator<Item = &'a T>) -> Option<String> {
    let texts: Vec<String> = values.into_iter().filter_map(Setting::text).collect();
    (!texts.is_empty()).then(|| texts.join(T::SEPARATOR))
}

/// Each key of a map is a setting of its own.
impl<K: Ord + Display, V: Setting> Setting for BTreeMap<K, V> {
    fn text(&self) -> Option<String> {
        let entry = |(key, value): (&K, &V)| Some(format!("{key} {}", value.text()?));
        let texts: Vec<String> = self.iter().filter_map(entry).collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }

    fn compare(old: &Self, new: &Self, at: &Place, changes: &mut Vec<SettingChange>) {
        let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let at = at.field(&key.to_string());
            match (old.get(key), new.get(key)) {
                (Some(old), Some(new)) => V::compare(old, new, &at, changes),
                (old, new) => {
                    changes.push(at.change(old.and_then(V::text), new.and_then(V::text)));
                }
            }
        }
    }
}

/// Returns the settings in which two values differ, in the order of their keys.
#[must_use]
pub fn differences<T: Setting>(old: &T, new: &T) -> Vec<SettingChange> {
    let mut changes = Vec::new();
    T::compare(old, new, &Place::root(), &mut changes);
    changes.sort_by(|one, other| one.setting.cmp(&other.setting));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentence::of_setting;
    use crate::spec::{
        Alerts, Check, Host, Listed, LogTarget, Portion, Probe, ProbeName, Reserve, Rule, Severity,
        Strategy, Target, Threshold, When, WorkloadSpec,
    };
    use expect_test::{Expect, expect};

    fn check<T: Setting>(old: &T, new: &T, expected: &Expect) {
        let mut text = String::new();
        for change in differences(old, new) {
            text += &of_setting(&change);
            text += "\n";
        }
        expected.assert_eq(&text);
        assert!(differences(old, old).is_empty() && differences(new, new).is_empty());
    }

    fn http(path: &str, secret: &str) -> Probe {
        Probe::of(Check::Http {
            host: "127.0.0.1".to_owned(),
            port: Some(80),
            unix: None,
            path: path.to_owned(),
            headers: [("authorization".to_owned(), secret.to_owned())].into(),
        })
    }

    fn with_secret(secret: &str) -> WorkloadSpec {
        WorkloadSpec {
            environment: [("TOKEN".to_owned(), secret.to_owned())].into(),
            probes: [(ProbeName::Liveness, http("/", secret))].into(),
            ..WorkloadSpec::default()
        }
    }

    #[test]
    fn a_change_names_the_manifests_key_and_its_cost() {
        let old = WorkloadSpec {
            command: vec!["/bin/a".to_owned(), "two words".to_owned()],
            probes: [(ProbeName::Liveness, http("/ready", ""))].into(),
            ..WorkloadSpec::default()
        };
        let mut new = WorkloadSpec {
            command: vec!["/bin/b".to_owned()],
            probes: [
                (ProbeName::Liveness, http("/health", "")),
                (ProbeName::Readiness, http("/", "hunter2")),
            ]
            .into(),
            needs: [(
                WorkloadName::parse("db").expect("a name"),
                crate::spec::Need::Ready,
            )]
            .into(),
            ..old.clone()
        };
        new.limits.memory_max = Some(Limit::At(Bytes(64 << 20)));
        new.limits.cpu_max_burst = Some(40_000);
        new.watch.cpu_loop = None;
        new.watch.memory = Some(Threshold {
            hold: Duration::from_secs(5),
            ..Threshold::MEMORY
        });
        new.recovery.strategies.default = vec![
            Strategy::Restart,
            Strategy::Run(vec!["/bin/fix".to_owned(), "all".to_owned()]),
        ];
        new.recovery.budget.as_mut().expect("a budget").restarts = 9;
        new.logs.keep = 7;
        new.logs.to = LogTarget::Journal;
        new.commands.memory_max = Limit::Max;
        check(
            &old,
            &new,
            &expect![[r#"
                cgroup.cpu.max.burst default → 40000us (live)
                cgroup.memory.max default → 64M (live)
                command /bin/a 'two words' → /bin/b (restart)
                commands.memory.max 128M → max (live)
                logs.keep 3 → 7 (live)
                logs.to file → journal (restart)
                needs.db default → ready (live)
                probes.liveness.http.path /ready → /health (live)
                probes.readiness default → http: host 127.0.0.1, port 80, path /, headers (not shown), initial_delay 0s, period 10s, timeout 1s, failure_threshold 3, success_threshold 1 (live)
                recovery.budget.restarts 5 → 9 (live)
                recovery.strategy default → restart, run /bin/fix all (live)
                watch.cpu_loop after 10s, respond demote, step 5s, assume_loop false → off (live)
                watch.memory.for 1m → 5s (live)
            "#]],
        );
    }

    #[test]
    fn a_changed_secret_is_a_change_that_shows_nothing_of_it() {
        check(
            &with_secret("hunter2"),
            &with_secret("hunter3"),
            &expect![[r#"
                environment.TOKEN (not shown) → (changed) (restart)
                probes.liveness.http.headers.authorization (not shown) → (changed) (live)
            "#]],
        );
        // The text is the same for every secret, so it reveals nothing.
        assert_eq!(
            differences(&with_secret("hunter2"), &with_secret("hunter3")),
            differences(
                &with_secret("a"),
                &with_secret("correct horse battery staple")
            )
        );
        check(
            &WorkloadSpec::default(),
            &with_secret("hunter2"),
            &expect![[r#"
                environment.TOKEN default → (not shown) (restart)
                probes.liveness default → http: host 127.0.0.1, port 80, path /, headers (not shown), initial_delay 0s, period 10s, timeout 1s, failure_threshold 3, success_threshold 1 (live)
            "#]],
        );
    }

    #[test]
    fn the_settings_of_the_host_show_no_secret_of_a_target() {
        let hook = |path: &str| Target::Webhook {
            tls: false,
            host: "hooks".to_owned(),
            port: 80,
            preset: None,
            routing_key: None,
            ca_file: None,
            path: path.to_owned(),
            headers: BTreeMap::new(),
        };
        let host = |path: &str, share| {
            let rule = Rule {
                when: When::Memory(Percent(share)),
                held: Duration::from_secs(60),
                severity: Severity::Warning,
                workloads: None,
                to: None,
            };
            Host {
                alerts: Arc::new(Alerts {
                    targets: [("pager".to_owned(), hook(path))].into(),
                    rules: [("full".to_owned(), rule)].into(),
                    ..Alerts::default()
                }),
                ..Host::default()
            }
        };
        check(
            &host("/?key=hunter2", 80),
            &host("/?key=hunter3", 90),
            &expect![[r#"
                alerts.rules.full memory 80% → memory 90% (live)
                alerts.targets.pager.webhook.path (not shown) → (changed) (live)
            "#]],
        );
        check(
            &Host::default(),
            &host("/?key=hunter2", 80),
            &expect![[r#"
                alerts.rules.full default → memory 80%, for 1m, severity warning (live)
                alerts.targets.pager default → webhook: tls false, host hooks, port 80, path (not shown) (live)
            "#]],
        );
    }

    #[test]
    fn a_reserve_is_shown_as_the_manifest_writes_it() {
        let host = |portion| Host {
            reserve: Reserve {
                memory: Some(portion),
                swap: None,
            },
            ..Host::default()
        };
        check(
            &host(Portion::Amount(Bytes(1 << 30))),
            &host(Portion::Share(Percent(10))),
            &expect![[r#"
                reserve.memory 1G → 10% (live)
            "#]],
        );
    }

    #[test]
    fn a_change_that_the_texts_do_not_show_is_marked() {
        let spec = |millis| WorkloadSpec {
            start_timeout: Duration::from_millis(millis),
            ..WorkloadSpec::default()
        };
        check(
            &spec(100_001),
            &spec(100_002),
            &expect![[r#"
                start_timeout 1m40s → 1m40s (changed) (live)
            "#]],
        );
    }

    #[test]
    fn root_without_any_capability_differs_from_root_with_all() {
        let listed = WorkloadSpec {
            capabilities_listed: Listed(true),
            ..WorkloadSpec::default()
        };
        check(
            &WorkloadSpec::default(),
            &listed,
            &expect![[r#"
                capabilities default → none but those listed (restart)
            "#]],
        );
    }
}
