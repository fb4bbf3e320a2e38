//! Variables in the values of a Compose file: `$X`, `${X}`, and `${X:-default}` with its relatives. `$$` is
//! a dollar sign.

use enforcer_manifest::{Node, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The variables, and those that were asked for and have no value.
pub(super) struct Variables<'v> {
    pub(super) known: &'v BTreeMap<String, String>,
    pub(super) missing: BTreeSet<String>,
}

/// The deepest nesting of defaults.
const DEPTH: usize = 16;
/// The longest text that a value becomes.
const LONGEST: usize = 1 << 20;

impl Variables<'_> {
    /// Returns a tree with all variables replaced, in values and not in keys. A fault comes with its place.
    pub(super) fn fill(&mut self, node: &Node) -> Result<Node, (usize, String)> {
        let value = match &node.value {
            Value::Null => Value::Null,
            Value::Scalar { text, plain } if text.contains('$') => Value::Scalar {
                text: self
                    .text(text, 0)
                    .map_err(|message| (node.span.start, message))?,
                plain: *plain,
            },
            Value::Scalar { .. } => node.value.clone(),
            Value::Sequence(items) => {
                let items: Result<Vec<Node>, _> =
                    items.iter().map(|item| self.fill(item)).collect();
                Value::Sequence(items?)
            }
            Value::Mapping(entries) => {
                let entries: Result<Vec<(Node, Node)>, _> = entries
                    .iter()
                    .map(|(key, value)| Ok((key.clone(), self.fill(value)?)))
                    .collect();
                Value::Mapping(entries?)
            }
        };
        Ok(Node {
            span: node.span.clone(),
            value,
        })
    }

    fn text(&mut self, text: &str, depth: usize) -> Result<String, String> {
        if depth > DEPTH {
            return Err("the defaults of variables are nested too deeply".to_owned());
        }
        let mut filled = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            filled.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                filled.push('$');
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let end =
                    closing(after).ok_or_else(|| format!("`${{` is not closed in `{text}`"))?;
                filled.push_str(&self.braced(&after[..end], depth)?);
                rest = &after[end + 1..];
            } else {
                let length = name_length(rest);
                if length == 0 {
                    return Err(format!(
                        "`$` names no variable in `{text}`; a dollar sign is `$$`"
                    ));
                }
                filled.push_str(&self.value(&rest[..length]));
                rest = &rest[length..];
            }
            if filled.len() > LONGEST {
                return Err("the value becomes longer than 1 MiB".to_owned());
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Returns what stands for the inside of `${…}`.
    fn braced(&mut self, inside: &str, depth: usize) -> Result<String, String> {
        let length = name_length(inside);
        let (name, rest) = inside.split_at(length);
        if name.is_empty() {
            return Err(format!("`${{{inside}}}` names no variable"));
        }
        let known = self.known.get(name).cloned();
        let (counts_empty, rest) = match rest.strip_prefix(':') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let set = known
            .clone()
            .filter(|value| !counts_empty || !value.is_empty());
        let mut operator = rest.chars();
        match (operator.next(), set) {
            (None, _) if !counts_empty => Ok(self.value(name)),
            (Some('-'), Some(value)) | (Some('?'), Some(value)) => Ok(value),
            (Some('-'), None) => self.text(operator.as_str(), depth + 1),
            (Some('?'), None) => {
                let why = self.text(operator.as_str(), depth + 1)?;
                let why = if why.is_empty() {
                    "it is required"
                } else {
                    &why
                };
                Err(format!("the variable {name} is not set: {why}"))
            }
            (Some('+'), Some(_)) => self.text(operator.as_str(), depth + 1),
            (Some('+'), None) => Ok(String::new()),
            _ => Err(format!("`${{{inside}}}` has no operator that is known")),
        }
    }

    fn value(&mut self, name: &str) -> String {
        if let Some(value) = self.known.get(name) {
            return value.clone();
        }
        self.missing.insert(name.to_owned());
        String::new()
    }
}

fn name_length(text: &str) -> usize {
    let is_part = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || byte == b'_' || (at > 0 && byte.is_ascii_digit())
    };
    text.bytes()
        .enumerate()
        .take_while(|part| is_part(*part))
        .count()
}

/// Returns where the brace that opened before this text is closed.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    let mut before = ' ';
    for (at, next) in text.char_indices() {
        match next {
            '{' if before == '$' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
        before = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_as_compose_does() {
        let known = [("A", "1"), ("EMPTY", ""), ("B", "two")];
        let known = known
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let filled = |text: &str| {
            let mut variables = Variables {
                known: &known,
                missing: BTreeSet::new(),
            };
            variables.text(text, 0)
        };
        for (text, expected) in [
            ("$A-${B}", "1-two"),
            ("$$A $${B}", "$A ${B}"),
            ("${X:-d}${X-e}", "de"),
            ("${EMPTY:-d}|${EMPTY-e}", "d|"),
            ("${X:-${Y:-${B}}}", "two"),
            ("${A:+set}${X:+set}${EMPTY+set}${EMPTY:+set}", "setset"),
            ("${A:?no}", "1"),
            ("$X", ""),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            (
                "${X:?it is needed}",
                "the variable X is not set: it is needed",
            ),
            ("${X", "`${` is not closed in `${X`"),
            ("${X!}", "`${X!}` has no operator that is known"),
            (
                "a $ b",
                "`$` names no variable in `a $ b`; a dollar sign is `$$`",
            ),
        ] {
            assert_eq!(filled(text), Err(expected.to_owned()), "{text}");
        }
    }
}
