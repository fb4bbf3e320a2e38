//! Files of Docker Compose. They are put together as Compose does: variables are replaced, later files lie
//! over earlier ones, and `extends` lies under its service.

mod health;
mod interpolate;
mod keys;
mod labels;
mod places;
mod resources;
mod service;

use crate::output::Yaml;
use crate::values::workload_name;
use crate::{Imported, Line, Refused, Verdict};
use enforcer_manifest::{Node, Value, read_yaml};
use interpolate::Variables;
pub use labels::labels;
use service::Service;
use std::collections::{BTreeMap, BTreeSet};

/// A file of Compose.
#[derive(Clone, Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
}

/// What is known beside the files.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The variables of the environment and of `.env`.
    pub variables: BTreeMap<String, String>,
    pub profiles: BTreeSet<String>,
    /// The absolute folder of the first file, where relative paths begin.
    pub folder: String,
    /// The folders with the files of images, by the names of their services.
    pub images: BTreeMap<String, Image>,
}

/// The files of an image, and what its configuration says.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The absolute path of the folder.
    pub root: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub directory: Option<String>,
    /// `UID:GID`.
    pub user: Option<String>,
}

/// Reads another file that `extends` names, or says why that is not possible.
pub type Load<'l> = &'l dyn Fn(&str) -> Result<String, String>;

/// The deepest chain of `extends`.
const EXTENDS: usize = 16;

/// Keys whose lists of a later file are added to those of an earlier one. All other lists are replaced.
const ADDED: &[&str] = &[
    "cap_add",
    "cap_drop",
    "configs",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "env_file",
    "expose",
    "external_links",
    "group_add",
    "links",
    "ports",
    "secrets",
    "security_opt",
    "tmpfs",
    "volumes",
];
/// Keys that are a mapping or a list of pairs, and are joined key by key.
const PAIRS: &[&str] = &[
    "environment",
    "labels",
    "annotations",
    "sysctls",
    "extra_hosts",
];

/// Turns files of Compose into a manifest. `load` reads another file that `extends` names.
///
/// # Errors
/// If a file is no YAML or no Compose file, a variable is missing that must be there, or `extends` goes in a
/// circle.
pub fn compose(files: &[Source], options: &Options, load: Load<'_>) -> Result<Imported, Refused> {
    let mut missing = BTreeSet::new();
    let mut project: Option<Node> = None;
    for file in files {
        let read = read(file, options, &mut missing)?;
        project = Some(match project {
            Some(below) => merge(below, read, ""),
            None => read,
        });
    }
    let first = files.first().map_or("", |file| file.name.as_str());
    let project = project.ok_or_else(|| refused(first, 0, "no file was given"))?;
    let services = entry(&project, "services");
    let Some(services) = services.filter(|services| matches!(services.value, Value::Mapping(_)))
    else {
        return Err(refused(
            first,
            0,
            "it has no `services`: it is no file of Compose",
        ));
    };
    let mut report = Vec::new();
    let mut workloads = Yaml::map();
    let names: BTreeSet<&str> = services.value.pairs().map(|(name, ..)| name).collect();
    let mut ports = BTreeMap::new();
    let files_of = files_of(&project);
    for (name, _, _) in services.value.pairs() {
        let node = extended(name, services, (first, options, load), &mut missing, 0)?;
        let place = format!("services.{name}");
        let active = profiles_of(&node);
        if !active.is_empty() && active.is_disjoint(&options.profiles) {
            report.push(Line {
                key: place,
                verdict: Verdict::Dropped,
                note: "none of its profiles is asked for: `--profile NAME` imports it".to_owned(),
            });
            continue;
        }
        let mut service = Service::new(name, (&names, &files_of), options);
        service.read(&node);
        service.finish(&mut ports);
        report.append(&mut service.report);
        workloads.put(&[&workload_name(name)], service.draft);
    }
    report_rest(&project, &mut report);
    for name in missing {
        report.push(Line {
            key: format!("${name}"),
            verdict: Verdict::NeedsYou,
            note: "the variable is not set, and is empty: set it, or write it into `.env`"
                .to_owned(),
        });
    }
    let sources: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    Ok(Imported {
        manifest: Yaml::manifest(&workloads, &sources),
        report,
    })
}

fn refused(file: &str, at: usize, message: impl Into<String>) -> Refused {
    Refused {
        file: file.to_owned(),
        at,
        message: message.into(),
    }
}

fn read(file: &Source, options: &Options, missing: &mut BTreeSet<String>) -> Result<Node, Refused> {
    let node = read_yaml(&file.text).map_err(|fault| {
        refused(
            &file.name,
            fault.span.start,
            format!("{}: {}", fault.message, fault.label),
        )
    })?;
    let mut variables = Variables {
        known: &options.variables,
        missing: BTreeSet::new(),
    };
    let filled = variables
        .fill(&node)
        .map_err(|(at, message)| refused(&file.name, at, message))?;
    missing.append(&mut variables.missing);
    Ok(filled)
}

/// Returns the value of a key.
fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let mut pairs = node.value.pairs();
    pairs
        .find(|(name, ..)| *name == key)
        .map(|(_, _, value)| value)
}

