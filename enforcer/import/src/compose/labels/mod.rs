//! Services that are described by labels, in a Dockerfile or in what `docker inspect` prints. What they say
//! beside the labels is what a file of Compose says under other names.

mod dockerfile;
mod inspect;

use super::service::Service;
use super::{Options, Source};
use crate::outcome::{Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{duration, workload_name};
use crate::{Imported, Refused};
use enforcer_manifest::{Node, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A service as a file describes it.
#[derive(Default)]
struct Described {
    name: String,
    keys: Vec<Key>,
    labels: Vec<(String, String)>,
    /// The ports of TCP that it says to listen at.
    ports: Vec<u16>,
}

/// A key of the source.
struct Key {
    name: String,
    means: Means,
}

enum Means {
    /// A key of Compose, with its value there.
    Compose(&'static str, Node),
    Known(Outcome),
}

/// Turns a Dockerfile, or what `docker inspect` prints, into a manifest. The labels are those that begin with
/// the prefix.
///
/// # Errors
/// If the file is neither.
pub fn labels(file: &Source, prefix: &str, options: &Options) -> Result<Imported, Refused> {
    let is_json = file.text.trim_start().starts_with(['[', '{']);
    let services = match is_json {
        true => inspect::read(file)?,
        false => vec![dockerfile::read(file, options)?],
    };
    let names: BTreeSet<&str> = services.iter().map(|one| one.name.as_str()).collect();
    let (mut report, mut workloads) = (Vec::new(), Yaml::map());
    let (files, mut taken) = (BTreeMap::new(), BTreeMap::new());
    for described in &services {
        let mut service = Service::new(&described.name, (&names, &files), options);
        service.place.clone_from(&described.name);
        let mut probe = Probe::default();
        for key in &described.keys {
            let outcome = match &key.means {
                Means::Compose(to, value) => service.known(to, value),
                Means::Known(outcome) => outcome.clone(),
            };
            service.line(&key.name, outcome);
        }
        for (label, value) in &described.labels {
            let outcome = match label.strip_prefix(prefix) {
                Some(name) => self::label(&mut service, &mut probe, name, value),
                None => dropped("it has no effect on the program"),
            };
            service.line(&format!("label {label}"), outcome);
        }
        probe.put(&mut service, &described.ports);
        service.finish(&mut taken);
        report.append(&mut service.report);
        workloads.put(&[&workload_name(&described.name)], service.draft);
    }
    Ok(Imported {
        manifest: Yaml::manifest(&workloads, &[&file.name]),
        report,
    })
}

/// The probe that the labels describe.
#[derive(Default)]
struct Probe {
    path: Option<String>,
    port: Option<u16>,
    times: Vec<(&'static str, Yaml)>,
}

impl Probe {
    fn put(self, service: &mut Service<'_>, ports: &[u16]) {
        let Some(path) = self.path else {
            return;
        };
        let Some(port) = self.port.or_else(|| ports.first().copied()) else {
            let note = "no port says where HEALTH_URI is: write `port` of the probe";
            service.line("", needs_you(note));
            return;
        };
        let probe = ["probes", "liveness"];
        service.put(&[probe[0], probe[1], "http", "port"], Yaml::word(port));
        service.put(&[probe[0], probe[1], "http", "path"], Yaml::Text(path));
        for (key, value) in self.times {
            service.put(&[probe[0], probe[1], key], value);
        }
        service.restart_by_default();
    }
}

fn label(service: &mut Service<'_>, probe: &mut Probe, name: &str, value: &str) -> Outcome {
    let mut time = |key: &'static str| match duration(value) {
        Some(time) => {
            probe.times.push((key, Yaml::Word(time)));
            exact("")
        }
        None => unread(),
    };
    match name {
        "CPU_SHARES" => service.known("cpu_shares", &scalar(value)),
        "HEALTH_TIMEOUT" => time("timeout"),
        "HEALTH_INTERVAL" => time("period"),
        "HEALTH_RETRIES" => match value.parse::<u16>() {
            Ok(count @ 1..) => {
                probe.times.push(("failure_threshold", Yaml::word(count)));
                exact("")
            }
            Ok(0) | Err(_) => unread(),
        },
        "HEALTH_PORT" => match value.parse() {
            Ok(port) => {
                probe.port = Some(port);
                exact("")
            }
            Err(_) => unread(),
        },
        "HEALTH_URI" if value.starts_with('/') => {
            probe.path = Some(value.to_owned());
            near("a `liveness` probe: what does not answer is restarted, and so is what ends")
        }
        "HEALTH_URI" => needs_you("expected a path, such as /health"),
        _ => dropped("it has no effect on the program"),
    }
}

fn scalar(text: &str) -> Node {
    let text = text.to_owned();
    node(Value::Scalar { text, plain: false })
}

fn node(value: Value) -> Node {
    Node { span: 0..0, value }
}

fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Node {
    node(Value::Sequence(texts.into_iter().map(scalar).collect()))
}

fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Node)>) -> Node {
    let entries = entries.into_iter();
    node(Value::Mapping(
        entries.map(|(key, value)| (scalar(key), value)).collect(),
    ))
}

/// Returns a port of TCP.
fn port(text: &str) -> Option<u16> {
    match text.split_once('/') {
        Some((port, "tcp")) => port.parse().ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}
