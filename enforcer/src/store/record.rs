//! One event as it is told, kept and read again: the shape of `events --json`.

use enforcer_core::WorkloadName;
use enforcer_core::event::{Cause, Detail, InstanceId, Seq, Transition};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// One event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) seq: Seq,
    pub(crate) time: jiff::Timestamp,
    pub(crate) boot_id: Arc<str>,
    pub(crate) workload: Option<WorkloadName>,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) kind: Cow<'static, str>,
    pub(crate) reason: Option<Cause>,
    pub(crate) caused_by: Option<Seq>,
    pub(crate) details: Details,
}

/// What each kind tells beside that.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Details {
    /// Of this agent's own events.
    Own(Detail),
    /// Of one that was read again.
    Read(Value),
}

impl<'de> Deserialize<'de> for Details {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::Read)
    }
}

impl Record {
    pub(crate) fn of(transition: Transition, time: jiff::Timestamp, boot_id: &Arc<str>) -> Self {
        Self {
            time,
            seq: transition.seq,
            boot_id: Arc::clone(boot_id),
            workload: transition.workload,
            instance: transition.instance,
            kind: Cow::Borrowed(transition.detail.kind()),
            reason: transition.reason,
            caused_by: transition.caused_by,
            details: Details::Own(transition.detail),
        }
    }
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    pub(crate) workload: Option<String>,
    pub(crate) kind: Option<String>,
    /// From then on, and until then.
    pub(crate) since: Option<jiff::Timestamp>,
    pub(crate) until: Option<jiff::Timestamp>,
    /// Later than this one.
    pub(crate) after: Option<u64>,
    /// The last so many.
    pub(crate) last: Option<usize>,
    /// The first so many instead; asked by nobody from outside.
    #[serde(skip)]
    pub(crate) first: Option<usize>,
}

impl Query {
    pub(crate) fn takes(&self, record: &Record) -> bool {
        let workload = record.workload.as_ref().map(WorkloadName::as_str);
        let named = |wanted: &String| workload == Some(wanted.as_str());
        self.workload.as_ref().is_none_or(named)
            && self.kind.as_ref().is_none_or(|kind| *kind == record.kind)
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.after.is_none_or(|after| record.seq.0 > after)
    }
}