/// Lays one tree over another.
fn merge(below: Node, above: Node, key: &str) -> Node {
    let span = above.span.clone();
    let value = match (below.value, above.value) {
        (below, Value::Null) => below,
        (Value::Mapping(mut entries), Value::Mapping(added)) => {
            for (name, value) in added {
                let word = crate::values::text(&name).unwrap_or_default().to_owned();
                match entries
                    .iter()
                    .position(|(known, _)| known.value == name.value)
                {
                    Some(at) => {
                        let (known, below) = entries.remove(at);
                        entries.insert(at, (known, merge(below, value, &word)));
                    }
                    None => entries.push((name, value)),
                }
            }
            Value::Mapping(entries)
        }
        (Value::Sequence(mut items), Value::Sequence(added)) if ADDED.contains(&key) => {
            for item in added {
                if !items.iter().any(|known| known.value == item.value) {
                    items.push(item);
                }
            }
            Value::Sequence(items)
        }
        (below, above) if PAIRS.contains(&key) => joined(below, above),
        (_, above) => above,
    };
    Node { span, value }
}

/// Joins pairs, whichever of the two forms each side has.
fn joined(below: Value, above: Value) -> Value {
    let node = |value: Value| Node { span: 0..0, value };
    let pairs = |value: Value| crate::values::pairs(&node(value));
    let (Some(mut all), Some(added)) = (pairs(below), pairs(above.clone())) else {
        return above;
    };
    for (key, value) in added {
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => all.push((key, value)),
        }
    }
    let scalar = |text: String| node(Value::Scalar { text, plain: false });
    let entries = all.into_iter().map(|(key, value)| {
        let value = value.map_or(node(Value::Null), scalar);
        (scalar(key), value)
    });
    Value::Mapping(entries.collect())
}

/// Returns a service with everything that it extends.
fn extended(
    name: &str,
    services: &Node,
    (file, options, load): (&str, &Options, Load<'_>),
    missing: &mut BTreeSet<String>,
    depth: usize,
) -> Result<Node, Refused> {
    let Some(service) = entry(services, name) else {
        return Err(refused(
            file,
            0,
            format!("there is no service `{name}` to extend"),
        ));
    };
    let Some(extends) = entry(service, "extends") else {
        return Ok(service.clone());
    };
    if depth >= EXTENDS {
        let message =
            format!("`extends` of `{name}` goes in a circle, or more than {EXTENDS} services deep");
        return Err(refused(file, extends.span.start, message));
    }
    let base = crate::values::text(extends)
        .or_else(|| crate::values::text(entry(extends, "service")?))
        .ok_or_else(|| refused(file, extends.span.start, "`extends` names no service"))?;
    let other = entry(extends, "file").and_then(crate::values::text);
    let below = match other {
        None => extended(base, services, (file, options, load), missing, depth + 1)?,
        Some(path) => {
            let text = load(path).map_err(|error| refused(path, 0, error))?;
            let source = Source {
                name: path.to_owned(),
                text,
            };
            let read = read(&source, options, missing)?;
            let services =
                entry(&read, "services").ok_or_else(|| refused(path, 0, "it has no `services`"))?;
            extended(base, services, (path, options, load), missing, depth + 1)?
        }
    };
    // What depends on others is not inherited.
    let below = without(below, &["depends_on", "links", "volumes_from", "extends"]);
    Ok(merge(below, service.clone(), name))
}

fn without(mut node: Node, keys: &[&str]) -> Node {
    if let Value::Mapping(entries) = &mut node.value {
        entries.retain(|(key, _)| {
            let key = crate::values::text(key);
            key.is_none_or(|key| !keys.contains(&key))
        });
    }
    node
}

/// Returns the files of the project's secrets and configs, by `secrets.NAME` and `configs.NAME`.
fn files_of(project: &Node) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for kind in ["secrets", "configs"] {
        let all = entry(project, kind).into_iter();
        for (name, _, value) in all.flat_map(|all| all.value.pairs()) {
            if let Some(file) = entry(value, "file").and_then(crate::values::text) {
                files.insert(format!("{kind}.{name}"), file.to_owned());
            }
        }
    }
    files
}

fn profiles_of(service: &Node) -> BTreeSet<String> {
    let profiles = entry(service, "profiles").and_then(crate::values::texts);
    profiles.unwrap_or_default().into_iter().collect()
}

/// Reports the keys beside `services`.
fn report_rest(project: &Node, report: &mut Vec<Line>) {
    for (key, _, value) in project.value.pairs() {
        let (verdict, note) = match key {
            "services" => continue,
            "name" => (Verdict::Exact, "a manifest has no name"),
            "version" => (Verdict::Exact, "Compose ignores it"),
            _ if key.starts_with("x-") => {
                (Verdict::Exact, "an extension, which is for the file alone")
            }
            "networks" => (
                Verdict::Near,
                "workloads share the host's network: services are reached at 127.0.0.1, not by their names",
            ),
            "volumes" => (Verdict::Near, "named volumes become folders below /var/lib"),
            "secrets" => (
                Verdict::Near,
                "files become `mounts` of the services that use them",
            ),
            "configs" => (
                Verdict::Near,
                "files become `mounts` of the services that use them",
            ),
            "include" => (
                Verdict::NeedsYou,
                "name the included files on the command line",
            ),
            _ => (Verdict::Dropped, "the key is not known"),
        };
        let nested = matches!(key, "networks" | "volumes" | "secrets" | "configs");
        let names: Vec<&str> = value.value.pairs().map(|(name, ..)| name).collect();
        if nested && !names.is_empty() {
            report.extend(names.into_iter().map(|name| Line {
                key: format!("{key}.{name}"),
                verdict,
                note: note.to_owned(),
            }));
            continue;
        }
        report.push(Line {
            key: key.to_owned(),
            verdict,
            note: note.to_owned(),
        });
    }
}
