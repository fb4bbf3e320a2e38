//! One event as it is stored and sent: the shape of `events --json`.

use crate::detail::Detail;
use crate::ids::{Cause, InstanceId, Seq};
use crate::name::ReplicaId;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::sync::Arc;

/// An event of the history.
#[derive(Clone, Debug)]
pub struct Record {
    pub seq: Seq,
    pub time: jiff::Timestamp,
    pub boot_id: Arc<str>,
    /// `None` for an event of the host or of the agent.
    pub workload: Option<ReplicaId>,
    pub instance: Option<InstanceId>,
    pub reason: Option<Cause>,
    pub caused_by: Option<Seq>,
    pub detail: Detail,
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Record", 9)?;
        fields.serialize_field("seq", &self.seq)?;
        fields.serialize_field("time", &self.time)?;
        fields.serialize_field("boot_id", &self.boot_id)?;
        fields.serialize_field("workload", &self.workload)?;
        fields.serialize_field("instance", &self.instance)?;
        fields.serialize_field("kind", self.detail.kind())?;
        fields.serialize_field("reason", &self.reason)?;
        fields.serialize_field("caused_by", &self.caused_by)?;
        fields.serialize_field("details", &self.detail)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Shape {
            seq: Seq,
            time: jiff::Timestamp,
            boot_id: Arc<str>,
            workload: Option<ReplicaId>,
            instance: Option<InstanceId>,
            kind: String,
            reason: Option<Cause>,
            caused_by: Option<Seq>,
            details: Box<RawValue>,
        }
        let shape = Shape::deserialize(deserializer)?;
        Ok(Self {
            seq: shape.seq,
            time: shape.time,
            boot_id: shape.boot_id,
            workload: shape.workload,
            instance: shape.instance,
            reason: shape.reason,
            caused_by: shape.caused_by,
            detail: Detail::read(&shape.kind, shape.details),
        })
    }
}
