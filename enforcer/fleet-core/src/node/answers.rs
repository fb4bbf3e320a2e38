//! The answers of etcd to a node's calls.

use super::{AGAIN, AT_ONCE, Call, Node, Output, Rules, Start, UNKNOWN, is_leased};
use crate::fleet::Time;
use crate::record::Key;
use crate::store::{Answer, StoreError};
use std::time::Duration;

impl<R: Rules> Node<R> {
    pub(super) fn answered(&mut self, now: Time, call: Call, answer: Result<Answer, StoreError>) {
        let Some((asked, lease)) = self.under_way.remove(&call) else {
            return;
        };
        let is_of_lease = self.lease.as_ref().map(|lease| lease.id) == lease;
        match (call, answer) {
            (Call::Own, Ok(Answer::Got(got))) => {
                let lease = got.entries.first().and_then(|entry| entry.lease);
                self.start = lease.map_or(Start::Said, Start::Leased);
            }
            // Its own lease goes on, so that nobody takes the node for lost.
            (Call::Leased, Ok(Answer::Leased(found))) => {
                if let (Start::Leased(id), Some((lasts, keys))) = (self.start, found) {
                    self.has_lease(now, id, lasts, now);
                    for key in keys {
                        self.note(&key, UNKNOWN, Vec::new());
                    }
                    if let Some(lease) = &mut self.lease {
                        lease.next = now;
                    }
                }
                self.start = Start::Said;
            }
            (Call::Said, Ok(Answer::Got(got))) => {
                for entry in got.entries {
                    self.note(&entry.key, entry.modified, entry.value);
                }
                // The host's rules may be others now.
                let said = self.written.keys();
                let said = said.filter(|key| matches!(key, Key::Health(..)));
                self.stale = said.cloned().collect();
                self.start = Start::Done;
            }
            (Call::Own | Call::Leased | Call::Said, Err(error)) => {
                self.again = now.after(AGAIN);
                self.outputs.push(Output::Failed(error));
            }
            (Call::Grant, Ok(Answer::Granted(id, lasts))) => {
                self.has_lease(now, id, lasts, asked.after(lasts));
                // Records of the lease before have gone with it, or will go.
                self.written.retain(|key, _| !is_leased(key));
            }
            // An answer about the lease before this one.
            (Call::KeepAlive, _) if !is_of_lease => {}
            (Call::KeepAlive, Ok(Answer::KeptAlive(Some(lasts)))) => {
                self.renewed(asked.after(lasts));
            }
            (Call::KeepAlive, Ok(Answer::KeptAlive(None))) => self.lose_lease(now),
            (Call::KeepAlive, Err(error)) => {
                if let Some(lease) = &mut self.lease {
                    lease.next = now.after(AGAIN);
                }
                self.outputs.push(Output::Failed(error));
            }
            // It is older than what a watch has told meanwhile.
            (Call::Assignments, Ok(Answer::Got(got))) if got.revision < self.known => {
                self.list_again = Some(now);
            }
            (Call::Assignments, Ok(Answer::Got(got))) => {
                self.known = got.revision;
                let registered = self.lease.as_ref().map(|lease| lease.registered);
                let is_early = registered.is_some_and(|at| at.is_none_or(|at| asked < at));
                self.has_list = !is_early;
                self.list_again = is_early.then(|| now.after(AGAIN));
                self.assigned.clear();
                for entry in &got.entries {
                    self.assign(entry);
                }
                if let Some(lease) = self.lease.as_mut().filter(|_| !is_early) {
                    lease.is_confirmed = true;
                }
                self.tells_lease = true;
                let keys = self.own();
                let from = got.revision.next();
                self.outputs.push(Output::Watch(keys, from));
            }
            (Call::Assignments, Err(error)) => {
                self.list_again = Some(now.after(AGAIN));
                self.outputs.push(Output::Failed(error));
            }
            (Call::Desired, Ok(Answer::Got(got))) => self.learn(got.entries.first()),
            (Call::Desired, Err(error)) => {
                self.read_after = now.after(AGAIN);
                self.outputs.push(Output::Failed(error));
            }
            (
                Call::Write,
                Ok(Answer::Transacted {
                    succeeded: true,
                    revision,
                    ..
                }),
            ) => {
                let mut has_node = false;
                for (key, value) in std::mem::take(&mut self.pending) {
                    has_node |= matches!(key, Key::Node(_));
                    match value {
                        Some(value) => {
                            self.stale.remove(&key);
                            self.written.insert(key, (revision, value));
                        }
                        None => drop(self.written.remove(&key)),
                    }
                }
                if has_node && is_of_lease {
                    self.is_registered(now);
                }
            }
            // A record is another one than was known.
            (Call::Write, Ok(Answer::Transacted { got, .. })) => {
                let pending = std::mem::take(&mut self.pending);
                for ((key, _), got) in pending.into_iter().zip(got) {
                    match got.entries.into_iter().next() {
                        // An assignment comes by the watch.
                        _ if matches!(key, Key::Assigned(..)) => {}
                        Some(entry) => {
                            self.written.insert(key, (entry.modified, entry.value));
                        }
                        None => drop(self.written.remove(&key)),
                    }
                }
                self.write_again(now, AT_ONCE);
            }
            (Call::Write, Err(StoreError::NoLease)) => {
                self.pending.clear();
                if is_of_lease {
                    self.lose_lease(now);
                }
            }
            // The write may have been made. Then the next one finds other records than it expects.
            (Call::Write, Err(error)) => {
                self.pending.clear();
                self.write_again(now, AGAIN);
                self.outputs.push(Output::Failed(error));
            }
            (Call::Grant, Err(error)) => {
                self.again = now.after(AGAIN);
                self.outputs.push(Output::Failed(error));
            }
            (_, Ok(_)) => {}
        }
    }

    fn write_again(&mut self, now: Time, wait: Duration) {
        self.blocked_until = now.after(wait);
        self.write_after = self.blocked_until;
        self.heartbeat_at = self.heartbeat_at.min(self.blocked_until);
    }

    fn lose_lease(&mut self, now: Time) {
        self.lease = None;
        self.again = now;
        self.written.retain(|key, _| !is_leased(key));
    }
}
