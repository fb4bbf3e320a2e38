//! A store with the semantics of etcd, in memory. Time passes when it is told so.

use super::{
    Answer, Change, Condition, Entry, Got, Keys, LeaseId, MOST_OPERATIONS, Operation, Request,
    Revision, StoreError, Transaction,
};
use crate::fleet::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Debug)]
struct Lease {
    lasts: Duration,
    ends: Time,
}

/// The store. The first change has revision 2, as in etcd.
#[derive(Clone, Debug)]
pub struct Simulated {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    compacted: Revision,
    /// All changes. Those before the last compaction are kept to answer what was before a later one.
    history: Vec<Change>,
    leases: BTreeMap<LeaseId, Lease>,
    next_lease: i64,
    is_full: bool,
    /// The number of changes that were asked for, and the bytes of their values.
    pub writes: u64,
    pub written_bytes: u64,
}

impl Default for Simulated {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: Revision(1),
            compacted: Revision(0),
            history: Vec::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
            is_full: false,
            writes: 0,
            written_bytes: 0,
        }
    }
}

fn refused<T>(why: &str) -> Result<T, StoreError> {
    Err(StoreError::Refused(why.to_owned()))
}

impl Simulated {
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Sets whether the database is full.
    pub fn fill(&mut self, is_full: bool) {
        self.is_full = is_full;
    }

    /// Returns the time at which the next lease ends.
    #[must_use]
    pub fn next_end(&self) -> Option<Time> {
        self.leases.values().map(|lease| lease.ends).min()
    }

    /// Ends the leases whose time is over.
    pub fn pass(&mut self, now: Time) {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        let over: Vec<LeaseId> = over.map(|(id, _)| *id).collect();
        for id in over {
            self.end(id);
        }
    }

    /// Begins the time of every lease anew, as a new leader of etcd does.
    pub fn change_leader(&mut self, now: Time) {
        for lease in self.leases.values_mut() {
            lease.ends = now.after(lease.lasts);
        }
    }

    /// Ends all leases at once, as a leader has done that was stopped for long.
    pub fn end_all(&mut self) {
        let all: Vec<LeaseId> = self.leases.keys().copied().collect();
        for id in all {
            self.end(id);
        }
    }

    /// # Errors
    /// As etcd has them.
    pub fn handle(&mut self, now: Time, request: Request) -> Result<Answer, StoreError> {
        self.pass(now);
        match request {
            Request::Get { keys, at } => self.get(&keys, at).map(Answer::Got),
            Request::Transact(transaction) => self.transact(transaction),
            Request::Grant(lasts) => {
                if self.is_full {
                    return Err(StoreError::Full);
                }
                let lasts = Duration::from_secs(lasts.as_secs().max(1));
                let id = LeaseId(self.next_lease);
                self.next_lease += 1;
                let ends = now.after(lasts);
                self.leases.insert(id, Lease { lasts, ends });
                Ok(Answer::Granted(id, lasts))
            }
            Request::KeepAlive(id) => {
                Ok(Answer::KeptAlive(self.leases.get_mut(&id).map(|lease| {
                    lease.ends = now.after(lease.lasts);
                    lease.lasts
                })))
            }
            Request::Leased(id) => Ok(Answer::Leased(self.leases.get(&id).map(|lease| {
                let entries = self.entries.values();
                let of_lease = entries.filter(|entry| entry.lease == Some(id));
                let keys = of_lease.map(|entry| entry.key.clone()).collect();
                (lease.lasts, keys)
            }))),
            Request::Revoke(id) => match self.leases.contains_key(&id) {
                true => {
                    self.end(id);
                    Ok(Answer::Revoked)
                }
                false => Err(StoreError::NoLease),
            },
            Request::Compact(at) => {
                if at > self.revision {
                    return Err(StoreError::Future);
                }
                if at <= self.compacted {
                    return Err(StoreError::Compacted);
                }
                self.compacted = at;
                Ok(Answer::Compacted)
            }
        }
    }

    /// Returns the changes of some keys from a revision on.
    ///
    /// # Errors
    /// If some of them were dropped.
    pub fn changes(&self, keys: &Keys, from: Revision) -> Result<Vec<Change>, StoreError> {
        if from < self.compacted {
            return Err(StoreError::Compacted);
        }
        let begin = self
            .history
            .partition_point(|change| change.revision() < from);
        let all = self.history[begin..].iter();
        Ok(all
            .filter(|change| keys.has(change.key()))
            .cloned()
            .collect())
    }

