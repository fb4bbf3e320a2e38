//! One service on its way into a workload.

use super::text::Setting;
use super::{command, exec, limits, recovery, sandbox};
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;
use crate::{Line, Verdict};
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Unit<'u> {
    name: &'u str,
    names: &'u BTreeSet<&'u str>,
    /// Those of them that do their work and end.
    jobs: &'u BTreeSet<&'u str>,
    pub(super) workload: String,
    pub(super) draft: Yaml,
    pub(super) report: Vec<Line>,
    /// The value of each key that has one, and of each that has a list.
    pub(super) values: BTreeMap<String, Vec<String>>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) has_sandbox: bool,
}

/// Keys whose assignments add to a list. An empty one begins it anew.
const LISTS: &[&str] = &[
    "After",
    "AmbientCapabilities",
    "Before",
    "BindPaths",
    "BindReadOnlyPaths",
    "BindsTo",
    "CacheDirectory",
    "CapabilityBoundingSet",
    "ConfigurationDirectory",
    "Documentation",
    "Environment",
    "EnvironmentFile",
    "ExecPaths",
    "ExecReload",
    "ExecStart",
    "ExecStartPost",
    "ExecStartPre",
    "ExecStop",
    "ExecStopPost",
    "IOReadBandwidthMax",
    "IOReadIOPSMax",
    "IOWriteBandwidthMax",
    "IOWriteIOPSMax",
    "InaccessiblePaths",
    "LoadCredential",
    "LogsDirectory",
    "PartOf",
    "ReadOnlyDirectories",
    "ReadOnlyPaths",
    "ReadWriteDirectories",
    "ReadWritePaths",
    "Requires",
    "RestrictAddressFamilies",
    "RuntimeDirectory",
    "StateDirectory",
    "SupplementaryGroups",
    "SystemCallFilter",
    "TemporaryFileSystem",
    "Wants",
];

impl<'u> Unit<'u> {
    pub(super) fn new(
        name: &'u str,
        (names, jobs): (&'u BTreeSet<&'u str>, &'u BTreeSet<&'u str>),
    ) -> Self {
        Self {
            name,
            names,
            jobs,
            workload: workload_name(name),
            draft: Yaml::map(),
            report: Vec::new(),
            values: BTreeMap::new(),
            environment: Vec::new(),
            has_sandbox: false,
        }
    }

    pub(super) fn put(&mut self, path: &[&str], value: Yaml) {
        self.draft.put(path, value);
    }

    pub(super) fn line(&mut self, key: &str, (verdict, note): Outcome) {
        self.report.push(Line {
            key: format!("{}.{key}", self.name),
            verdict,
            note,
        });
    }

    /// Returns the last value of a key.
    pub(super) fn last(&self, key: &str) -> Option<&str> {
        let values = self.values.get(key)?;
        values.last().map(String::as_str)
    }

    pub(super) fn read(&mut self, settings: &[Setting]) {
        let mut keys: Vec<(&str, &str)> = Vec::new();
        for Setting {
            section,
            key,
            value,
        } in settings
        {
            let values = self.values.entry(key.clone()).or_default();
            if value.is_empty() || !LISTS.contains(&key.as_str()) {
                values.clear();
            }
            if !value.is_empty() {
                values.push(value.clone());
            }
            if !keys.contains(&(section.as_str(), key.as_str())) {
                keys.push((section, key));
            }
        }
        exec::environment(self);
        for (section, key) in keys {
            let values = self.values.get(key).cloned().unwrap_or_default();
            let outcome = match (section, values.last()) {
                // Of all lists, this one is empty then.
                ("Service", None) if key == "CapabilityBoundingSet" => {
                    sandbox::bounding_set(self, &[])
                }
                (_, None) => exact("an empty value is the default"),
                ("Unit", Some(value)) => self.about(key, value, &values),
                ("Install", Some(_)) => exact("every workload of the manifest is started"),
                ("Service", Some(value)) => self.service(key, value, &values),
                _ if section.starts_with("X-") => exact("an extension, which systemd ignores"),
                _ => dropped("the section is not known"),
            };
            self.line(&format!("{section}.{key}"), outcome);
        }
    }

    fn service(&mut self, key: &str, value: &str, values: &[String]) -> Outcome {
        exec::read(self, key, value, values)
            .or_else(|| command::read(self, key, value, values))
            .or_else(|| limits::read(self, key, value, values))
            .or_else(|| recovery::read(self, key, value))
            .or_else(|| sandbox::read(self, key, value, values))
            .unwrap_or_else(|| match key {
                _ if key.starts_with("X-") => exact("an extension, which systemd ignores"),
                _ => dropped("the setting is not known"),
            })
    }

