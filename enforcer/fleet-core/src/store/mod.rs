//! The calls to etcd and their answers, as data: the fleet's programs decide which calls to make, and others carry them out. [`simulated`] has
//! the semantics of etcd without its network and its disk.
//!
//! The names are those of etcd's API (etcd 3.4 and later). What no program here uses is left out.

pub mod conformance;
pub mod simulated;

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// The number of a change of the whole store.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision(pub i64);

impl Revision {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The number of a lease, which etcd chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// The change that has made the key. One that is deleted and made again has another one.
    pub created: Revision,
    pub modified: Revision,
    pub lease: Option<LeaseId>,
}

/// Some of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    One(String),
    /// All that begin so.
    Prefix(String),
}

impl Keys {
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }

    /// Returns the first key, and the key behind the last one as etcd's `range_end`.
    #[must_use]
    pub fn range(&self) -> (&[u8], Vec<u8>) {
        match self {
            Self::One(one) => (one.as_bytes(), Vec::new()),
            Self::Prefix(prefix) => {
                let mut end = prefix.as_bytes().to_vec();
                while let Some(last) = end.pop() {
                    if last < u8::MAX {
                        end.push(last + 1);
                        return (prefix.as_bytes(), end);
                    }
                }
                // All keys: etcd knows them by a zero byte at both ends.
                (b"\0", vec![0])
            }
        }
    }
}

/// What must be true of a key for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was made by this change; revision 0 is that of a key that is not there.
    Created(String, Revision),
    /// It was changed last by this change; revision 0 is that of a key that is not there.
    Modified(String, Revision),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Put {
        key: String,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    },
    Delete(Keys),
    Get(Keys),
}

/// Operations that are carried out together, as one change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub conditions: Vec<Condition>,
    pub then: Vec<Operation>,
    /// The operations if a condition does not hold.
    pub otherwise: Vec<Operation>,
}

/// The most conditions, and the most operations, of a transaction (`--max-txn-ops`).
pub const MOST_OPERATIONS: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Asks for keys as they are, or as they were after a change.
    Get {
        keys: Keys,
        at: Option<Revision>,
    },
    Transact(Transaction),
    /// Asks for a lease that ends when it is not kept alive for so long. etcd counts whole seconds.
    Grant(Duration),
    KeepAlive(LeaseId),
    /// Asks for the keys of a lease.
    Leased(LeaseId),
    /// Ends a lease, and deletes its keys.
    Revoke(LeaseId),
    /// Drops what was before a change. A watch from before it ends.
    Compact(Revision),
}

/// The entries that were asked for, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// The last change of the whole store.
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Got(Got),
    Transacted {
        revision: Revision,
        /// The conditions held.
        succeeded: bool,
        /// The entries of each `Get`, in their order.
        got: Vec<Got>,
    },
    Granted(LeaseId, Duration),
    /// The time that the lease has from now on; `None` if it has ended.
    KeptAlive(Option<Duration>),
    /// The time to live that the lease was granted for, and its keys, which etcd names in any
    /// order; `None` if it has ended.
    Leased(Option<(Duration, BTreeSet<String>)>),
    Revoked,
    Compacted,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Deleted { key: String, at: Revision },
}

impl Change {
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }

    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(entry) => entry.modified,
            Self::Deleted { at, .. } => *at,
        }
    }
}

/// The reason for which a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Nobody has answered, or etcd has no leader. A change may have been made all the same.
    Unavailable(String),
    /// What was asked for was before the last compaction.
    Compacted,
    /// The revision is still to come: this is another store than the one before, or it was restored.
    Future,
    /// The database is full, and takes no change until it has been compacted and defragmented.
    Full,
    /// There is no such lease.
    NoLease,
    /// The user may not do this, or is not known.
    Denied(String),
    /// etcd has no JSON gateway at this address.
    NoGateway,
    /// Another cluster answers than before.
    OtherCluster,
    /// Anything else that etcd says.
    Refused(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "etcd does not answer: {why}"),
            Self::Compacted => f.write_str("etcd has dropped this revision (it was compacted)"),
            Self::Future => f.write_str(
                "etcd has not reached the revision that it had before; was it restored from a backup, or is it another cluster?",
            ),
            Self::Full => f.write_str(
                "etcd's database is full and takes no change; compact and defragment it, then `etcdctl alarm disarm`",
            ),
            Self::NoLease => f.write_str("etcd has no such lease"),
            Self::Denied(why) => write!(f, "etcd refuses: {why}"),
            Self::NoGateway => f.write_str(
                "etcd answers no JSON there; it needs `--enable-grpc-gateway`, and this must be the address of its clients",
            ),
            Self::OtherCluster => f.write_str(
                "another etcd cluster answers than before; if that is meant, start this program again",
            ),
            Self::Refused(why) => write!(f, "etcd refuses: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range() {
        let range = |prefix: &str| {
            let keys = Keys::Prefix(prefix.to_owned());
            let (begin, end) = keys.range();
            (begin.to_vec(), end)
        };
        assert_eq!(range("a/"), (b"a/".to_vec(), b"a0".to_vec()));
        assert_eq!(range(""), (vec![0], vec![0]));
        let one = Keys::One("a".to_owned());
        assert_eq!(one.range(), (b"a".as_slice(), vec![]));
    }
}
