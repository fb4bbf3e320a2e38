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

/// What is supervised as one: a workload, or one of its replicas.
///
/// ```text
/// web      a workload without `replicas`, or all replicas of one that has them
/// web/1    a replica
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    workload: WorkloadName,
    index: Option<u16>,
}

impl ReplicaId {
    #[must_use]
    pub fn new(workload: WorkloadName, index: Option<u16>) -> Self {
        Self { workload, index }
    }

    /// Reads `web` or `web/1`. Returns `None` if the text is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::split(text, '/')
    }

    /// Reads [`file_name`](Self::file_name) back.
    #[must_use]
    pub fn from_file_name(text: &str) -> Option<Self> {
        Self::split(text, '.')
    }

    fn split(text: &str, separator: char) -> Option<Self> {
        let (name, index) = match text.split_once(separator) {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        // One number has one text: `01` and `+1` are none.
        let number = index
            .map(|index| index.parse::<u16>().ok())
            .map(|number| number.filter(|number| Some(number.to_string().as_str()) == index));
        Some(Self {
            workload: WorkloadName::parse(name)?,
            index: match number {
                Some(number) => Some(number?),
                None => None,
            },
        })
    }

    /// Returns whether this names `other`: itself, or all replicas of a workload.
    #[must_use]
    pub fn names(&self, other: &Self) -> bool {
        self == other || (self.index.is_none() && self.workload == other.workload)
    }

    #[must_use]
    pub fn workload(&self) -> &WorkloadName {
        &self.workload
    }

    /// `None` for a workload without `replicas`.
    #[must_use]
    pub fn index(&self) -> Option<u16> {
        self.index
    }

    /// Returns the name for files and messages of other programs: `web` or `web.1`.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self.index {
            Some(index) => format!("{}.{index}", self.workload),
            None => self.workload.as_str().to_owned(),
        }
    }

    /// Returns the path of the cgroup below the one of all workloads: `web` or `web.replicas/1`.
    #[must_use]
    pub fn cgroup_path(&self) -> String {
        match self.index {
            Some(index) => format!("{}{REPLICAS}/{index}", self.workload),
            None => self.workload.as_str().to_owned(),
        }
    }
}

/// The end of the name of a cgroup that holds replicas.
pub const REPLICAS: &str = ".replicas";

impl From<WorkloadName> for ReplicaId {
    fn from(workload: WorkloadName) -> Self {
        Self::new(workload, None)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => f.pad(&format!("{}/{index}", self.workload)),
            None => self.workload.fmt(f),
        }
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ReplicaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.index {
            Some(_) => serializer.collect_str(self),
            None => self.workload.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ReplicaId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused = || {
            serde::de::Error::custom(format!(
                "{text:?} is no name, nor one with `/` and a number: {RULE}"
            ))
        };
        Self::parse(&text).ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_its_texts() {
        let id = ReplicaId::parse("web/12").expect("a replica");
        assert_eq!((id.workload().as_str(), id.index()), ("web", Some(12)));
        let texts = [id.to_string(), id.file_name(), id.cgroup_path()];
        assert_eq!(texts, ["web/12", "web.12", "web.replicas/12"]);
        assert_eq!(ReplicaId::from_file_name("web.12"), Some(id));
        let alone = ReplicaId::parse("web").expect("a workload");
        let texts = [alone.to_string(), alone.file_name(), alone.cgroup_path()];
        assert_eq!(texts, ["web"; 3]);
        for text in [
            "web/",
            "web/01",
            "web/+1",
            "web/-1",
            "web/1/2",
            "web/70000",
            "/1",
            "web.1",
        ] {
            assert_eq!(ReplicaId::parse(text), None, "{text}");
        }
    }

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
