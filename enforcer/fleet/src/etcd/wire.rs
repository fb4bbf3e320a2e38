//! The JSON of etcd's gateway: bytes are base64, numbers of 64 bits are strings, and what is zero or empty is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enforcer_fleet_core::store::{
    Change, Condition, Entry, Keys, LeaseId, Operation, Revision, Transaction,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

/// Bytes of a key or a value.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// A number, which may be a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Number(pub(super) i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(i64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(Self(number)),
            // Identities of clusters and members are unsigned.
            Either::Text(text) => text
                .parse()
                .or_else(|_| text.parse().map(u64::cast_signed))
                .map(Self)
                .map_err(serde::de::Error::custom),
        }
    }
}

fn bytes(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

fn range(keys: &Keys) -> Value {
    let (key, end) = keys.range();
    match end.is_empty() {
        true => json!({ "key": bytes(key) }),
        false => json!({ "key": bytes(key), "range_end": bytes(&end) }),
    }
}

/// Returns the body of a `RangeRequest`.
pub(super) fn get(keys: &Keys, at: Option<Revision>) -> Value {
    let mut body = range(keys);
    if let Some(at) = at {
        body["revision"] = at.0.to_string().into();
    }
    body
}

fn condition(condition: &Condition) -> Value {
    let (key, target, field, at) = match condition {
        Condition::Created(key, at) => (key, "CREATE", "create_revision", at),
        Condition::Modified(key, at) => (key, "MOD", "mod_revision", at),
    };
    json!({ "key": bytes(key.as_bytes()), "target": target, "result": "EQUAL", field: at.0.to_string() })
}

fn operation(operation: &Operation) -> Value {
    match operation {
        Operation::Put { key, value, lease } => {
            let mut put = json!({ "key": bytes(key.as_bytes()), "value": bytes(value) });
            if let Some(lease) = lease {
                put["lease"] = lease.0.to_string().into();
            }
            json!({ "request_put": put })
        }
        Operation::Delete(keys) => json!({ "request_delete_range": range(keys) }),
        Operation::Get(keys) => json!({ "request_range": range(keys) }),
    }
}

/// Returns the body of a `TxnRequest`.
pub(super) fn transaction(transaction: &Transaction) -> Value {
    let operations = |all: &[Operation]| all.iter().map(operation).collect::<Vec<_>>();
    json!({
        "compare": transaction.conditions.iter().map(condition).collect::<Vec<_>>(),
        "success": operations(&transaction.then),
        "failure": operations(&transaction.otherwise),
    })
}

/// Returns the body of a `WatchRequest`.
pub(super) fn watch(keys: &Keys, from: Revision) -> Value {
    let mut create = range(keys);
    create["start_revision"] = from.0.to_string().into();
    json!({ "create_request": create })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) cluster_id: Number,
    pub(super) revision: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    key: Bytes,
    value: Bytes,
    create_revision: Number,
    mod_revision: Number,
    lease: Number,
}

impl KeyValue {
    fn key(&self) -> String {
        String::from_utf8_lossy(&self.key.0).into_owned()
    }
}

impl From<KeyValue> for Entry {
    fn from(of: KeyValue) -> Self {
        Self {
            key: of.key(),
            value: of.value.0,
            created: Revision(of.create_revision.0),
            modified: Revision(of.mod_revision.0),
            lease: (of.lease.0 != 0).then_some(LeaseId(of.lease.0)),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Range {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transacted {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    pub(super) responses: Vec<OperationAnswer>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OperationAnswer {
    pub(super) response_range: Option<Range>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    pub(super) header: Header,
    #[serde(rename = "ID")]
    pub(super) id: Number,
    #[serde(rename = "TTL")]
    pub(super) ttl: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Leased {
    pub(super) header: Header,
    #[serde(rename = "TTL")]
    pub(super) ttl: Number,
    #[serde(rename = "grantedTTL")]
    pub(super) granted_ttl: Number,
    pub(super) keys: Vec<Bytes>,
}

/// An answer of which only the header counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Done {
    pub(super) header: Header,
}

#[derive(Debug, Deserialize)]
pub(super) struct Authenticated {
    pub(super) token: String,
}

/// An element of an answer that is a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Element<T> {
    pub(super) result: Option<T>,
    pub(super) error: Option<Failure>,
}

/// An error of etcd. A stream has other names for its parts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    #[serde(alias = "grpc_code")]
    pub(super) code: i32,
    message: String,
    error: Value,
}

impl Failure {
    /// Returns the error that a stream has in place of its first element: it is one level deeper.
    pub(super) fn innermost(self) -> Self {
        match self.error {
            Value::Object(_) => serde_json::from_value(self.error).unwrap_or_default(),
            _ => self,
        }
    }

    pub(super) fn message(&self) -> &str {
        match &self.error {
            Value::String(error) if self.message.is_empty() => error,
            _ => &self.message,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Watched {
    pub(super) header: Header,
    pub(super) canceled: bool,
    pub(super) cancel_reason: String,
    pub(super) compact_revision: Number,
    pub(super) events: Vec<WatchedEvent>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WatchedEvent {
    #[serde(rename = "type", default)]
    kind: String,
    kv: KeyValue,
}

impl From<WatchedEvent> for Change {
    fn from(event: WatchedEvent) -> Self {
        match event.kind.as_str() {
            "DELETE" => Self::Deleted {
                key: event.kv.key(),
                at: Revision(event.kv.mod_revision.0),
            },
            _ => Self::Put(event.kv.into()),
        }
    }
}
