//! Reads the text of a manifest into a [`Manifest`], or into all of its faults at once.
//!
//! This crate reads no file: the text and the host's accounts come in as arguments. `read/` walks
//! over the tree of the text, a file for each section and each part of a workload.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod allowed;
pub mod environment_file;
pub mod fault;
mod foreign;
mod merge;
mod quantity;
mod read;
mod yaml;

pub use allowed::Allowed;
pub use fault::{Fault, Severity};
pub use read::fleet::{FleetFile, FleetWorkload, parse_anywhere, parse_fleet};
pub use read::fleet_config::{
    EtcdConfig, FleetConfig, NodeConfig, parse_allowed, parse_fleet_config,
};
pub use read::workload::{CAPABILITIES, capability_number, rlimit_number};
pub use yaml::{Node, Value};

use enforcer_model::name::WorkloadName;
use enforcer_model::spec::{Alerts, Manifest, WorkloadSpec};
use read::{Reader, alerts, needs};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Reads the first document of any YAML text into a tree, with its anchors and merge keys resolved.
///
/// # Errors
/// If it is no YAML, or is too large when it is expanded.
pub fn read_yaml(source: &str) -> Result<Node, Fault> {
    yaml::parse(source).map(|(root, _)| root)
}

/// Reads the argument of `throttle W --cpu`: a percentage of one CPU, from 1 % on. The error says
/// what was expected.
pub fn parse_throttle(text: &str) -> Result<enforcer_model::units::Percent, String> {
    quantity::throttle(text)
}

/// Reads a duration such as `10s` or `1h30m`. The error says what was expected.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    quantity::duration(text)
}

/// The accounts of the host, as the checks of a manifest need them.
pub trait Accounts {
    fn agent_is_root(&self) -> bool;
    fn has_user(&self, name: &str) -> bool;
    fn has_user_of_number(&self, number: u32) -> bool;
    fn has_group(&self, name: &str) -> bool;
}

/// The contents of one file. They may be used if no fault is an error.
#[derive(Debug)]
pub struct Parsed {
    /// The file has a `host` section. Only one file of a folder may have one.
    pub has_host: bool,
    /// The file has an `alerts` section. Only one file of a folder may have one.
    pub has_alerts: bool,
    pub manifest: Manifest,
    pub faults: Vec<Fault>,
    /// The place of each workload's name, for faults between several files.
    pub places: BTreeMap<WorkloadName, Range<usize>>,
    /// The place of each workload's `needs`, for faults between several files.
    pub needs: BTreeMap<WorkloadName, Range<usize>>,
    /// The place of each value of the rules of alerts, by rule and key.
    pub rules: BTreeMap<(String, String), Range<usize>>,
}

impl Parsed {
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.faults
            .iter()
            .any(|fault| fault.severity == Severity::Error)
    }
}

/// Reads one file.
#[must_use]
pub fn parse(source: &str, accounts: &dyn Accounts) -> Parsed {
    let mut parsed = Parsed::default();
    match yaml::parse(source) {
        Err(fault) => {
            let fault = foreign::file(source, None).unwrap_or(fault);
            parsed.faults.push(fault);
        }
        Ok((root, rest)) => {
            if let Some(fault) = foreign::file(source, Some(&root)).or(rest.err()) {
                parsed.faults.push(fault);
                return parsed;
            }
            let mut reader = Reader {
                accounts,
                faults: Vec::new(),
            };
            reader.document(&root, &mut parsed);
            reader.faults.sort_by_key(|fault| fault.span.start);
            // What the defaults say wrong is found in each workload under which they lie.
            let mut found = BTreeSet::new();
            reader.faults.retain(|fault| {
                let place = (fault.span.start, fault.span.end);
                found.insert((place, fault.message.clone()))
            });
            parsed.faults = reader.faults;
        }
    }
    parsed
}

/// Joins the files of a folder, in the given order. If two files say the same, that is a fault of
/// the later one, at its place there. The index is that of the file.
#[must_use]
pub fn join(files: Vec<Parsed>) -> (Manifest, Vec<(usize, Fault)>) {
    let mut manifest = Manifest::default();
    let mut faults = Vec::new();
    let mut host: Option<usize> = None;
    let mut alerts: Option<(usize, alerts::Places, Arc<Alerts>)> = None;
    let mut needs: BTreeMap<WorkloadName, (usize, Range<usize>)> = BTreeMap::new();
    for (index, file) in files.into_iter().enumerate() {
        for (name, place) in &file.needs {
            needs.entry(name.clone()).or_insert((index, place.clone()));
        }
        if file.has_alerts {
            if alerts.is_some() {
                let fault = Fault::error(0..0, "a second file with an `alerts` section")
                    .help("keep the alerts in one file");
                faults.push((index, fault));
            } else {
                let found = Arc::clone(&file.manifest.host.alerts);
                alerts = Some((index, file.rules, found));
            }
        }
        if file.has_host {
            if host.is_some() {
                let fault = Fault::error(0..0, "a second file with a `host` section")
                    .help("keep the host's settings in one file");
                faults.push((index, fault));
            } else {
                host = Some(index);
                manifest.host = file.manifest.host;
            }
        }
        for (name, spec) in file.manifest.workloads {
            let place = file.places.get(&name).cloned().unwrap_or(0..0);
            match manifest.workloads.entry(name) {
                Entry::Vacant(entry) => drop(entry.insert(spec)),
                Entry::Occupied(entry) => {
                    let message =
                        format!("`{}` is a workload of another file as well", entry.key());
                    faults.push((index, Fault::error(place, message).label("the second one")));
                }
            }
        }
    }
    manifest.host.alerts = Arc::default();
    if let Some((index, places, alerts)) = alerts {
        let about = alerts::faults(&alerts, &places, &manifest.workloads);
        faults.extend(about.into_iter().map(|fault| (index, fault)));
        manifest.host.alerts = alerts;
    }
    for (name, fault) in needs::faults(&manifest) {
        let (index, place) = needs.get(&name).cloned().unwrap_or((0, 0..0));
        let fault = Fault {
            span: place,
            ..fault
        };
        faults.push((index, fault));
    }
    (manifest, faults)
}

impl Default for Parsed {
    fn default() -> Self {
        Self {
            has_host: false,
            has_alerts: false,
            manifest: Manifest {
                host: Box::default(),
                workloads: BTreeMap::<_, Arc<WorkloadSpec>>::new(),
            },
            faults: Vec::new(),
            places: BTreeMap::new(),
            needs: BTreeMap::new(),
            rules: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests;
