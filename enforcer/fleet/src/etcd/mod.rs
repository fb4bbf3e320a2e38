//! A client of etcd's JSON gateway (etcd 3.4 and later, <https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/>).
//!
//! A call goes to one of the endpoints. The next one is tried only if the call cannot have reached the one before: a call without an
//! answer may have made its change, and the caller must look.

mod connection;
mod wire;

pub use connection::{Endpoint, EndpointError, Security};

use connection::{Connections, Reply};
use enforcer_fleet_core::store::{
    Answer, Change, Got, Keys, LeaseId, Request, Revision, StoreError,
};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The time for an answer. etcd itself gives a request up after about seven seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// The longest answer, and the longest element of a stream.
const LONGEST: usize = 64 << 20;

/// gRPC's codes (`google.rpc.Code`).
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const INVALID: i32 = 3;
    pub(super) const DEADLINE: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const DENIED: i32 = 7;
    pub(super) const EXHAUSTED: i32 = 8;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// A user of etcd.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Login").field(&self.user).finish()
    }
}

/// A client of one cluster.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Connections>,
    /// The endpoint that has answered last.
    present: AtomicUsize,
    login: Option<Login>,
    token: Mutex<Option<String>>,
    /// The identity of the cluster, once it is known.
    cluster: Mutex<Option<i64>>,
}

/// The reason for which one endpoint has no answer.
enum Missed {
    /// The request was not sent.
    NotSent(String),
    Other(StoreError),
    /// The token is not valid any more.
    Token,
}

