//! A workload's name: what may become a folder, a label and a word in a
//! sentence without any escaping.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Matches `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadName(Arc<str>);

/// The rule for names, for messages.
pub const RULE: &str = "1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends";

impl WorkloadName {
    /// Returns `None` if the text is not a valid name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let bytes = text.as_bytes();
        let ends = [bytes.first()?, bytes.last()?];
        let valid = bytes.len() <= 63
            && bytes.iter().all(|byte| inner(*byte))
            && ends.iter().all(|byte| **byte != b'-');
        valid.then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for WorkloadName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WorkloadName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused = || serde::de::Error::custom(format!("{text:?} is no name: {RULE}"));
        Self::parse(&text).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names() {
        let longest = "a".repeat(63);
        for name in ["a", "0", "web-1", "a--b", longest.as_str()] {
            assert!(WorkloadName::parse(name).is_some(), "{name}");
        }
        let too_long = "a".repeat(64);
        for name in [
            "",
            ".",
            "..",
            "a/../b",
            "-a",
            "a-",
            "A",
            "a_b",
            "a\nb",
            "ä",
            too_long.as_str(),
        ] {
            assert!(WorkloadName::parse(name).is_none(), "{name}");
        }
    }
}
