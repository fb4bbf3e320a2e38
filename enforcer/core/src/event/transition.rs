//! A decision as the history records it, before it has a time.

use super::{Cause, Detail, InstanceId, Seq};
use crate::name::ReplicaId;

/// An event to record; transitions are in the order of the decisions.
#[derive(Clone, Debug)]
pub struct Transition {
    pub seq: Seq,
    /// `None` for an event of the host or of the agent.
    pub workload: Option<ReplicaId>,
    pub instance: Option<InstanceId>,
    pub reason: Option<Cause>,
    pub caused_by: Option<Seq>,
    pub detail: Detail,
}