impl Client {
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, login: Option<Login>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Connections::new).collect(),
            present: AtomicUsize::new(0),
            login,
            token: Mutex::default(),
            cluster: Mutex::default(),
        }
    }

    /// Carries a call out.
    ///
    /// # Errors
    /// If etcd refuses it, or does not answer.
    pub async fn call(&self, request: &Request) -> Result<Answer, StoreError> {
        match request {
            Request::Get { keys, at } => {
                let found: wire::Range = self.ask("/v3/kv/range", &wire::get(keys, *at)).await?;
                self.check(&found.header)?;
                Ok(Answer::Got(got(found)))
            }
            Request::Transact(transaction) => {
                let body = wire::transaction(transaction);
                let done: wire::Transacted = self.ask("/v3/kv/txn", &body).await?;
                self.check(&done.header)?;
                let ranges = done.responses.into_iter();
                let ranges = ranges.filter_map(|answer| answer.response_range);
                Ok(Answer::Transacted {
                    revision: Revision(done.header.revision.0),
                    succeeded: done.succeeded,
                    got: ranges.map(got).collect(),
                })
            }
            Request::Grant(lasts) => {
                let body = json!({ "TTL": lasts.as_secs().to_string() });
                let lease: wire::Lease = self.ask("/v3/lease/grant", &body).await?;
                self.check(&lease.header)?;
                let lasts = u64::try_from(lease.ttl.0).unwrap_or_default();
                Ok(Answer::Granted(
                    LeaseId(lease.id.0),
                    Duration::from_secs(lasts),
                ))
            }
            Request::KeepAlive(id) => {
                let body = json!({ "ID": id.0.to_string() });
                let element: wire::Element<wire::Lease> =
                    self.ask("/v3/lease/keepalive", &body).await?;
                let lease = one(element)?;
                self.check(&lease.header)?;
                let lasts = u64::try_from(lease.ttl.0).unwrap_or_default();
                Ok(Answer::KeptAlive(
                    (lasts > 0).then(|| Duration::from_secs(lasts)),
                ))
            }
            Request::Leased(id) => {
                let body = json!({ "ID": id.0.to_string(), "keys": true });
                let asked = self.ask("/v3/lease/timetolive", &body).await;
                let lease: wire::Leased = match asked {
                    Err(StoreError::NoLease) => return Ok(Answer::Leased(None)),
                    asked => asked?,
                };
                self.check(&lease.header)?;
                // One that has ended has -1 seconds left.
                let lasts = u64::try_from(lease.granted_ttl.0).unwrap_or_default();
                let is_there = lasts > 0 && lease.ttl.0 > 0;
                let keys = lease.keys.into_iter();
                let keys = keys.map(|key| String::from_utf8_lossy(&key.0).into_owned());
                Ok(Answer::Leased(
                    is_there.then(|| (Duration::from_secs(lasts), keys.collect())),
                ))
            }
            Request::Revoke(id) => {
                let body = json!({ "ID": id.0.to_string() });
                let done: wire::Done = self.ask("/v3/lease/revoke", &body).await?;
                self.check(&done.header)?;
                Ok(Answer::Revoked)
            }
            Request::Compact(at) => {
                let body = json!({ "revision": at.0.to_string() });
                let done: wire::Done = self.ask("/v3/kv/compaction", &body).await?;
                self.check(&done.header)?;
                Ok(Answer::Compacted)
            }
        }
    }

    /// Begins to follow the changes of some keys, from a revision on.
    ///
    /// # Errors
    /// If etcd refuses, or does not answer.
    pub async fn watch(&self, keys: &Keys, from: Revision) -> Result<Watch, StoreError> {
        let reply = self.send("/v3/watch", &wire::watch(keys, from)).await?;
        Ok(Watch {
            reply,
            unread: Vec::new(),
            at: 0,
        })
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, StoreError> {
        let reply = self.send(path, body).await?;
        let whole = tokio::time::timeout(PATIENCE, whole(reply)).await;
        let whole =
            whole.map_err(|_| StoreError::Unavailable("its answer stopped".to_owned()))??;
        serde_json::from_slice(&whole)
            .map_err(|error| StoreError::Refused(format!("its answer cannot be read: {error}")))
    }

    /// Sends a request to the endpoints in turn, until one has taken it.
    async fn send(&self, path: &str, body: &Value) -> Result<Reply, StoreError> {
        let first = self.present.load(Ordering::Relaxed);
        let mut why = "no endpoint is named".to_owned();
        let mut has_renewed = false;
        let mut turn = 0;
        while turn < self.endpoints.len() {
            let number = (first + turn) % self.endpoints.len();
            let Some(endpoint) = self.endpoints.get(number) else {
                break;
            };
            match self.send_to(endpoint, path, body).await {
                Ok(reply) => {
                    self.present.store(number, Ordering::Relaxed);
                    return Ok(reply);
                }
                // Once: a user may have been deleted.
                Err(Missed::Token) if !has_renewed => {
                    has_renewed = true;
                    *self.token.lock() = None;
                    continue;
                }
                Err(Missed::Token) => {
                    return Err(StoreError::Denied("its token is not valid".to_owned()));
                }
                Err(Missed::NotSent(reason)) => why = format!("{endpoint}: {reason}"),
                Err(Missed::Other(StoreError::Unavailable(reason))) => {
                    // The next call tries another one.
                    self.present.store(number + 1, Ordering::Relaxed);
                    return Err(StoreError::Unavailable(format!("{endpoint}: {reason}")));
                }
                Err(Missed::Other(error)) => return Err(error),
            }
            turn += 1;
        }
        Err(StoreError::Unavailable(why))
    }

    async fn send_to(
        &self,
        endpoint: &Connections,
        path: &str,
        body: &Value,
    ) -> Result<Reply, Missed> {
        let token = self.token(endpoint).await?;
        let reply = post(endpoint, path, body, token.as_deref()).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(failure(reply).await)
    }

    /// Returns the token of the user, who is logged in with the first call.
    async fn token(&self, endpoint: &Connections) -> Result<Option<String>, Missed> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        if let Some(token) = self.token.lock().clone() {
            return Ok(Some(token));
        }
        let body = json!({ "name": login.user, "password": login.password });
        let reply = post(endpoint, "/v3/auth/authenticate", &body, None).await?;
        if !reply.status.is_success() {
            return Err(match failure(reply).await {
                Missed::Token => {
                    Missed::Other(StoreError::Denied("the password is wrong".to_owned()))
                }
                other => other,
            });
        }
        let answer = whole(reply).await.map_err(Missed::Other)?;
        let answer: wire::Authenticated = serde_json::from_slice(&answer).map_err(|error| {
            Missed::Other(StoreError::Refused(format!(
                "its answer cannot be read: {error}"
            )))
        })?;
        *self.token.lock() = Some(answer.token.clone());
        Ok(Some(answer.token))
    }

    /// Checks that the cluster is the one that has answered before. Another one knows nothing of this one's revisions.
    fn check(&self, header: &wire::Header) -> Result<(), StoreError> {
        let now = header.cluster_id.0;
        let mut cluster = self.cluster.lock();
        match *cluster.get_or_insert(now) == now {
            true => Ok(()),
            false => Err(StoreError::OtherCluster),
        }
    }
}

