//! The environment of a container, with the values of the ConfigMaps and Secrets of the same files.

use super::{Object, Parts, at, is_true, items, word};
use crate::outcome::{Outcome, exact, near, needs_you, unread};
use crate::values::text;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enforcer_manifest::Node;
use std::collections::BTreeMap;

/// The values of ConfigMaps and Secrets, by kind and name.
pub(super) struct Values {
    maps: BTreeMap<(&'static str, String), BTreeMap<String, String>>,
}

impl Values {
    pub(super) fn of(objects: &[Object]) -> Self {
        let mut maps = BTreeMap::new();
        for object in objects {
            let kind = match &*object.kind {
                "ConfigMap" => "ConfigMap",
                "Secret" => "Secret",
                _ => continue,
            };
            let mut values = BTreeMap::new();
            let mut read = |key: &str, decode: &dyn Fn(&str) -> Option<String>| {
                let data = at(&object.node, &[key]).into_iter();
                for (name, _, value) in data.flat_map(|data| data.value.pairs()) {
                    if let Some(value) = text(value).and_then(decode) {
                        values.insert(name.to_owned(), value);
                    }
                }
            };
            let plain = |text: &str| Some(text.to_owned());
            match kind {
                "ConfigMap" => read("data", &plain),
                _ => {
                    read("data", &|text| {
                        let bytes = STANDARD.decode(text.split_whitespace().collect::<String>());
                        String::from_utf8(bytes.ok()?).ok()
                    });
                    read("stringData", &plain);
                }
            }
            maps.insert((kind, object.name.clone()), values);
        }
        Self { maps }
    }

    pub(super) fn get(&self, kind: &'static str, name: &str) -> Option<&BTreeMap<String, String>> {
        self.maps.get(&(kind, name.to_owned()))
    }
}

/// What a variable may refer to.
pub(super) struct Pod<'p> {
    /// The name of the pod, which has `{replica}` in it if there are several.
    pub(super) name: String,
    pub(super) object: &'p Node,
    pub(super) template: &'p Node,
}

/// The variables of a container in their order.
#[derive(Default)]
pub(super) struct Variables {
    pub(super) all: Vec<(String, String)>,
}

const SECRET: &str =
    "the value of a Secret is in the manifest: keep the file from others, or use `credentials`";

impl Variables {
    /// Reads `envFrom`.
    pub(super) fn read_all(&mut self, node: &Node, values: &Values) -> Outcome {
        let mut parts = Parts::default();
        for source in items(node, &[]) {
            let prefix = word(source, &["prefix"]).unwrap_or_default();
            for (key, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
                let Some(of) = at(source, &[key]) else {
                    continue;
                };
                let name = word(of, &["name"]).unwrap_or_default();
                let optional = at(of, &["optional"]).is_some_and(is_true);
                match values.get(kind, name) {
                    Some(found) => {
                        for (name, value) in found {
                            self.set(format!("{prefix}{name}"), value.clone());
                        }
                        if kind == "Secret" {
                            parts.add(near(SECRET));
                        }
                    }
                    None if optional => {}
                    None => parts.add(needs_you(format!("{kind} {name} is not in the files"))),
                }
            }
        }
        parts.whole()
    }

    /// Reads `env`.
    pub(super) fn read(&mut self, node: &Node, values: &Values, pod: &Pod<'_>) -> Outcome {
        let mut parts = Parts::default();
        for one in items(node, &[]) {
            let Some(name) = word(one, &["name"]) else {
                parts.add(unread());
                continue;
            };
            match at(one, &["valueFrom"]) {
                Some(from) => match self::from(from, values, pod) {
                    Ok((value, outcome)) => {
                        if let Some(value) = value {
                            self.set(name.to_owned(), value);
                        }
                        parts.add(outcome);
                    }
                    Err(note) => parts.add(needs_you(format!("{name}: {note}"))),
                },
                None => {
                    let value = self.expand(word(one, &["value"]).unwrap_or_default());
                    self.set(name.to_owned(), value);
                }
            }
        }
        parts.whole()
    }

    fn set(&mut self, name: String, value: String) {
        self.all.retain(|(known, _)| *known != name);
        self.all.push((name, value));
    }

    /// Replaces `$(NAME)` by the value of a variable; `$$` stands for `$`.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, found) = rest.split_at(at);
            expanded.push_str(before);
            let name = found
                .strip_prefix("$(")
                .and_then(|name| name.split_once(')'));
            let value = name.and_then(|(name, behind)| {
                let (_, value) = self.all.iter().find(|(known, _)| known == name)?;
                Some((value, behind))
            });
            rest = match value {
                Some((value, behind)) => {
                    expanded.push_str(value);
                    behind
                }
                None => {
                    expanded.push('$');
                    let behind = found.strip_prefix("$$").or_else(|| found.strip_prefix('$'));
                    behind.unwrap_or_default()
                }
            };
        }
        expanded.push_str(rest);
        expanded
    }
}

/// Returns the value that `valueFrom` refers to; none if it is optional and not there.
fn from(from: &Node, values: &Values, pod: &Pod<'_>) -> Result<(Option<String>, Outcome), String> {
    for (key, kind) in [("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")] {
        let Some(of) = at(from, &[key]) else {
            continue;
        };
        let name = word(of, &["name"]).unwrap_or_default();
        let entry = word(of, &["key"]).unwrap_or_default();
        let value = values.get(kind, name).and_then(|all| all.get(entry));
        let optional = at(of, &["optional"]).is_some_and(is_true);
        return match value {
            Some(value) if kind == "Secret" => Ok((Some(value.clone()), near(SECRET))),
            Some(value) => Ok((Some(value.clone()), exact(""))),
            None if optional => Ok((None, exact(""))),
            None => Err(format!("{kind} {name} with {entry} is not in the files")),
        };
    }
    let Some(field) = word(from, &["fieldRef", "fieldPath"]) else {
        return Err("write the value".to_owned());
    };
    let metadata = |key: &str| {
        word(pod.template, &["metadata", key]).or_else(|| word(pod.object, &["metadata", key]))
    };
    let value = match field {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => metadata("namespace").unwrap_or("default").to_owned(),
        "spec.serviceAccountName" => word(pod.template, &["spec", "serviceAccountName"])
            .unwrap_or("default")
            .to_owned(),
        "status.podIP" | "status.hostIP" | "status.podIPs" | "status.hostIPs" => {
            let note = "workloads share the host's network: the address is 127.0.0.1";
            return Ok((Some("127.0.0.1".to_owned()), near(note)));
        }
        field => {
            let label = field
                .strip_prefix("metadata.labels['")
                .map(|name| ("labels", name))
                .or_else(|| {
                    let name = field.strip_prefix("metadata.annotations['")?;
                    Some(("annotations", name))
                });
            let found = label.and_then(|(kind, name)| {
                let name = name.strip_suffix("']")?;
                word(pod.template, &["metadata", kind, name])
            });
            match found {
                Some(value) => value.to_owned(),
                None => return Err(format!("`{field}` has no value here")),
            }
        }
    };
    Ok((Some(value), exact("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded() {
        let mut variables = Variables::default();
        variables.set("A".to_owned(), "1".to_owned());
        let expanded = ["x$(A)y", "$$(A)", "$(B)", "$", "$(A", "a$Ab", "$$$(A)"]
            .map(|text| variables.expand(text));
        assert_eq!(expanded, ["x1y", "$(A)", "$(B)", "$", "$(A", "a$Ab", "$1"]);
    }
}
