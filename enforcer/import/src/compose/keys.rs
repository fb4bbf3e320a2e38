//! The keys of a service that take more than a line.

use super::places::{port, tmpfs, volume};
use super::service::{Service, argument_list};
use super::{Image, entry};
use crate::outcome::{Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{pairs, program, size, text, texts, workload_name};
use enforcer_manifest::{Node, Value};
use std::collections::BTreeSet;

impl Service<'_> {
    pub(super) fn texts(&mut self, key: &str, value: &Node) -> Outcome {
        match texts(value) {
            Some(all) => {
                self.put(&[key], Yaml::texts(all));
                exact("")
            }
            None => unread(),
        }
    }

    pub(super) fn image(&mut self, value: &Node) -> Outcome {
        let image = text(value).unwrap_or_default();
        match self.options.images.get(self.name) {
            Some(Image { root, .. }) => {
                self.put(&["root"], Yaml::Text(root.clone()));
                exact(format!("its files are in {root}"))
            }
            None => needs_you(format!(
                "unpack it, and import with `--image {name}=DIR`: skopeo copy docker://{image} oci:{name}:latest && \
                 umoci unpack --image {name}:latest DIR",
                name = self.name
            )),
        }
    }

    /// Returns whether the service has the files of its image, as a root of its own.
    pub(super) fn has_image(&self) -> bool {
        self.options.images.contains_key(self.name)
    }

    /// Host names with their addresses: `name:address`, `name=address` or a mapping.
    pub(super) fn extra_hosts(&mut self, value: &Node) -> Outcome {
        let pairs: Vec<(String, String)> = match &value.value {
            Value::Mapping(_) => value
                .value
                .pairs()
                .filter_map(|(name, _, address)| Some((name.to_owned(), text(address)?.to_owned())))
                .collect(),
            Value::Null | Value::Scalar { .. } | Value::Sequence(_) => {
                let lines = texts(value).unwrap_or_default();
                let split = |line: &String| {
                    let pair = line.split_once('=').or_else(|| line.split_once(':'));
                    pair.map(|(name, address)| (name.to_owned(), address.to_owned()))
                };
                lines.iter().filter_map(split).collect()
            }
        };
        if pairs.is_empty() {
            return unread();
        }
        if !self.has_image() {
            let lines: Vec<String> = pairs
                .iter()
                .map(|(name, address)| format!("{address} {name}"))
                .collect();
            return dropped(format!(
                "without a root of its own it sees the host's /etc/hosts: add `{}` there",
                lines.join("; ")
            ));
        }
        let mut is_exact = true;
        for (name, address) in pairs {
            let address = address.trim_matches(['[', ']']).to_owned();
            let address = match address.as_str() {
                // The host itself.
                "host-gateway" => {
                    is_exact = false;
                    "127.0.0.1".to_owned()
                }
                _ => address,
            };
            self.put(&["hosts", &name], Yaml::Text(address));
        }
        match is_exact {
            true => exact("its root needs a file /etc/hosts"),
            false => near("`host-gateway` is 127.0.0.1; its root needs a file /etc/hosts"),
        }
    }

    pub(super) fn variables(&mut self, value: &Node) -> Outcome {
        let Some(all) = pairs(value) else {
            return unread();
        };
        let mut taken = Vec::new();
        for (name, value) in all {
            let value = match value {
                Some(value) => value,
                None => {
                    let known = self.options.variables.get(&name);
                    taken.push(name.clone());
                    match known {
                        Some(value) => value.clone(),
                        None => continue,
                    }
                }
            };
            self.environment.push((name, value));
        }
        match taken.is_empty() {
            true => exact(""),
            false => near(format!("{} had its value of now", taken.join(", "))),
        }
    }

    pub(super) fn environment_files(&mut self, value: &Node) -> Outcome {
        let items = match &value.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Null | Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(value),
        };
        let mut files = Vec::new();
        for item in items {
            let path = text(item).or_else(|| text(entry(item, "path")?));
            let required = entry(item, "required").and_then(text);
            let mark = match required {
                Some("false") => "-",
                _ => "",
            };
            files.extend(path.map(|path| format!("{mark}{}", self.absolute(path))));
        }
        self.put(&["environment_files"], Yaml::texts(files));
        exact("")
    }

    /// Returns a path of the host's.
    pub(super) fn absolute(&self, path: &str) -> String {
        let folder = self.options.folder.trim_end_matches('/');
        match path.strip_prefix("./") {
            _ if path.starts_with('/') => path.to_owned(),
            Some(path) => format!("{folder}/{path}"),
            None if path == "." => folder.to_owned(),
            None => format!("{folder}/{path}"),
        }
    }

    pub(super) fn needs(&mut self, value: &Node) -> Outcome {
        let mut all = Yaml::map();
        let mut notes = BTreeSet::new();
        let mut need = |names: &BTreeSet<&str>, name: &str, word: &str| {
            if names.contains(name) {
                all.put(&[&workload_name(name)], Yaml::word(word));
            } else {
                notes.insert(format!("`{name}` is not among the services"));
            }
        };
        if let Value::Mapping(_) = &value.value {
            for (name, _, how) in value.value.pairs() {
                let condition = entry(how, "condition").and_then(text);
                let word = match condition {
                    Some("service_healthy") => "ready",
                    Some("service_completed_successfully") => "completed",
                    _ => "started",
                };
                need(self.names, name, word);
            }
        } else {
            for name in texts(value).unwrap_or_default() {
                need(self.names, &name, "started");
            }
        }
        self.put(&["needs"], all);
        match notes.is_empty() {
            true => exact("it holds starts back, and stops nothing"),
            false => near(notes.into_iter().collect::<Vec<_>>().join("; ")),
        }
    }

    /// Published ports: workloads share the host's network, so the gate has the program bind the published
    /// port itself.
    pub(super) fn published(&mut self, value: &Node) -> Outcome {
        let Value::Sequence(items) = &value.value else {
            return unread();
        };
        let mut notes = BTreeSet::new();
        for item in items {
            match port(item) {
                Ok((ports, note)) => {
                    self.ports.extend(ports);
                    notes.extend(note);
                }
                Err(note) => drop(notes.insert(note)),
            }
        }
        let note: Vec<String> = notes.into_iter().collect();
        let note = note.join("; ");
        match note.is_empty() {
            true => {
                near("the program binds the published port itself, at the address that it chooses")
            }
            false => near(note),
        }
    }

    pub(super) fn volumes(&mut self, value: &Node) -> Outcome {
        let Value::Sequence(items) = &value.value else {
            return unread();
        };
        let mut notes = BTreeSet::new();
        for item in items {
            let Some((source, target, read_only, kind)) = volume(item) else {
                notes.insert("a volume is not understood".to_owned());
                continue;
            };
            if kind == "tmpfs" {
                self.tmpfs.push(tmpfs(&target));
                continue;
            }
            let is_path = source.starts_with(['/', '.', '~']) || kind == "bind";
            let from = match source.as_str() {
                "" => {
                    self.tmpfs.push(tmpfs(&target));
                    notes.insert(format!("{target} has no name, and is in memory"));
                    continue;
                }
                path if is_path => self.absolute(path),
                name => {
                    let folder = format!("{}-{}", workload_name(self.name), workload_name(name));
                    notes.insert(format!("`{name}` is /var/lib/{folder}"));
                    let path = format!("/var/lib/{folder}");
                    if !self.states.contains(&folder) {
                        self.states.push(folder);
                    }
                    path
                }
            };
            let mut mount = Yaml::map();
            mount.put(&["from"], Yaml::Text(from));
            mount.put(&["to"], Yaml::Text(target));
            if read_only {
                mount.put(&["read_only"], Yaml::word("true"));
            }
            self.mounts.push(mount);
        }
        match notes.is_empty() {
            true => exact("each place must be there"),
            false => near(notes.into_iter().collect::<Vec<_>>().join("; ")),
        }
    }

    pub(super) fn security(&mut self, value: &Node) -> Outcome {
        let options = texts(value).unwrap_or_default();
        let is_known = |option: &String| option.starts_with("no-new-privileges");
        match options.iter().all(is_known) {
            true => exact("every user but root has it"),
            false => dropped("`sandbox: default` and `strict` have filters of their own"),
        }
    }

    pub(super) fn logging(&mut self, value: &Node) -> Outcome {
        let driver = entry(value, "driver").and_then(text);
        let options = entry(value, "options").and_then(pairs).unwrap_or_default();
        match driver.unwrap_or("json-file") {
            "journald" => {
                self.put(&["logs", "to"], Yaml::word("journal"));
                exact("")
            }
            "json-file" | "local" => {
                let mut notes = Vec::new();
                for (key, value) in options {
                    let value = value.unwrap_or_default();
                    match (key.as_str(), size(&value)) {
                        ("max-size", Some(size)) => {
                            self.put(&["logs", "max_size"], Yaml::Word(size));
                        }
                        // The current file counts there, and not here.
                        ("max-file", _) => match value.parse::<u32>() {
                            Ok(files) => {
                                self.put(&["logs", "keep"], Yaml::word(files.saturating_sub(1)));
                            }
                            Err(_) => notes.push(key),
                        },
                        _ => notes.push(key),
                    }
                }
                match notes.is_empty() {
                    true => near("lines are as the program writes them, not JSON"),
                    false => near(format!("dropped: {}", notes.join(", "))),
                }
            }
            "none" => dropped("output is always kept, within `logs: { max_size, keep }`"),
            other => dropped(format!(
                "there is no driver `{other}`: use `logs: {{ to: journal }}`"
            )),
        }
    }

    /// Secrets and configs: files of the host's that the program finds where Docker puts them.
    pub(super) fn kept_files(&mut self, kind: &str, folder: &str, value: &Node) -> Outcome {
        let Value::Sequence(items) = &value.value else {
            return unread();
        };
        let mut lacking = Vec::new();
        for item in items {
            let of = |key: &str| entry(item, key).and_then(text);
            let Some(name) = text(item).or_else(|| of("source")) else {
                return unread();
            };
            let target = of("target").unwrap_or(name);
            let to = match target.starts_with('/') {
                true => target.to_owned(),
                false => format!("{folder}{target}"),
            };
            let Some(file) = self.files.get(&format!("{kind}.{name}")) else {
                lacking.push(name);
                continue;
            };
            let mut mount = Yaml::map();
            mount.put(&["from"], Yaml::Text(self.absolute(file)));
            mount.put(&["to"], Yaml::Text(to));
            mount.put(&["read_only"], Yaml::word("true"));
            self.mounts.push(mount);
        }
        match lacking.is_empty() {
            true => near(
                "the user needs the right to read the file; `credentials` gives it a copy of its own",
            ),
            false => needs_you(format!("{} has no `file`", lacking.join(", "))),
        }
    }

    pub(super) fn hooks(&mut self, key: &str, value: &Node) -> Outcome {
        let Value::Sequence(items) = &value.value else {
            return unread();
        };
        let commands: Option<Vec<Vec<String>>> = items
            .iter()
            .map(|item| argument_list(entry(item, "command")?))
            .collect();
        match commands {
            Some(commands) => {
                let commands = commands
                    .into_iter()
                    .map(|command| Yaml::texts(program(command)));
                self.put(&[key], Yaml::List(commands.collect()));
                near("it runs as the workload's user")
            }
            None => unread(),
        }
    }
}