fn got(range: wire::Range) -> Got {
    Got {
        revision: Revision(range.header.revision.0),
        entries: range.kvs.into_iter().map(Into::into).collect(),
    }
}

async fn post(
    endpoint: &Connections,
    path: &str,
    body: &Value,
    token: Option<&str>,
) -> Result<Reply, Missed> {
    match tokio::time::timeout(PATIENCE, endpoint.post(path, body, token)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(connection::Failed::NotSent(why))) => Err(Missed::NotSent(why)),
        Ok(Err(connection::Failed::Broken(why))) => {
            Err(Missed::Other(StoreError::Unavailable(why)))
        }
        Err(_) => {
            let why = format!("no answer within {} s", PATIENCE.as_secs());
            Err(Missed::Other(StoreError::Unavailable(why)))
        }
    }
}

/// Reads an answer to its end.
async fn whole(mut reply: Reply) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    while let Some(frame) = reply.body.frame().await {
        let frame = frame.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > LONGEST {
            return Err(StoreError::Refused("its answer has no end".to_owned()));
        }
    }
    reply.done();
    Ok(bytes)
}

/// Reads an answer that is an error.
async fn failure(reply: Reply) -> Missed {
    let status = reply.status;
    let bytes = match whole(reply).await {
        Ok(bytes) => bytes,
        Err(error) => return Missed::Other(error),
    };
    // A server without the gateway answers in plain text.
    match serde_json::from_slice::<wire::Failure>(&bytes) {
        Ok(failure) => understood(&failure.innermost()),
        Err(_) if status.as_u16() == 404 => Missed::Other(StoreError::NoGateway),
        Err(_) => Missed::Other(StoreError::Refused(format!("HTTP status {status}"))),
    }
}

fn understood(failure: &wire::Failure) -> Missed {
    let message = failure.message();
    let error = match failure.code {
        code::OUT_OF_RANGE if message.contains("compacted") => StoreError::Compacted,
        code::OUT_OF_RANGE if message.contains("future") => StoreError::Future,
        code::EXHAUSTED if message.contains("space") => StoreError::Full,
        code::NOT_FOUND if message.contains("lease") => StoreError::NoLease,
        code::UNAUTHENTICATED => return Missed::Token,
        // A call without a user, and one with a wrong password.
        code::INVALID if message.contains("user name") || message.contains("auth") => {
            StoreError::Denied(message.to_owned())
        }
        code::DENIED => StoreError::Denied(message.to_owned()),
        code::UNAVAILABLE | code::DEADLINE | code::CANCELLED => {
            StoreError::Unavailable(message.to_owned())
        }
        // A member that is going down gives no reason.
        code if message.is_empty() => {
            StoreError::Unavailable(format!("it gives no reason (code {code})"))
        }
        _ => StoreError::Refused(message.to_owned()),
    };
    Missed::Other(error)
}

fn one<T>(element: wire::Element<T>) -> Result<T, StoreError> {
    match (element.result, element.error) {
        (Some(result), _) => Ok(result),
        (None, Some(failure)) => Err(match understood(&failure) {
            Missed::Other(error) => error,
            Missed::Token => StoreError::Denied("its token is not valid".to_owned()),
            Missed::NotSent(why) => StoreError::Unavailable(why),
        }),
        (None, None) => Err(StoreError::Refused("its answer is empty".to_owned())),
    }
}

/// Follows changes. It ends with an error, and the caller begins again with a list.
#[derive(Debug)]
pub struct Watch {
    reply: Reply,
    unread: Vec<u8>,
    /// The bytes of `unread` that were searched for the end of an element.
    at: usize,
}

