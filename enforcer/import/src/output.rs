//! A manifest as it is written: keys in a fixed order, and texts in quotes where YAML would read something
//! else.

use std::fmt::Write as _;

/// The keys of a workload in the order in which they are written.
const ORDER: &[&str] = &[
    "command",
    "user",
    "group",
    "groups",
    "umask",
    "nice",
    "main_pid_file",
    "directory",
    "root",
    "read_only",
    "hostname",
    "mounts",
    "tmpfs",
    "runtime_directory",
    "state_directory",
    "cache_directory",
    "credentials",
    "listen",
    "replicas",
    "ports",
    "rollout",
    "sandbox",
    "read_only_paths",
    "read_write_paths",
    "environment",
    "environment_files",
    "capabilities",
    "rlimits",
    "priority",
    "cgroup",
    "needs",
    "probes",
    "reload",
    "before_start",
    "after_start",
    "before_stop",
    "recovery",
    "start_timeout",
    "stop",
    "logs",
];

/// A value of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Yaml {
    /// A text, in quotes where it needs them.
    Text(String),
    /// A number, a size or a word, as it is.
    Word(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Yaml {
    pub(crate) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        let texts = texts.into_iter().map(|text| Self::Text(text.into()));
        Self::List(texts.collect())
    }

    pub(crate) fn word(word: impl ToString) -> Self {
        Self::Word(word.to_string())
    }

    pub(crate) fn map() -> Self {
        Self::Map(Vec::new())
    }

    /// Puts a value at a path of keys, in place of what was there.
    pub(crate) fn put(&mut self, path: &[&str], value: Self) {
        let [first, rest @ ..] = path else {
            *self = value;
            return;
        };
        if !matches!(self, Self::Map(_)) {
            *self = Self::map();
        }
        if let Self::Map(entries) = self {
            let at = entries.iter().position(|(key, _)| key == first);
            let at = at.unwrap_or_else(|| {
                entries.push(((*first).to_owned(), Self::map()));
                entries.len() - 1
            });
            if let Some((_, entry)) = entries.get_mut(at) {
                entry.put(rest, value);
            }
        }
    }

    pub(crate) fn get(&self, path: &[&str]) -> Option<&Self> {
        let [first, rest @ ..] = path else {
            return Some(self);
        };
        let Self::Map(entries) = self else {
            return None;
        };
        let (_, entry) = entries.iter().find(|(key, _)| key == first)?;
        entry.get(rest)
    }

    /// Puts the keys of a workload into their order; the others follow.
    pub(crate) fn sort(&mut self) {
        if let Self::Map(entries) = self {
            let rank = |key: &str| ORDER.iter().position(|known| *known == key);
            entries.sort_by_key(|(key, _)| rank(key).unwrap_or(ORDER.len()));
        }
    }

    /// Returns whether it fits into one line.
    fn is_short(&self) -> bool {
        match self {
            Self::Text(_) | Self::Word(_) => true,
            Self::List(items) => items.iter().all(|item| !matches!(item, Self::Map(_))),
            Self::Map(entries) => entries.is_empty(),
        }
    }

    /// Writes the value after its key, at this depth.
    pub(crate) fn write(&self, text: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        match self {
            Self::Map(entries) if !entries.is_empty() => {
                text.push('\n');
                for (key, value) in entries {
                    let _ = write!(text, "{indent}{}:", quoted(key));
                    value.write(text, depth + 1);
                }
            }
            Self::List(items) if !self.is_short() => {
                text.push('\n');
                for item in items {
                    let _ = writeln!(text, "{indent}- {}", item.in_line());
                }
            }
            Self::Text(_) | Self::Word(_) | Self::List(_) | Self::Map(_) => {
                let _ = writeln!(text, " {}", self.in_line());
            }
        }
    }

    /// Writes a manifest with these workloads.
    pub(crate) fn manifest(workloads: &Self, sources: &[&str]) -> String {
        let mut text = format!(
            "# Imported from {}.\nversion: 2\nworkloads:",
            sources.join(", ")
        );
        match workloads {
            Self::Map(entries) if entries.is_empty() => text.push_str(" {}\n"),
            Self::Text(_) | Self::Word(_) | Self::List(_) | Self::Map(_) => {
                workloads.write(&mut text, 1);
            }
        }
        text
    }

    fn in_line(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Word(word) => match is_word(word) {
                true => word.clone(),
                // It came from a source, and is none.
                false => quoted(word),
            },
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::in_line).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Map(entries) if entries.is_empty() => "{}".to_owned(),
            Self::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, value)| format!("{}: {}", quoted(key), value.in_line()));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Returns whether a text is a number, a size, a time or a word.
fn is_word(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._%".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

/// Returns a text as YAML reads it back. Within a line, a comma and a bracket would end it.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./@+=%-".contains(&byte);
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let is_word = words.contains(&text.to_ascii_lowercase().as_str());
    match begins && text.bytes().all(is_plain) && !is_word {
        true => text.to_owned(),
        // JSON's texts are YAML's.
        false => serde_json::to_string(text).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let texts = [
            "/bin/web",
            "--port=80",
            "a: b",
            "",
            "no",
            "1.5",
            "x\ny\"z",
            "ä",
            "#",
            "-x",
            "{replica}",
        ];
        let mut all = Yaml::map();
        all.put(&["cgroup", "memory.max"], Yaml::word("1G"));
        all.put(&["command"], Yaml::texts(texts));
        let mut text = String::new();
        all.write(&mut text, 0);
        let read = enforcer_manifest::read_yaml(&text).expect("YAML");
        let command = read.value.pairs().find(|(key, ..)| *key == "command");
        let (_, _, command) = command.expect("the key");
        let enforcer_manifest::Value::Sequence(items) = &command.value else {
            panic!("{text}");
        };
        let found: Vec<&str> = items
            .iter()
            .map(|item| match &item.value {
                enforcer_manifest::Value::Scalar { text, .. } => text.as_str(),
                enforcer_manifest::Value::Null
                | enforcer_manifest::Value::Sequence(_)
                | enforcer_manifest::Value::Mapping(_) => panic!("{text}"),
            })
            .collect();
        assert_eq!(found, texts, "{text}");
    }
}