    fn get(&self, keys: &Keys, at: Option<Revision>) -> Result<Got, StoreError> {
        let at = at.unwrap_or(self.revision);
        if at > self.revision {
            return Err(StoreError::Future);
        }
        if at < self.compacted {
            return Err(StoreError::Compacted);
        }
        let entries = if at == self.revision {
            let all = self.entries.values().filter(|entry| keys.has(&entry.key));
            all.cloned().collect()
        } else {
            let mut then = BTreeMap::new();
            let until = self
                .history
                .partition_point(|change| change.revision() <= at);
            for change in self.history[..until]
                .iter()
                .filter(|one| keys.has(one.key()))
            {
                match change {
                    Change::Put(entry) => drop(then.insert(&entry.key, entry)),
                    Change::Deleted { key, .. } => drop(then.remove(key)),
                }
            }
            then.into_values().cloned().collect()
        };
        Ok(Got {
            revision: self.revision,
            entries,
        })
    }

    fn holds(&self, condition: &Condition) -> bool {
        let revision =
            |key: &str, of: fn(&Entry) -> Revision| self.entries.get(key).map_or(Revision(0), of);
        match condition {
            Condition::Created(key, at) => revision(key, |entry| entry.created) == *at,
            Condition::Modified(key, at) => revision(key, |entry| entry.modified) == *at,
        }
    }

    fn transact(&mut self, transaction: Transaction) -> Result<Answer, StoreError> {
        let Transaction {
            conditions,
            then,
            otherwise,
        } = transaction;
        let most = [conditions.len(), then.len(), otherwise.len()];
        if most.iter().any(|count| *count > MOST_OPERATIONS) {
            return refused("too many operations in txn request");
        }
        for operations in [&then, &otherwise] {
            let mut seen = BTreeSet::new();
            let puts = operations.iter().filter_map(|operation| match operation {
                Operation::Put { key, .. } => Some(key),
                Operation::Delete(_) | Operation::Get(_) => None,
            });
            let deletes: Vec<&Keys> = (operations.iter())
                .filter_map(|operation| match operation {
                    Operation::Delete(keys) => Some(keys),
                    Operation::Put { .. } | Operation::Get(_) => None,
                })
                .collect();
            for key in puts {
                let is_deleted = deletes.iter().any(|keys| keys.has(key));
                if !seen.insert(key) || is_deleted {
                    return refused("duplicate key given in txn request");
                }
            }
        }
        let succeeded = conditions.iter().all(|condition| self.holds(condition));
        let writes = |operation: &Operation| matches!(operation, Operation::Put { .. });
        if self.is_full && then.iter().chain(&otherwise).any(writes) {
            return Err(StoreError::Full);
        }
        let operations = if succeeded { then } else { otherwise };
        let has_lease = |operation: &Operation| match operation {
            Operation::Put {
                lease: Some(lease), ..
            } => self.leases.contains_key(lease),
            _ => true,
        };
        if !operations.iter().all(has_lease) {
            return Err(StoreError::NoLease);
        }
        let at = self.revision.next();
        let mut got = Vec::new();
        for operation in operations {
            match operation {
                Operation::Get(keys) => got.push(self.get(&keys, None)?),
                Operation::Put { key, value, lease } => self.put(at, key, value, lease),
                Operation::Delete(keys) => self.delete(at, &keys),
            }
        }
        let revision = self.revision;
        Ok(Answer::Transacted {
            revision,
            succeeded,
            got,
        })
    }

    fn put(&mut self, at: Revision, key: String, value: Vec<u8>, lease: Option<LeaseId>) {
        self.writes += 1;
        self.written_bytes += value.len() as u64;
        let created = self.entries.get(&key).map_or(at, |entry| entry.created);
        let entry = Entry {
            key: key.clone(),
            value,
            created,
            modified: at,
            lease,
        };
        self.history.push(Change::Put(entry.clone()));
        self.entries.insert(key, entry);
        self.revision = at;
    }

    fn delete(&mut self, at: Revision, keys: &Keys) {
        let gone: Vec<String> = (self.entries.keys())
            .filter(|key| keys.has(key))
            .cloned()
            .collect();
        for key in gone {
            self.writes += 1;
            self.entries.remove(&key);
            self.history.push(Change::Deleted { key, at });
            self.revision = at;
        }
    }

    fn end(&mut self, id: LeaseId) {
        self.leases.remove(&id);
        let of_lease: Vec<String> = (self.entries.values())
            .filter(|entry| entry.lease == Some(id))
            .map(|entry| entry.key.clone())
            .collect();
        let at = self.revision.next();
        for key in of_lease {
            self.delete(at, &Keys::One(key));
        }
    }
}
