//! The walk over the tree: fields that are known, values of the wanted kind,
//! and every fault collected instead of the first one thrown.

pub(crate) mod alerts;
pub(crate) mod attach;
mod directories;
pub(crate) mod document;
mod files;
pub(crate) mod fleet;
pub(crate) mod fleet_config;
mod hooks;
pub(crate) mod host;
pub(crate) mod limits;
mod listen;
pub(crate) mod needs;
mod ports;
pub(crate) mod probes;
pub(crate) mod recovery;
mod replicas;
mod sandbox;
pub(crate) mod watch;
mod webhook;
pub(crate) mod workload;

use crate::Accounts;
use crate::fault::Fault;
use crate::foreign;
use crate::yaml::{Node, Value};
use std::fmt;
use std::ops::Range;

/// The beginning of keys that mean nothing here, as in a Compose file.
const EXTENSION: &str = "x-";

pub(crate) struct Reader<'a> {
    pub(crate) accounts: &'a dyn Accounts,
    pub(crate) faults: Vec<Fault>,
}

/// The entries of a mapping whose keys were checked.
pub(crate) struct Fields<'n> {
    entries: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'n str, &'n Node)> + '_ {
        self.entries.iter().copied()
    }
}

impl Reader<'_> {
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Returns the entries of a mapping. Unknown and duplicate keys are faults, and left out. A key
    /// that begins with `x-` is the user's own, such as a place for anchors.
    pub(crate) fn fields<'n>(&mut self, node: &'n Node, known: &[&str]) -> Fields<'n> {
        let mut fields = self.entries(node);
        fields.entries.retain(|(key, _)| known.contains(key));
        if let Value::Mapping(entries) = &node.value {
            for (key, _) in entries {
                if let Value::Scalar { text, .. } = &key.value
                    && !known.contains(&text.as_str())
                    && !text.starts_with(EXTENSION)
                {
                    self.faults.push(unknown_key(text, key.span.clone(), known));
                }
            }
        }
        fields
    }

    /// Returns the entries of a mapping with free keys. Duplicate keys are faults.
    pub(crate) fn entries<'n>(&mut self, node: &'n Node) -> Fields<'n> {
        let mut fields = Fields {
            entries: Vec::new(),
        };
        let entries = match &node.value {
            Value::Mapping(entries) => entries.as_slice(),
            Value::Null => &[],
            other @ (Value::Scalar { .. } | Value::Sequence(_)) => {
                self.expected(node, "a mapping of keys to values", other);
                &[]
            }
        };
        for (key, value) in entries {
            let Value::Scalar { text, .. } = &key.value else {
                self.fault(
                    Fault::error(key.span.clone(), "this key is not a word")
                        .label("expected a word"),
                );
                continue;
            };
            if fields.get(text).is_some() {
                self.fault(
                    Fault::error(key.span.clone(), format!("`{text}` stands here twice"))
                        .label("the second one")
                        .help("keep one of them"),
                );
                continue;
            }
            fields.entries.push((text, value));
        }
        fields
    }

    fn expected(&mut self, node: &Node, expected: &str, found: &Value) {
        self.faults.push(
            Fault::error(
                node.span.clone(),
                format!("expected {expected}, found {}", found.describe()),
            )
            .label(format!("expected {expected}")),
        );
    }

    /// Reads a value of one word or line.
    pub(crate) fn text<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n str> {
        if let Value::Scalar { text, .. } = &node.value {
            return Some(text);
        }
        self.expected(node, expected, &node.value);
        None
    }

    /// Reads a value by the given function, whose error says what was expected.
    pub(crate) fn parsed<T>(
        &mut self,
        node: &Node,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(node, "one value")?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.fault(
                    Fault::error(node.span.clone(), format!("`{text}` is not valid here"))
                        .label(format!("expected {expected}")),
                );
                None
            }
        }
    }

    /// Sets `target` if the key is there and its value is good.
    pub(crate) fn set<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        target: &mut T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        if let Some(value) = fields.get(key).and_then(|node| self.parsed(node, parse)) {
            *target = value;
        }
    }

    /// Sets an optional target if the key is there. A bad value makes it `None`.
    pub(crate) fn set_some<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        target: &mut Option<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        if let Some(node) = fields.get(key) {
            *target = self.parsed(node, parse);
        }
    }

    /// Reads a list of words. A single word is a fault that shows the list.
    pub(crate) fn words(&mut self, node: &Node, expected: &str) -> Option<Vec<String>> {
        let Value::Sequence(items) = &node.value else {
            self.expected(node, expected, &node.value);
            return None;
        };
        let words: Vec<String> = items
            .iter()
            .filter_map(|item| self.text(item, "a word").map(str::to_owned))
            .collect();
        (words.len() == items.len()).then_some(words)
    }

    /// Reads a program and its arguments.
    pub(crate) fn command(&mut self, node: &Node) -> Option<Vec<String>> {
        let words = self.words(node, "a list: the program's path and its arguments")?;
        let Some(program) = words.first() else {
            self.fault(
                Fault::error(node.span.clone(), "the command is empty")
                    .label("expected a program's path"),
            );
            return None;
        };
        if !program.starts_with('/') {
            self.fault(
                Fault::error(
                    node.span.clone(),
                    format!("`{program}` is not an absolute path"),
                )
                .label("the program's path starts with /")
                .help(format!("`command -v {program}` in a shell prints the path")),
            );
            return None;
        }
        if words.iter().any(|word| word.contains('\0')) {
            self.fault(Fault::error(
                node.span.clone(),
                "an argument contains a NUL byte",
            ));
            return None;
        }
        Some(words)
    }

    /// Returns the items of a list; none without one.
    pub(crate) fn items<'n>(&mut self, node: Option<&'n Node>, expected: &str) -> &'n [Node] {
        match node {
            None => &[],
            Some(Node {
                value: Value::Sequence(items),
                ..
            }) => items,
            Some(node) => {
                self.expected(node, expected, &node.value);
                &[]
            }
        }
    }

    /// Reads a list of absolute paths, without superfluous slashes.
    pub(crate) fn places(&mut self, node: Option<&Node>) -> Vec<String> {
        let items = self.items(node, "a list of absolute paths");
        let places = items.iter().filter_map(|item| {
            self.parsed(item, |text| place(text, "an absolute path other than /"))
        });
        places.collect()
    }

    pub(crate) fn absolute_paths(&mut self, node: &Node) -> Vec<String> {
        let Value::Sequence(items) = &node.value else {
            self.expected(node, "a list of absolute paths", &node.value);
            return Vec::new();
        };
        let paths = items.iter().filter_map(|item| self.absolute_path(item));
        paths.collect()
    }

    pub(crate) fn absolute_path(&mut self, node: &Node) -> Option<String> {
        self.parsed(node, |text| {
            let good = text.starts_with('/') && !text.contains('\0');
            if good {
                Ok(text.to_owned())
            } else {
                Err("an absolute path".to_owned())
            }
        })
    }
}

