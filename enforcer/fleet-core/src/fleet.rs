//! Holds the facts about a fleet: its nodes, the workloads that it should run, and the places and the health of their replicas.

pub use enforcer_model::WorkloadName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A point in time, from any beginning that all of them share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub Duration);

impl Time {
    /// Returns the time since an earlier point; 0 if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// The name of a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The rule of [`NodeId::parse`], in words.
    pub const RULE: &str =
        "up to 253 of a-z, 0-9, - and ., which begin and end with a letter or a digit";

    /// Returns `None` if the text is no name of a host.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_good = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        };
        let ends = [text.bytes().next()?, text.bytes().last()?];
        let is_name = text.len() <= 253
            && text.bytes().all(is_good)
            && ends.iter().all(u8::is_ascii_alphanumeric);
        is_name.then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what comes before all names of nodes in their order.
    pub(crate) fn first() -> Self {
        Self("".into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused = || serde::de::Error::custom(format!("{text:?} is no node: {}", Self::RULE));
        Self::parse(&text).ok_or_else(refused)
    }
}

/// Memory and CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    pub memory_bytes: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
}

impl Resources {
    #[must_use]
    pub fn fits_in(self, free: Self) -> bool {
        self.memory_bytes <= free.memory_bytes && self.cpu_millis <= free.cpu_millis
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
        }
    }

    /// Returns what is left without the other; 0 if there is none.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Up,
    /// It gets nothing new, and what it has moves away.
    Draining,
    /// It is up, and the scheduler changes nothing on it. It only tells what it would change.
    Observed,
    /// Its lease has expired.
    Lost {
        since: Time,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The capacity for a fleet's workloads: the host's own without its reserve.
    pub capacity: Resources,
    pub labels: BTreeMap<String, String>,
    pub state: NodeState,
}

/// A workload that the fleet should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    pub replicas: u32,
    /// The resources that each replica needs.
    pub needs: Resources,
    /// The labels that a node must have.
    pub requires: BTreeMap<String, String>,
    /// The label whose values are failure domains, such as `zone`.
    pub domain: Option<String>,
    /// A higher one displaces lower ones where nothing else fits.
    pub priority: u8,
    /// Two instances of a replica must never run at once.
    pub singleton: bool,
    /// The most replicas that a voluntary move may leave without one that is ready; at least 1.
    pub max_unavailable: u32,
}

/// The values that a workload has if its manifest names none of them.
impl Default for Desired {
    fn default() -> Self {
        Self {
            replicas: 1,
            needs: Resources::default(),
            requires: BTreeMap::new(),
            domain: None,
            priority: 50,
            singleton: false,
            max_unavailable: 1,
        }
    }
}

/// A replica of a workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    pub workload: WorkloadName,
    pub index: u32,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workload, self.index)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Its node has not said anything of it yet.
    #[default]
    Unknown,
    Ready,
    /// It is not ready, and may become so. It has run without readiness since then, if it runs.
    Unready {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Time>,
    },
    /// Its node cannot heal it.
    Failing {
        since: Time,
    },
}

/// The whole knowledge of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    pub nodes: BTreeMap<NodeId, Node>,
    pub desired: BTreeMap<WorkloadName, Desired>,
    /// The node of each replica that has one.
    pub assigned: BTreeMap<Replica, NodeId>,
    pub health: BTreeMap<Replica, Health>,
    /// The nodes that may still run a replica which is no longer theirs.
    pub leaving: BTreeMap<Replica, BTreeSet<NodeId>>,
    /// The nodes on which a workload is refused, by the host's own rules.
    pub refused: BTreeSet<(WorkloadName, NodeId)>,
    /// There are more workloads than these. The capacities are without what they need.
    pub is_part: bool,
}

impl Fleet {
    #[must_use]
    pub fn health(&self, replica: &Replica) -> Health {
        self.health.get(replica).copied().unwrap_or_default()
    }

    /// Returns the replicas of a workload, with their nodes.
    pub fn replicas_of(
        &self,
        workload: &WorkloadName,
    ) -> impl Iterator<Item = (&Replica, &NodeId)> {
        let first = Replica {
            workload: workload.clone(),
            index: 0,
        };
        let last = Replica {
            workload: workload.clone(),
            index: u32::MAX,
        };
        self.assigned.range(first..=last)
    }
}
