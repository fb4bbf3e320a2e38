//! What a file says once for several places: merge keys (`<<`), which lay one mapping under another,
//! and `defaults`, which lie under each workload of their file.

use crate::fault::Fault;
use crate::yaml::{MAX_NODES, Node, Value};
use std::ops::Range;

const MERGE_KEY: &str = "<<";

/// Keys of which a mapping takes one: a workload's own choice replaces that of the defaults.
const CHOICES: &[&[&str]] = &[&crate::read::probes::KINDS];

/// Replaces each merge key by the entries that it names. The mapping's own keys win, then those of
/// the mapping that was named first (yaml.org/type/merge.html).
pub(crate) fn expand(entries: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, Fault> {
    if !entries.iter().any(|(key, _)| is_merge_key(key)) {
        return Ok(entries);
    }
    let (named, mut own): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(key, _)| is_merge_key(key));
    for (key, value) in named {
        let mappings = match value.value {
            Value::Sequence(items) => items,
            Value::Mapping(_) | Value::Scalar { .. } | Value::Null => vec![value],
        };
        for mapping in mappings {
            let Value::Mapping(entries) = mapping.value else {
                return Err(Fault::error(
                    key.span,
                    format!("`<<` needs a mapping, and this is {}", mapping.value.describe()),
                )
                .label("expected the alias of a mapping, or a list of them")
                .help("`x-common: &common { … }` names a mapping, and `<<: *common` lays it under this one"));
            };
            for (key, value) in entries {
                if !own.iter().any(|(known, _)| known.value == key.value) {
                    own.push((key, value));
                }
            }
        }
    }
    Ok(own)
}

fn is_merge_key(key: &Node) -> bool {
    matches!(&key.value, Value::Scalar { text, plain: true } if text == MERGE_KEY)
}

/// Lays the defaults under each workload: mappings key by key, and everything else as the workload
/// has it. The result is bounded like the file itself.
pub(crate) fn with_defaults(
    defaults: &Node,
    place: &Range<usize>,
    workloads: &Node,
) -> Result<Node, Fault> {
    let Value::Mapping(entries) = &workloads.value else {
        return Ok(workloads.clone());
    };
    let sum = size(workloads).saturating_add(size(defaults).saturating_mul(entries.len()));
    if sum > MAX_NODES {
        return Err(Fault::error(
            place.clone(),
            "the file grows beyond all bounds when its `defaults` are laid under each workload",
        )
        .label(format!("past {MAX_NODES} values")));
    }
    let for_attached = of_attached(defaults);
    let entries = entries
        .iter()
        .map(|(name, workload)| {
            let is_attached = workload.value.pairs().any(|(key, ..)| key == "attach");
            let defaults = if is_attached { &for_attached } else { defaults };
            (name.clone(), merged(defaults, workload, &[]))
        })
        .collect();
    Ok(Node {
        span: workloads.span.clone(),
        value: Value::Mapping(entries),
    })
}

/// Returns the defaults that hold for an attached service. The others are for programs that the agent
/// starts.
fn of_attached(defaults: &Node) -> Node {
    let mut defaults = defaults.clone();
    if let Value::Mapping(entries) = &mut defaults.value {
        entries.retain(|(key, _)| {
            let Value::Scalar { text, .. } = &key.value else {
                return false;
            };
            let is_of_programs = matches!(text.as_str(), "mode" | "cgroup");
            !is_of_programs && crate::read::attach::KEYS.contains(&text.as_str())
        });
    }
    defaults
}

/// `path` has the keys from the workload down to here.
fn merged(defaults: &Node, own: &Node, path: &[&str]) -> Node {
    let Value::Mapping(defaults) = &defaults.value else {
        return own.clone();
    };
    // A key without a value is an empty mapping where a mapping is expected.
    let mut entries = match &own.value {
        Value::Mapping(entries) => entries.clone(),
        Value::Null => Vec::new(),
        Value::Scalar { .. } | Value::Sequence(_) => return own.clone(),
    };
    for (key, value) in defaults {
        match entries
            .iter_mut()
            .find(|(known, _)| known.value == key.value)
        {
            Some((_, own)) => {
                let key = match &key.value {
                    Value::Scalar { text, .. } => text.as_str(),
                    Value::Null | Value::Sequence(_) | Value::Mapping(_) => "",
                };
                *own = merged(value, own, &[path, &[key]].concat());
            }
            None if matches!(path, ["probes", _]) && is_chosen_otherwise(key, own) => {}
            None => entries.push((key.clone(), value.clone())),
        }
    }
    Node {
        span: own.span.clone(),
        value: Value::Mapping(entries),
    }
}

/// Returns whether the mapping has another key of the same choice.
fn is_chosen_otherwise(key: &Node, own: &Node) -> bool {
    let Value::Scalar { text, .. } = &key.value else {
        return false;
    };
    let mut choices = CHOICES
        .iter()
        .filter(|choice| choice.contains(&text.as_str()));
    choices.any(|choice| own.value.pairs().any(|(key, ..)| choice.contains(&key)))
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Null | Value::Scalar { .. } => 0,
        Value::Sequence(items) => items.iter().map(size).sum(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| size(key) + size(value))
            .sum(),
    }
}