    /// Reads a setting of `[Unit]`.
    fn about(&mut self, key: &str, value: &str, values: &[String]) -> Outcome {
        match key {
            "Description" | "Documentation" | "SourcePath" => {
                exact("it has no effect on the program")
            }
            "After" | "Requires" | "Wants" | "BindsTo" | "Requisite" => {
                self.needs(key != "After" && key != "Wants", values)
            }
            "Before"
            | "PartOf"
            | "Conflicts"
            | "PropagatesReloadTo"
            | "ReloadPropagatedFrom"
            | "Upholds"
            | "WantsMountsFor"
            | "RequiresMountsFor"
            | "JoinsNamespaceOf" => {
                near("workloads start when what they need is up, and nothing else orders them")
            }
            "DefaultDependencies"
            | "IgnoreOnIsolate"
            | "RefuseManualStart"
            | "RefuseManualStop"
            | "StopWhenUnneeded"
            | "CollectMode"
            | "AllowIsolate"
            | "SurviveFinalKillSignal" => exact("the agent itself is a unit"),
            "StartLimitIntervalSec"
            | "StartLimitInterval"
            | "StartLimitBurst"
            | "StartLimitAction" => recovery::read(self, key, value)
                .unwrap_or_else(|| dropped("the setting is not known")),
            "OnFailure" | "OnSuccess" | "OnFailureJobMode" | "FailureAction" | "SuccessAction" => {
                dropped("use `alerts` with a command")
            }
            "JobTimeoutSec" | "JobRunningTimeoutSec" | "JobTimeoutAction" => {
                near("see `start_timeout`")
            }
            _ if key.starts_with("Condition") || key.starts_with("Assert") => {
                self.condition(key, value)
            }
            _ if key.starts_with("X-") => exact("an extension, which systemd ignores"),
            _ => dropped("the setting is not known"),
        }
    }

    /// A condition about a file becomes a command that refuses the start.
    fn condition(&mut self, key: &str, value: &str) -> Outcome {
        let about = key
            .trim_start_matches("Condition")
            .trim_start_matches("Assert");
        let flag = match about {
            "PathExists" => "-e",
            "PathIsDirectory" => "-d",
            "PathIsSymbolicLink" => "-L",
            "PathIsReadWrite" => "-w",
            "FileNotEmpty" => "-s",
            "FileIsExecutable" => "-x",
            _ => return needs_you("a command of `before_start` can refuse the start"),
        };
        if value.starts_with('|') {
            return needs_you(
                "of several such conditions one is enough: write a command of `before_start`",
            );
        }
        let (not, path) = match value.strip_prefix('!') {
            Some(path) => (Some("!"), path),
            None => (None, value),
        };
        let words = std::iter::once("/usr/bin/test")
            .chain(not)
            .chain([flag, path]);
        let mut all = match self.draft.get(&["before_start"]) {
            Some(Yaml::List(known)) => known.clone(),
            _ => Vec::new(),
        };
        all.push(Yaml::texts(words));
        self.put(&["before_start"], Yaml::List(all));
        near("a start that is refused is a failed one, which the recovery tries again")
    }

    /// Needs other services of the same import. The host's own units are up before the agent is.
    fn needs(&mut self, is_required: bool, values: &[String]) -> Outcome {
        let all = values.iter().flat_map(|value| value.split_whitespace());
        let mut others = Vec::new();
        let (mut found, mut found_job) = (false, false);
        for name in all {
            if self.names.contains(name) && name != self.name {
                found = true;
                let is_job = self.jobs.contains(name);
                found_job |= is_job;
                let key = workload_name(name);
                let until = if is_job { "completed" } else { "started" };
                self.put(&["needs", &key], Yaml::word(until));
            } else if name.ends_with(".service") {
                others.push(name);
            }
        }
        match (found, others.is_empty()) {
            (_, false) if is_required => near(format!(
                "{}: the agent's own unit can require it, with `systemctl edit enforcer`",
                others.join(", ")
            )),
            (true, _) if found_job && !is_required => {
                near("`needs` waits until the job has succeeded, and not only until it has ended")
            }
            (true, _) => exact("`needs` holds starts back, and stops nothing"),
            (false, _) => exact("the agent starts after the host's own units"),
        }
    }

    pub(super) fn finish(&mut self) {
        exec::finish(self);
        recovery::finish(self);
        if !self.environment.is_empty() {
            for (name, value) in std::mem::take(&mut self.environment) {
                self.put(&["environment", &name], Yaml::Text(value));
            }
        }
        if !self.has_sandbox {
            self.put(&["sandbox"], Yaml::word("off"));
        }
        self.draft.sort();
        if self.draft.get(&["command"]).is_none() {
            self.report.push(Line {
                key: self.name.to_owned(),
                verdict: Verdict::NeedsYou,
                note: "it has no `ExecStart`: write `command`".to_owned(),
            });
        }
    }
}

/// Returns the name of a unit's workload.
pub(super) fn workload_name(unit: &str) -> String {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    crate::values::workload_name(stem)
}

/// Returns whether a value is one of systemd's words for yes.
pub(super) fn is_yes(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// Returns a time of systemd, such as `1min 30s` or `90`, as the manifest writes it; `None` if it has no
/// end.
pub(super) fn time(value: &str) -> Option<String> {
    if value == "infinity" {
        return None;
    }
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("{value}s"));
    }
    let mut written = String::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|next: char| next.is_ascii_digit() || next == '.')
                .len();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.len()
            - after
                .trim_start_matches(|next: char| next.is_alphabetic())
                .len();
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "" | "s" | "sec" | "second" | "seconds" => "s",
            "ms" | "msec" => "ms",
            "us" | "usec" | "µs" => "us",
            "m" | "min" | "minute" | "minutes" => "m",
            "h" | "hr" | "hour" | "hours" => "h",
            "d" | "day" | "days" => "d",
            _ => return None,
        };
        if number.is_empty() {
            return None;
        }
        written.push_str(number);
        written.push_str(unit);
        rest = after.trim_start();
    }
    crate::values::duration(&written)
}
