//! The keys of a fleet in etcd, and what is in them.
//!
//! ```text
//! desired/NAME                    a workload that the fleet should run          a person
//! drains/NODE                     the node should get empty                     a person
//! nodes/NODE                      what a node has; with its lease               the node
//! health/NODE/NAME/INDEX          how a replica is                              the node
//! endpoints/SERVICE/NODE/INDEX    where a ready replica answers; with its       the node
//!                                 node's lease
//! assigned/NODE/NAME/INDEX        the node runs this replica                    the scheduler; the node deletes it at its end
//! known/NODE                      a node that has been there                    the scheduler
//! history/NAME/INDEX              the last changes of a replica's place         the scheduler
//! memory                          what a scheduler leaves to the next one       the scheduler
//! election/LEASE                  a scheduler that lives; with its lease        the scheduler
//! ```
//!
//! A value is a JSON object with `kind` and `version`. A program leaves what has a newer version as it is.

use crate::fleet::{Desired, Health, NodeId, Replica, Resources, Time};
use crate::reason::{Change, Reason, Wait};
use crate::schedule::Memory;
use crate::store::{LeaseId, Revision};
use enforcer_model::WorkloadName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The place of a record. Its text is behind the fleet's prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Desired(WorkloadName),
    Drain(NodeId),
    Node(NodeId),
    Health(NodeId, Replica),
    Endpoint(WorkloadName, NodeId, u32),
    Assigned(NodeId, Replica),
    Known(NodeId),
    History(Replica),
    Memory,
    Election(LeaseId),
}

impl Key {
    /// Returns `None` for a key that this version does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let node = NodeId::parse;
        let name = WorkloadName::parse;
        let replica = |workload: &str, index: &str| {
            Some(Replica {
                workload: name(workload)?,
                index: index.parse().ok()?,
            })
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["desired", workload] => name(workload).map(Self::Desired),
            ["drains", id] => node(id).map(Self::Drain),
            ["nodes", id] => node(id).map(Self::Node),
            ["known", id] => node(id).map(Self::Known),
            ["health", id, workload, index] => {
                Some(Self::Health(node(id)?, replica(workload, index)?))
            }
            ["assigned", id, workload, index] => {
                Some(Self::Assigned(node(id)?, replica(workload, index)?))
            }
            ["endpoints", service, id, index] => Some(Self::Endpoint(
                name(service)?,
                node(id)?,
                index.parse().ok()?,
            )),
            ["history", workload, index] => replica(workload, index).map(Self::History),
            ["memory"] => Some(Self::Memory),
            ["election", lease] => {
                let lease = i64::from_str_radix(lease, 16).ok()?;
                Some(Self::Election(LeaseId(lease)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Desired(workload) => write!(f, "desired/{workload}"),
            Self::Drain(node) => write!(f, "drains/{node}"),
            Self::Node(node) => write!(f, "nodes/{node}"),
            Self::Health(node, replica) => write!(f, "health/{node}/{replica}"),
            Self::Endpoint(service, node, index) => {
                write!(f, "endpoints/{service}/{node}/{index}")
            }
            Self::Assigned(node, replica) => write!(f, "assigned/{node}/{replica}"),
            Self::Known(node) => write!(f, "known/{node}"),
            Self::History(replica) => write!(f, "history/{replica}"),
            Self::Memory => f.write_str("memory"),
            Self::Election(lease) => write!(f, "election/{:x}", lease.0),
        }
    }
}

/// A value of a key.
pub trait Record: Serialize + DeserializeOwned {
    const KIND: &'static str;
    const VERSION: u32;

    #[must_use]
    fn encode(&self) -> Vec<u8> {
        let whole = Tagged {
            kind: Self::KIND,
            version: Self::VERSION,
            value: self,
        };
        // A record is a struct of plain values, which JSON can hold.
        serde_json::to_vec(&whole).unwrap_or_default()
    }

    /// # Errors
    /// If it is another kind of record, or a newer one, or no record.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let tag: Tag = serde_json::from_slice(bytes).map_err(RecordError::no_record)?;
        if tag.kind != Self::KIND {
            return Err(RecordError::Kind {
                kind: tag.kind,
                wanted: Self::KIND,
            });
        }
        if tag.version > Self::VERSION {
            return Err(RecordError::Newer(tag.version));
        }
        serde_json::from_slice(bytes).map_err(RecordError::no_record)
    }
}

#[derive(Serialize)]
struct Tagged<'v, T> {
    kind: &'static str,
    version: u32,
    #[serde(flatten)]
    value: &'v T,
}

#[derive(Deserialize)]
struct Tag {
    kind: String,
    version: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("it has version {0}, which a newer enforcer-fleet has written")]
    Newer(u32),
    #[error("its kind is {kind}, and should be {wanted}")]
    Kind { kind: String, wanted: &'static str },
    #[error("it is no record: {0}")]
    NoRecord(String),
}