/// Reads an absolute path, and returns it without superfluous slashes.
pub(crate) fn place(text: &str, expected: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let is_plain = !parts.is_empty() && !parts.iter().any(|part| matches!(*part, "." | ".."));
    match text.starts_with('/') && is_plain && !text.contains('\0') {
        true => Ok(format!("/{}", parts.join("/"))),
        false => Err(expected.to_owned()),
    }
}

/// Reads `true` or `false`, and nothing that merely looks like it.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// Returns whether a section is disabled: by `off` or by `false`.
pub(crate) fn is_off(node: &Node) -> bool {
    matches!(&node.value, Value::Scalar { text, plain: true } if text == "off" || text == "false")
}

/// Reads one of these words as its value.
pub(crate) fn one_of<T: Copy>(options: &[(&str, T)]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        options
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let words: Vec<&str> = options.iter().map(|(word, _)| *word).collect();
                format!("one of {}", words.join(", "))
            })
    }
}

/// Reads one of these words.
pub(crate) fn word_of<T: Copy + fmt::Display>(
    words: &[T],
) -> impl Fn(&str) -> Result<T, String> + '_ {
    move |text| {
        let found = words.iter().find(|word| word.to_string() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<String> = words.iter().map(T::to_string).collect();
            format!("one of {}", names.join(", "))
        })
    }
}

pub(crate) fn unknown_key(key: &str, span: Range<usize>, known: &[&str]) -> Fault {
    let fault = Fault::error(span, format!("unknown key `{key}`"));
    if let Some(here) = foreign::key(key) {
        return fault.label("not a key of enforcer's").help(here);
    }
    if let Some(place) = foreign::place_of(key) {
        return fault
            .label("not a key of this section")
            .help(format!("`{key}` stands {place}"));
    }
    match nearest(key, known) {
        Some(near) => fault.label(format!("did you mean `{near}`?")),
        None => fault
            .label("not a key of this section")
            .help(format!("known keys: {}", known.join(", "))),
    }
}

/// Returns the known key that was probably meant.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = key.to_lowercase().replace(['_', '-'], ".");
    known
        .iter()
        .map(|candidate| {
            let plain = candidate.replace(['_', '-'], ".");
            (strsim::damerau_levenshtein(&lower, &plain), *candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
