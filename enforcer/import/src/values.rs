//! Values that several sources write alike.

use enforcer_manifest::{Node, Value, parse_duration};
use std::collections::BTreeSet;

/// Returns the text of a scalar.
pub(crate) fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        Value::Null | Value::Sequence(_) | Value::Mapping(_) => None,
    }
}

/// Returns the texts of a list, or of one scalar.
pub(crate) fn texts(node: &Node) -> Option<Vec<String>> {
    match &node.value {
        Value::Scalar { text, .. } => Some(vec![text.clone()]),
        Value::Sequence(items) => items
            .iter()
            .map(|item| text(item).map(str::to_owned))
            .collect(),
        Value::Null | Value::Mapping(_) => None,
    }
}

/// Returns the pairs of a mapping, or of a list of `KEY=VALUE`. A key without a value has none.
pub(crate) fn pairs(node: &Node) -> Option<Vec<(String, Option<String>)>> {
    match &node.value {
        Value::Mapping(_) => node
            .value
            .pairs()
            .map(|(key, _, value)| match &value.value {
                Value::Null => Some((key.to_owned(), None)),
                Value::Scalar { text, .. } => Some((key.to_owned(), Some(text.clone()))),
                Value::Sequence(_) | Value::Mapping(_) => None,
            })
            .collect(),
        Value::Sequence(items) => items
            .iter()
            .map(|item| {
                let item = text(item)?;
                Some(match item.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (item.to_owned(), None),
                })
            })
            .collect(),
        Value::Null | Value::Scalar { .. } => None,
    }
}

/// Splits a command as a shell splits words, without anything else that a shell does.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        match next {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('\'') => break,
                        Some(other) => word.push(other),
                        None => return Err("a ' is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('"') => break,
                        Some('\\') => match rest.next() {
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                            Some(other) => word.extend(['\\', other]),
                            None => return Err("a \" is not closed".to_owned()),
                        },
                        Some(other) => word.push(other),
                        None => return Err("a \" is not closed".to_owned()),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(rest.next()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Returns a size of Compose, such as `512m` or `1gb`, as the manifest writes it. All of its units are
/// powers of 1024.
pub(crate) fn size(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "" | "b" => "",
        "k" | "kb" | "kib" => "K",
        "m" | "mb" | "mib" => "M",
        "g" | "gb" | "gib" => "G",
        "t" | "tb" | "tib" => "T",
        _ => return None,
    };
    let number = digits.trim();
    let is_number = !number.is_empty() && number.parse::<f64>().is_ok_and(|size| size >= 0.0);
    is_number.then(|| format!("{number}{unit}"))
}

/// Returns a size in bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let text = size(text)?;
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "" => 1.0,
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        "G" => 1024.0 * 1024.0 * 1024.0,
        _ => 1024.0 * 1024.0 * 1024.0 * 1024.0,
    };
    let bytes = digits.parse::<f64>().ok()? * factor;
    // Saturates.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let bytes = bytes.round() as u64;
    Some(bytes)
}

/// Returns a duration if the manifest reads it as well.
pub(crate) fn duration(text: &str) -> Option<String> {
    parse_duration(text).is_ok().then(|| text.to_owned())
}

/// Returns a number of CPUs as a share of one.
pub(crate) fn cpus(text: &str) -> Option<String> {
    let cpus: f64 = text.trim().parse().ok()?;
    let percent = (cpus * 100.0).round();
    (1.0..1e7).contains(&percent).then(|| format!("{percent}%"))
}

/// Returns the `cpu.weight` for shares of cgroup v1, as runc 1.3.2 and crun 1.23 compute it.
pub(crate) fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "it is small")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight
}

/// What root has in a container unless its capabilities are named: moby's and containerd's defaults.
const OF_ROOT: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Returns the capabilities of a container that adds and removes some, as the manifest names them. There is
/// no list if nothing is said, or if all are added.
pub(crate) fn capabilities(
    added: &[String],
    removed: &[String],
    is_root: bool,
) -> Option<Vec<String>> {
    let plain = |name: &String| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_")
            .map_or(name.clone(), str::to_owned)
    };
    let added: Vec<String> = added.iter().map(plain).collect();
    let removed: Vec<String> = removed.iter().map(plain).collect();
    let is_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    if is_all(&added) || (added.is_empty() && (removed.is_empty() || !is_root)) {
        return None;
    }
    let usual: &[&str] = match is_root && !is_all(&removed) {
        true => OF_ROOT,
        false => &[],
    };
    let mut all: BTreeSet<String> = usual.iter().map(|name| (*name).to_owned()).collect();
    all.retain(|name| !removed.contains(name));
    all.extend(added);
    Some(all.into_iter().map(|name| format!("CAP_{name}")).collect())
}

/// Returns a name that a workload may have.
pub(crate) fn workload_name(service: &str) -> String {
    let name: String = service
        .to_ascii_lowercase()
        .chars()
        .map(|letter| match letter {
            'a'..='z' | '0'..='9' | '-' => letter,
            _ => '-',
        })
        .take(63)
        .collect();
    let name = name.trim_matches('-');
    match name.is_empty() {
        true => "service".to_owned(),
        false => name.to_owned(),
    }
}

/// Returns a command whose program has an absolute path: env(1) finds one in `PATH`.
pub(crate) fn program(mut arguments: Vec<String>) -> Vec<String> {
    let is_absolute = arguments.first().is_none_or(|first| first.starts_with('/'));
    if !is_absolute {
        arguments.insert(0, "/usr/bin/env".to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let split = |text: &str| words(text).map(|words| words.join("|"));
        assert_eq!(split(r#"a "b c" 'd e'f \g"#).as_deref(), Ok("a|b c|d ef|g"));
        assert_eq!(
            split(r#"sh -c "echo \"$X\" \n""#).as_deref(),
            Ok(r#"sh|-c|echo "$X" \n"#)
        );
        assert_eq!(split("'' x").as_deref(), Ok("|x"));
        assert!(split("'a").is_err());
    }

    #[test]
    fn root_keeps_what_a_container_has_by_default() {
        let names =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let of = |added: &str, removed: &str, is_root| {
            capabilities(&names(added), &names(removed), is_root).map(|all| all.len())
        };
        assert_eq!(of("", "", true), None);
        assert_eq!(of("", "ALL", true), Some(0));
        assert_eq!(of("", "ALL", false), None);
        assert_eq!(of("NET_ADMIN", "", true), Some(15));
        assert_eq!(of("NET_BIND_SERVICE", "all", true), Some(1));
        assert_eq!(of("CAP_NET_ADMIN", "", false), Some(1));
        assert_eq!(of("", "CAP_MKNOD NET_RAW", true), Some(12));
        assert_eq!(of("ALL", "", true), None);
    }

    #[test]
    fn shares_become_weights() {
        let pairs = [2, 128, 256, 512, 1024, 2048, 4096, 262_144].map(weight);
        assert_eq!(pairs, [1, 21, 35, 59, 100, 174, 303, 10_000]);
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        let read = ["512m", "1gb", "1.5G", "1024", "10 kb", "x", "-1", "1x"].map(size);
        let read: Vec<&str> = read
            .iter()
            .map(|size| size.as_deref().unwrap_or("-"))
            .collect();
        assert_eq!(read, ["512M", "1G", "1.5G", "1024", "10K", "-", "-", "-"]);
        assert_eq!(bytes("1.5g"), Some(1_610_612_736));
    }
}