impl RecordError {
    #[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
    fn no_record(error: serde_json::Error) -> Self {
        Self::NoRecord(error.to_string())
    }
}

macro_rules! record {
    ($name:ty, $kind:literal, $version:literal) => {
        impl Record for $name {
            const KIND: &'static str = $kind;
            const VERSION: u32 = $version;
        }
    };
}

/// The fleet acts on a workload or a node, or it only tells what it would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It only tells what it would do.
    Observe,
    #[default]
    Enforce,
}

impl Mode {
    pub const ALL: &[Self] = &[Self::Observe, Self::Enforce];
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DesiredRecord {
    pub scheduling: Desired,
    #[serde(default)]
    pub mode: Mode,
    /// The workload as a manifest of enforcer has it.
    pub workload: Value,
}
record!(DesiredRecord, "desired", 1);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// The reason that the person gave.
    #[serde(default)]
    pub why: String,
}
record!(DrainRecord, "drain", 1);

/// The shares of the last ten seconds in which programs of the host waited, in percent: some of them for a CPU, all of them for memory, and all
/// of them for a disk (PSI, Linux 4.20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub cpu_percent: u32,
    pub memory_percent: u32,
    pub io_percent: u32,
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, memory, io) = (self.cpu_percent, self.memory_percent, self.io_percent);
        write!(f, "cpu {cpu} %, memory {memory} %, io {io} %")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The capacity for a fleet's workloads.
    pub capacity: Resources,
    pub labels: BTreeMap<String, String>,
    pub fleet_version: String,
    pub agent_version: Option<String>,
    /// How busy the host was at the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    /// What the fleet does about its workloads there.
    #[serde(default)]
    pub mode: Mode,
    /// The time of the last answered check of each replica.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub last_checks: BTreeMap<String, Time>,
}
record!(NodeRecord, "node", 1);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    pub health: Health,
    /// The change of the desired workload whose version it runs.
    pub revision: Revision,
    pub consecutive_failures: u32,
    pub restarts: u64,
    /// Its agent has given up restarting it for a while.
    #[serde(default)]
    pub breaker_open: bool,
    /// The host's own rules do not allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
}

/// The refusal of one version of a workload. It stays after the replica has left, so that the replica does not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub why: String,
    /// The last change of the desired workload when it was refused.
    pub of: Revision,
}
record!(HealthRecord, "health", 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    pub address: String,
    pub port: u16,
}
record!(EndpointRecord, "endpoint", 1);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedRecord {
    /// The change of the desired workload whose version it runs, or a later one.
    pub revision: Revision,
    /// It should end, for this reason. The node deletes the record when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Reason>,
}
record!(AssignedRecord, "assigned", 1);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRecord {
    pub capacity: Resources,
    pub labels: BTreeMap<String, String>,
    /// Its lease has expired then, and it has not come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_since: Option<Time>,
}
record!(KnownRecord, "known", 1);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// The last changes, the newest one last.
    pub changes: Vec<(Time, Change)>,
    /// The reason for which it is not where it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<Wait>,
    /// The change that would be made if its workload were not only observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<Change>,
}
record!(HistoryRecord, "history", 1);

impl HistoryRecord {
    /// The most changes that are kept.
    pub const MOST: usize = 20;

    pub fn add(&mut self, at: Time, change: Change) {
        self.changes.push((at, change));
        let surplus = self.changes.len().saturating_sub(Self::MOST);
        self.changes.drain(..surplus);
    }
}

record!(Memory, "memory", 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_read_as_it_is_written() {
        for text in [
            "desired/web",
            "drains/host-1",
            "nodes/host-1.example.org",
            "health/host-1/web/2",
            "endpoints/web/host-1/0",
            "assigned/host-1/web/12",
            "known/host-1",
            "history/web/0",
            "memory",
            "election/694d9afc12a4b80a",
        ] {
            let key = Key::parse(text);
            assert_eq!(key.map(|key| key.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            "desired/",
            "desired/web/0",
            "nodes/Host",
            "health/a/b/c",
            "other/x",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_newer_record_is_refused() {
        let drain = DrainRecord {
            why: "new disks".to_owned(),
        };
        let bytes = drain.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            r#"{"kind":"drain","version":1,"why":"new disks"}"#
        );
        assert_eq!(DrainRecord::decode(&bytes), Ok(drain));
        let newer = br#"{"kind":"drain","version":2,"why":{}}"#;
        assert_eq!(DrainRecord::decode(newer), Err(RecordError::Newer(2)));
        let other = DrainRecord::decode(&AssignedRecord::default().encode());
        let said = other.map_err(|error| error.to_string());
        assert_eq!(
            said,
            Err("its kind is assigned, and should be drain".to_owned())
        );
        assert!(DrainRecord::decode(b"{}").is_err());
    }
}