impl Watch {
    /// Waits for changes. Those of one revision come together. There are none in the first answer.
    ///
    /// # Errors
    /// If the watch has ended.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        let line = self.line().await?;
        let element = serde_json::from_slice::<wire::Element<wire::Watched>>(&line);
        let element = element
            .map_err(|error| StoreError::Refused(format!("its answer cannot be read: {error}")))?;
        let watched = one(element)?;
        if watched.canceled {
            let reason = watched.cancel_reason;
            return Err(match watched.compact_revision.0 {
                0 if reason.contains("compacted") => StoreError::Compacted,
                0 => StoreError::Unavailable(format!("the watch has ended: {reason}")),
                _ => StoreError::Compacted,
            });
        }
        Ok(watched.events.into_iter().map(Into::into).collect())
    }

    /// Reads one element of the stream, which is a line.
    async fn line(&mut self) -> Result<Vec<u8>, StoreError> {
        loop {
            if let Some(end) = self.unread[self.at..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let rest = self.unread.split_off(self.at + end + 1);
                self.at = 0;
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            self.at = self.unread.len();
            if self.unread.len() > LONGEST {
                return Err(StoreError::Refused("its answer has no end".to_owned()));
            }
            let ended = || StoreError::Unavailable("the watch has ended".to_owned());
            let frame = self.reply.body.frame().await.ok_or_else(ended)?;
            let frame = frame.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            if let Some(data) = frame.data_ref() {
                self.unread.extend_from_slice(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    fn failed(text: &str) -> StoreError {
        let failure: wire::Failure = serde_json::from_str(text).expect("an error");
        match understood(&failure.innermost()) {
            Missed::Other(error) => error,
            Missed::Token => StoreError::Denied("token".to_owned()),
            Missed::NotSent(why) => StoreError::Unavailable(why),
        }
    }

    /// Errors as etcd 3.4 and 3.5 write them.
    #[test]
    fn an_error_is_understood() {
        for text in [
            r#"{"error":"etcdserver: mvcc: required revision has been compacted","message":"etcdserver: mvcc: required revision has been compacted","code":11}"#,
            r#"{"error":"etcdserver: mvcc: required revision has been compacted","code":11}"#,
        ] {
            assert_eq!(failed(text), StoreError::Compacted);
        }
        let full = r#"{"error":"etcdserver: mvcc: database space exceeded","code":8}"#;
        assert_eq!(failed(full), StoreError::Full);
        let token = r#"{"error":"etcdserver: invalid auth token","code":16}"#;
        assert_eq!(failed(token), StoreError::Denied("token".to_owned()));
        let down = r#"{"error":"","code":2}"#;
        let reason = "it gives no reason (code 2)".to_owned();
        assert_eq!(failed(down), StoreError::Unavailable(reason));
        let down = r#"{"error":"context canceled","code":1}"#;
        let reason = "context canceled".to_owned();
        assert_eq!(failed(down), StoreError::Unavailable(reason));
        // A stream that has not begun has its error one level deeper.
        for leader in [
            r#"{"error":"etcdserver: no leader","code":14}"#,
            r#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"Service Unavailable"}}"#,
        ] {
            let reason = "etcdserver: no leader".to_owned();
            assert_eq!(failed(leader), StoreError::Unavailable(reason));
        }
        let lease =
            r#"{"error":{"grpc_code":5,"message":"etcdserver: requested lease not found"}}"#;
        assert_eq!(failed(lease), StoreError::NoLease);
    }

    #[derive(Deserialize)]
    struct Holder {
        number: wire::Number,
    }

    #[test]
    fn a_number_may_be_a_string_and_unsigned() {
        let number = |text: &str| {
            serde_json::from_str::<Holder>(text)
                .map(|holder| holder.number.0)
                .ok()
        };
        assert_eq!(
            number(r#"{"number":"14841639068965178418"}"#),
            Some(-3_605_105_004_744_373_198)
        );
        assert_eq!(number(r#"{"number":"12"}"#), Some(12));
        assert_eq!(number(r#"{"number":12}"#), Some(12));
        assert_eq!(number(r#"{"number":"x"}"#), None);
    }
}
