//! Says why something changes, and why something does not.

use crate::fleet::{NodeId, Replica};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The reason of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It had no node.
    Placed,
    /// The workload is gone, or has fewer replicas.
    Removed,
    /// Its node's lease has expired.
    NodeLost,
    /// Its node is gone from the fleet.
    NodeRemoved,
    /// Its node is drained.
    Drained,
    /// Its node lacks a label that it requires.
    Unsuited,
    /// Its host's own rules refuse it.
    Refused,
    /// Its node cannot heal it.
    Failing,
    /// It has run for long without becoming ready.
    Unready,
    /// One of a higher priority fits nowhere else.
    Displaced { by: Replica },
    /// Its node has less room than it had.
    Overfull,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Placed => f.write_str("it had no node"),
            Self::Removed => f.write_str("the fleet no longer wants it"),
            Self::NodeLost => f.write_str("its node is lost"),
            Self::NodeRemoved => f.write_str("its node was removed"),
            Self::Drained => f.write_str("its node is drained"),
            Self::Unsuited => f.write_str("its node lacks a label that it requires"),
            Self::Refused => f.write_str("its host refuses it"),
            Self::Failing => f.write_str("its node cannot heal it"),
            Self::Unready => f.write_str("it has run there for long without becoming ready"),
            Self::Displaced { by } => write!(f, "{by} has a higher priority and fits nowhere else"),
            Self::Overfull => f.write_str("its node has not enough room for all it has"),
        }
    }
}

/// A change of one replica's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub replica: Replica,
    pub from: Option<NodeId>,
    pub to: Option<NodeId>,
    pub why: Reason,
}

/// The reason for which a replica is not where it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// No node is suitable. The numbers are nodes, by the first thing that each lacks.
    NoNode {
        down: usize,
        unlike: usize,
        refused: usize,
        failed: usize,
        full: usize,
    },
    /// It would leave fewer ready replicas than its workload may have.
    Unavailable,
    /// No replica of its workload is ready, so another node would hardly help.
    NoneReady,
    /// There were enough moves in the last minute.
    Moves,
    /// Replicas that leave this node make room for it.
    Room(NodeId),
    /// A singleton may still run on the node that it leaves.
    Leaving,
    /// More nodes are lost than a failure of theirs explains.
    MassLoss,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode {
                down,
                unlike,
                refused,
                failed,
                full,
            } => {
                let parts = [
                    (*down, "not up"),
                    (*unlike, "without its labels"),
                    (*refused, "that refuse it"),
                    (*failed, "where it has failed"),
                    (*full, "without room"),
                ];
                let parts = parts.iter().filter(|(count, _)| *count > 0);
                let parts: Vec<String> =
                    parts.map(|(count, what)| format!("{count} {what}")).collect();
                match parts.is_empty() {
                    true => f.write_str("the fleet has no node"),
                    false => write!(f, "no node is suitable: {}", parts.join(", ")),
                }
            }
            Self::Unavailable => {
                f.write_str("it stays for now: too few replicas of its workload are ready")
            }
            Self::NoneReady => f.write_str(
                "it stays for now: no replica of its workload is ready, so another node would hardly help",
            ),
            Self::Moves => f.write_str("it stays for now: there were enough moves in the last minute"),
            Self::Room(node) => write!(f, "room is being made for it on {node}"),
            Self::Leaving => f.write_str("it may still run on the node that it leaves"),
            Self::MassLoss => f.write_str(
                "it stays for now: so many nodes are lost at once that the scheduler is more likely blind",
            ),
        }
    }
}
