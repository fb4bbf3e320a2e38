//! The records that a node writes about itself and its replicas.

use super::{BATCH, COALESCE, Call, HEARTBEAT, Node, Rules, Start, is_leased};
use crate::fleet::{Health, Replica, Time};
use crate::record::{HealthRecord, Key, Record as _};
use crate::store::{Condition, Keys, Operation, Request, Revision, Transaction};
use std::collections::BTreeMap;

impl<R: Rules> Node<R> {
    /// Returns all records that should be in etcd.
    fn records(&self) -> BTreeMap<Key, Vec<u8>> {
        let mut records = BTreeMap::new();
        let Some(seen) = &self.seen else {
            return records;
        };
        for (replica, found) in seen {
            let health = HealthRecord {
                health: found.health,
                revision: found.revision,
                consecutive_failures: found.consecutive_failures,
                restarts: found.restarts,
                breaker_open: found.breaker_open,
                refused: None,
            };
            let key = Key::Health(self.id.clone(), replica.clone());
            records.insert(key, health.encode());
            if found.health == Health::Ready && self.lease.is_some() {
                for (service, endpoint) in &found.endpoints {
                    let key = Key::Endpoint(service.clone(), self.id.clone(), replica.index);
                    records.insert(key, endpoint.encode());
                }
            }
        }
        for replica in self.assigned.keys().filter(|one| !seen.contains_key(*one)) {
            if let Some(refusal) = self.refused.get(&replica.workload).cloned() {
                let health = HealthRecord {
                    revision: refusal.of,
                    refused: Some(refusal),
                    ..HealthRecord::default()
                };
                let key = Key::Health(self.id.clone(), replica.clone());
                records.insert(key, health.encode());
            }
        }
        records
    }

    /// Returns the assignments whose replicas have ended, as they were read.
    fn ended(&self) -> Vec<(Replica, Revision)> {
        let Some(seen) = &self.seen else {
            return Vec::new();
        };
        let ended = self.assigned.iter();
        let ended = ended.filter(|(replica, one)| one.ends() && !seen.contains_key(*replica));
        ended
            .map(|(replica, one)| (replica.clone(), one.modified))
            .collect()
    }

    /// Returns the records that differ from what is in etcd.
    pub(super) fn differences(&self) -> Vec<(Key, Option<Vec<u8>>)> {
        if self.lease.is_none() || self.seen.is_none() || self.start != Start::Done {
            return Vec::new();
        }
        let records = self.records();
        let is_refusal =
            |value: &[u8]| HealthRecord::decode(value).is_ok_and(|health| health.refused.is_some());
        let gone = self.written.iter().filter(|(key, (_, value))| {
            // A refusal stays, for the scheduler.
            let stays = is_refusal(value) && !self.stale.contains(*key);
            !matches!(key, Key::Node(_)) && !records.contains_key(*key) && !stays
        });
        let gone: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
        let new = records.into_iter();
        let new = new.filter(|(key, value)| {
            let present = self.written.get(key);
            present.map(|(_, present)| present) != Some(value)
        });
        let new = new.map(|(key, value)| (key, Some(value)));
        let ended = self.ended().into_iter();
        let ended = ended.map(|(replica, _)| (Key::Assigned(self.id.clone(), replica), None));
        let gone = gone.into_iter().map(|key| (key, None));
        new.chain(gone).chain(ended).collect()
    }

    pub(super) fn write(&mut self, now: Time) {
        let Some((id, is_registered)) = self
            .lease
            .as_ref()
            .map(|lease| (lease.id, lease.registered.is_some()))
        else {
            return;
        };
        if !self.is_idle(Call::Write) || now < self.blocked_until {
            return;
        }
        let mut changes = Vec::new();
        if now >= self.heartbeat_at || !is_registered {
            self.about.last_checks = self.last_checks();
            changes.push((Key::Node(self.id.clone()), Some(self.about.encode())));
            self.heartbeat_at = now.after(HEARTBEAT);
        }
        if now >= self.write_after {
            let differences = self.differences();
            if !differences.is_empty() {
                self.write_after = now.after(COALESCE);
            }
            changes.extend(differences);
        }
        changes.truncate(BATCH);
        if changes.is_empty() {
            return;
        }
        let mut transaction = Transaction::default();
        let ended: BTreeMap<Replica, Revision> = self.ended().into_iter().collect();
        for (key, value) in &changes {
            let text = format!("{}{key}", self.prefix);
            let known = match key {
                Key::Assigned(_, replica) => ended.get(replica).copied(),
                _ => self.written.get(key).map(|(modified, _)| *modified),
            };
            let condition = Condition::Modified(text.clone(), known.unwrap_or_default());
            transaction.conditions.push(condition);
            let get = Operation::Get(Keys::One(text.clone()));
            transaction.otherwise.push(get);
            transaction.then.push(match value {
                Some(value) => Operation::Put {
                    key: text,
                    value: value.clone(),
                    lease: is_leased(key).then_some(id),
                },
                None => Operation::Delete(Keys::One(text)),
            });
        }
        self.pending = changes;
        self.call(now, Call::Write, Request::Transact(transaction));
    }

    fn last_checks(&self) -> BTreeMap<String, Time> {
        let seen = self.seen.iter().flatten();
        let checked = seen.filter_map(|(replica, found)| Some((replica, found.last_check?)));
        checked
            .map(|(replica, at)| (replica.to_string(), at))
            .collect()
    }
}
