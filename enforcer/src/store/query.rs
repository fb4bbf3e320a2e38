//! The queries of the history.

use enforcer_core::ReplicaId;
use enforcer_model::Record;
use serde::Deserialize;

/// A choice of events.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    pub(crate) workload: Option<String>,
    pub(crate) kind: Option<String>,
    /// The first moment, inclusive.
    pub(crate) since: Option<jiff::Timestamp>,
    /// The last moment, exclusive.
    pub(crate) until: Option<jiff::Timestamp>,
    /// The number of an event; only later ones match.
    pub(crate) after: Option<u64>,
    /// The number of events, counted from the end.
    pub(crate) last: Option<usize>,
    /// The number of events, counted from the beginning. A request cannot set it.
    #[serde(skip)]
    pub(crate) first: Option<usize>,
}

impl Query {
    pub(crate) fn takes(&self, record: &Record) -> bool {
        let named = |wanted: &String| {
            let wanted = ReplicaId::parse(wanted);
            let found = record.workload.as_ref();
            wanted
                .zip(found)
                .is_some_and(|(wanted, found)| wanted.names(found))
        };
        self.workload.as_ref().is_none_or(named)
            && self
                .kind
                .as_ref()
                .is_none_or(|kind| kind == record.detail.kind())
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.after.is_none_or(|after| record.seq.0 > after)
    }
}
