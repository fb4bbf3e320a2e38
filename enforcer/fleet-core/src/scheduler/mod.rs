//! Decides what a scheduler does, as a state machine. It takes what has happened, and returns the calls to make. It has no I/O and no clock.
//!
//! Several schedulers may live. Each has a key below `election/` with its lease, and the one whose key was made first leads. Every write of it
//! has the condition that this key is still the one that it has made, so that a scheduler which was paused for long changes nothing.

mod deciding;
mod looked;
mod writes;

use crate::fleet::{Time, WorkloadName};
use crate::part::Touched;
use crate::record::{Key, Record as _, RecordError};
use crate::schedule::{Decision, Memory, Settings};
use crate::store::{
    Answer, Change, Condition, Keys, LeaseId, Operation, Request, Revision, StoreError, Transaction,
};
use crate::view::View;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use writes::Write;

/// The operations of one transaction. It has one condition, and etcd takes 128 of each.
const BATCH: usize = 100;
/// The time to live of a scheduler's lease.
const LEASE: Duration = Duration::from_secs(15);
/// The pause before another attempt after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// The pause in which changes are collected before a decision.
const COLLECT: Duration = Duration::from_millis(100);
/// The time after which a leader decides again about a fleet that is not settled.
const LOOK: Duration = Duration::from_secs(5);

/// A call that is under way. There is at most one of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Ends the lease that it had before.
    Revoke,
    Grant,
    KeepAlive,
    Campaign,
    Candidates,
    List,
    Write,
}

#[derive(Clone, Debug)]
pub enum Input {
    Answer(Call, Result<Answer, StoreError>),
    /// Changes of the keys that are watched, or the end of the watch.
    Watched(Result<Vec<Change>, StoreError>),
    /// The time that was asked for has come.
    Woken,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Call(Call, Request),
    /// Follow these keys, and nothing else any more.
    Watch(Keys, Revision),
    Tell(News),
}

/// Something that a person may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    Leads,
    Follows,
    Failed(StoreError),
    Decided(Decision),
    Unreadable(Key, RecordError),
}

#[derive(Debug)]
enum Phase {
    /// It has no lease.
    Out {
        again: Time,
    },
    /// It has a lease and asks for its place in the queue.
    Joining,
    /// Another one leads.
    Following,
    Leading(Box<Leading>),
}

#[derive(Debug, Default)]
struct Leading {
    view: View,
    /// The last change that it knows.
    known: Revision,
    /// The change that its last write has made; it decides when it has seen that.
    written: Revision,
    has_list: bool,
    is_writing: bool,
    /// The last change of the schedulers' memory. Every write changes it, so that one which comes late changes nothing.
    memory: Revision,
    /// The writes that wait for those that are under way, the next ones last.
    writes: Vec<Write>,
    /// The workloads that the next decision looks at; `None` for all.
    scope: Option<BTreeSet<WorkloadName>>,
    /// The time of the next decision.
    due: Option<Time>,
    /// The time of the next attempt to list, after one that failed.
    list_again: Option<Time>,
}

impl Leading {
    fn touch(&mut self, touched: Touched) {
        let Some(scope) = &mut self.scope else {
            return;
        };
        match touched {
            Touched::Nothing => {}
            Touched::Workload(workload) => drop(scope.insert(workload)),
            Touched::Node(node) => scope.extend(self.view.workloads_on(&node).cloned()),
        }
    }

    fn may_decide(&self) -> bool {
        self.has_list && !self.is_writing && self.known >= self.written
    }
}

#[derive(Debug)]
struct Lease {
    id: LeaseId,
    /// The change that has made its key, once that is known.
    key: Option<Revision>,
    /// The time until which the lease surely lasts.
    until: Time,
    next: Time,
    lasts: Duration,
}

#[derive(Debug)]
pub struct Scheduler {
    prefix: String,
    settings: Settings,
    memory: Memory,
    lease: Option<Lease>,
    /// The lease that it had before. Its key would be in the way of the next leader until that lease ends.
    given_up: Option<LeaseId>,
    phase: Phase,
    under_way: BTreeMap<Call, Time>,
    outputs: Vec<Output>,
    /// The records that were reported as unreadable.
    reported: BTreeSet<Key>,
    /// Counts the changes that mattered, and the decisions.
    changes: u64,
    /// It compares each decision about a part with one about the whole fleet.
    compares: bool,
}

impl Scheduler {
    #[must_use]
    pub fn new(prefix: String, settings: Settings) -> Self {
        Self {
            prefix,
            settings,
            memory: Memory::default(),
            lease: None,
            given_up: None,
            phase: Phase::Out {
                again: Time::default(),
            },
            under_way: BTreeMap::new(),
            outputs: Vec::new(),
            reported: BTreeSet::new(),
            changes: 0,
            compares: cfg!(debug_assertions),
        }
    }

    /// Has each decision about a part compared with one about the whole fleet, for tests.
    ///
    /// # Panics
    /// Then, if they differ.
    #[must_use]
    pub fn comparing(self) -> Self {
        Self {
            compares: true,
            ..self
        }
    }

    /// Returns a number that grows when the fleet is another one than before.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns whether it leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(self.phase, Phase::Leading(_))
    }

    /// Returns the records as this leader knows them.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        match &self.phase {
            Phase::Leading(leading) => Some(&leading.view),
            _ => None,
        }
    }

    /// Returns what to ask of etcd at the end of this scheduler, so that another one leads at once.
    #[must_use]
    pub fn resign(&self) -> Option<Request> {
        self.lease.as_ref().map(|lease| Request::Revoke(lease.id))
    }

    /// Returns the time at which it wants to be woken.
    #[must_use]
    pub fn wake(&self) -> Option<Time> {
        // What waits for an answer needs no time.
        let is_renewing = self.under_way.contains_key(&Call::KeepAlive);
        let lease = self.lease.as_ref().map(|lease| match is_renewing {
            true => lease.until,
            false => lease.next.min(lease.until),
        });
        let phase = match &self.phase {
            Phase::Out { again } => Some(*again).filter(|_| self.under_way.is_empty()),
            Phase::Leading(leading) => {
                let decision = leading.due.filter(|_| leading.may_decide());
                decision.into_iter().chain(leading.list_again).min()
            }
            Phase::Joining | Phase::Following => None,
        };
        lease.into_iter().chain(phase).min()
    }

    /// Takes what has happened, and returns what to do.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Answer(call, answer) => self.answered(now, call, answer),
            Input::Watched(Ok(changes)) => self.changed(now, changes),
            Input::Watched(Err(error)) => self.watch_ended(now, error),
            Input::Woken => {}
        }
        self.pass(now);
        std::mem::take(&mut self.outputs)
    }

    fn tell(&mut self, news: News) {
        self.outputs.push(Output::Tell(news));
    }

    fn call(&mut self, now: Time, call: Call, request: Request) {
        self.under_way.insert(call, now);
        self.outputs.push(Output::Call(call, request));
    }

    fn keys(&self, below: &str) -> Keys {
        Keys::Prefix(format!("{}{below}", self.prefix))
    }

    fn key(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Does what is due.
    fn pass(&mut self, now: Time) {
        if self.lease.as_ref().is_some_and(|lease| now >= lease.until) {
            self.leave(
                now,
                StoreError::Unavailable("the lease has ended".to_owned()),
            );
        }
        if let Some(lease) = &mut self.lease
            && now >= lease.next
            && !self.under_way.contains_key(&Call::KeepAlive)
        {
            lease.next = now.after(lease.lasts / 3);
            let id = lease.id;
            self.call(now, Call::KeepAlive, Request::KeepAlive(id));
        }
        match &mut self.phase {
            Phase::Out { again } if now >= *again && self.under_way.is_empty() => {
                match self.given_up {
                    Some(id) => self.call(now, Call::Revoke, Request::Revoke(id)),
                    None => self.call(now, Call::Grant, Request::Grant(LEASE)),
                }
            }
            Phase::Leading(leading) => {
                if leading.list_again.is_some_and(|at| now >= at) {
                    self.list(now);
                } else if leading.due.is_some_and(|due| now >= due) && leading.may_decide() {
                    self.decide(now);
                }
            }
            Phase::Out { .. } | Phase::Joining | Phase::Following => {}
        }
    }

    /// Gives everything up, and begins anew after a pause.
    fn leave(&mut self, now: Time, error: StoreError) {
        if self.leads() {
            self.tell(News::Follows);
        }
        self.tell(News::Failed(error));
        if let Some(lease) = self.lease.take() {
            self.given_up = Some(lease.id);
        }
        self.phase = Phase::Out {
            again: now.after(AGAIN),
        };
    }

    fn answered(&mut self, now: Time, call: Call, answer: Result<Answer, StoreError>) {
        let Some(asked) = self.under_way.remove(&call) else {
            return;
        };
        match (call, answer) {
            (Call::Revoke, Err(error @ StoreError::Unavailable(_))) => self.leave(now, error),
            (Call::Revoke, _) => self.given_up = None,
            (Call::Grant, Ok(Answer::Granted(id, lasts))) => {
                self.lease = Some(Lease {
                    id,
                    key: None,
                    until: asked.after(lasts),
                    next: now.after(lasts / 3),
                    lasts,
                });
                self.phase = Phase::Joining;
                let put = Operation::Put {
                    key: self.key(&Key::Election(id)),
                    value: Vec::new(),
                    lease: Some(id),
                };
                let transaction = Transaction {
                    then: vec![put],
                    ..Transaction::default()
                };
                self.call(now, Call::Campaign, Request::Transact(transaction));
            }
            (Call::KeepAlive, Ok(Answer::KeptAlive(Some(lasts)))) => {
                if let Some(lease) = &mut self.lease {
                    lease.until = asked.after(lasts);
                }
            }
            // Until the lease's end there is time for another attempt.
            (Call::KeepAlive, Err(StoreError::Unavailable(_))) => {
                if let Some(lease) = &mut self.lease {
                    lease.next = now.after(AGAIN);
                }
            }
            (Call::Campaign, Ok(Answer::Transacted { revision, .. })) => {
                if let Some(lease) = &mut self.lease {
                    lease.key = Some(revision);
                    self.look_for_leader(now);
                }
            }
            (Call::Candidates, Ok(Answer::Got(got))) => {
                let first = got.entries.iter().map(|entry| entry.created).min();
                let own = self.lease.as_ref().and_then(|lease| lease.key);
                let is_there = got.entries.iter().any(|entry| Some(entry.created) == own);
                if !is_there {
                    self.leave(now, StoreError::NoLease);
                } else if first == own {
                    self.tell(News::Leads);
                    self.phase = Phase::Leading(Box::default());
                    self.list(now);
                } else {
                    self.phase = Phase::Following;
                    let watched = self.keys("election/");
                    self.outputs
                        .push(Output::Watch(watched, got.revision.next()));
                }
            }
            (Call::List, Ok(Answer::Got(got))) => {
                let prefix = self.prefix.clone();
                let Phase::Leading(leading) = &mut self.phase else {
                    return;
                };
                // It is older than what a watch has told meanwhile.
                if got.revision < leading.known {
                    self.list(now);
                    return;
                }
                leading.view = View::default();
                for entry in &got.entries {
                    leading.view.put(&prefix, entry);
                }
                leading.known = got.revision;
                leading.written = Revision(0);
                leading.has_list = true;
                leading.is_writing = false;
                leading.scope = None;
                leading.due = Some(now);
                if let Some(memory) = &leading.view.memory {
                    self.memory = memory.record.clone();
                }
                let watched = self.keys("");
                self.outputs
                    .push(Output::Watch(watched, got.revision.next()));
            }
            (
                Call::Write,
                Ok(Answer::Transacted {
                    revision,
                    succeeded,
                    got,
                }),
            ) => {
                if !succeeded {
                    // Another one leads, or a node has come back that was lost. Only a new list tells what is to be done then.
                    let still_leads = got.first().is_some_and(|got| !got.entries.is_empty());
                    match still_leads {
                        true => self.list(now),
                        false => self.leave(now, StoreError::NoLease),
                    }
                    return;
                }
                if let Phase::Leading(leading) = &mut self.phase {
                    leading.is_writing = false;
                    leading.written = revision;
                    leading.memory = revision;
                    self.write_next(now);
                }
            }
            // The write may have been made: only a list tells.
            (Call::Write, Err(error @ StoreError::Unavailable(_))) => {
                self.tell(News::Failed(error));
                self.list(now);
            }
            (Call::Write, Err(error)) => {
                self.tell(News::Failed(error));
                if let Phase::Leading(leading) = &mut self.phase {
                    leading.is_writing = false;
                    leading.writes.clear();
                    leading.scope = None;
                    leading.due = Some(now.after(LOOK));
                    // What was decided has not happened.
                    let memory = leading.view.memory.as_ref();
                    self.memory = memory.map(|kept| kept.record.clone()).unwrap_or_default();
                }
            }
            // A refused connection is an answer at once.
            (Call::List, Err(error @ StoreError::Unavailable(_))) if self.leads() => {
                self.tell(News::Failed(error));
                if let Phase::Leading(leading) = &mut self.phase {
                    leading.list_again = Some(now.after(AGAIN));
                }
            }
            (_, Ok(_)) => self.leave(now, StoreError::NoLease),
            (_, Err(error)) => self.leave(now, error),
        }
    }

    fn look_for_leader(&mut self, now: Time) {
        let keys = self.keys("election/");
        self.call(now, Call::Candidates, Request::Get { keys, at: None });
    }

    fn list(&mut self, now: Time) {
        if let Phase::Leading(leading) = &mut self.phase {
            leading.has_list = false;
            leading.list_again = None;
            leading.writes.clear();
        }
        let keys = self.keys("");
        self.call(now, Call::List, Request::Get { keys, at: None });
    }

    fn watch_ended(&mut self, now: Time, error: StoreError) {
        match &self.phase {
            Phase::Leading(leading) if leading.has_list => {
                self.tell(News::Failed(error));
                self.list(now);
            }
            Phase::Following => {
                self.tell(News::Failed(error));
                self.look_for_leader(now);
            }
            Phase::Leading(_) | Phase::Out { .. } | Phase::Joining => {}
        }
    }

    fn changed(&mut self, now: Time, changes: Vec<Change>) {
        let prefix = self.prefix.clone();
        match &mut self.phase {
            Phase::Leading(leading) => {
                let mut matters = false;
                for change in changes {
                    leading.known = leading.known.max(change.revision());
                    let touched = leading.view.take(&prefix, &change);
                    matters |= touched != Touched::Nothing;
                    leading.touch(touched);
                }
                // A heartbeat changes nothing.
                if matters {
                    self.changes += 1;
                    let soon = now.after(COLLECT);
                    leading.due = Some(leading.due.map_or(soon, |due| due.min(soon)));
                }
            }
            // Its own key is among those that may have gone.
            Phase::Following if !self.under_way.contains_key(&Call::Candidates) => {
                let is_gone = |change: &Change| matches!(change, Change::Deleted { .. });
                if changes.iter().any(is_gone) {
                    self.look_for_leader(now);
                }
            }
            Phase::Following | Phase::Joining | Phase::Out { .. } => {}
        }
    }

    /// Writes the next batch, as long as this scheduler leads.
    fn write_next(&mut self, now: Time) {
        let own = self
            .lease
            .as_ref()
            .and_then(|lease| Some((lease.id, lease.key?)));
        let (Phase::Leading(leading), Some((id, made))) = (&mut self.phase, own) else {
            return;
        };
        if leading.writes.is_empty() {
            return;
        }
        leading.is_writing = true;
        let own = format!("{}{}", self.prefix, Key::Election(id));
        let memory = format!("{}{}", self.prefix, Key::Memory);
        let mut transaction = Transaction {
            conditions: vec![
                Condition::Created(own.clone(), made),
                Condition::Modified(memory.clone(), leading.memory),
            ],
            then: vec![Operation::Put {
                key: memory,
                value: self.memory.encode(),
                lease: None,
            }],
            otherwise: vec![Operation::Get(Keys::One(own))],
        };
        let rest = leading.writes.len().saturating_sub(BATCH);
        for write in leading.writes.split_off(rest).into_iter().rev() {
            transaction.then.extend(write.operation);
            let new = write.condition;
            let new = new.filter(|condition| !transaction.conditions.contains(condition));
            transaction.conditions.extend(new);
        }
        self.call(now, Call::Write, Request::Transact(transaction));
    }
}

#[cfg(test)]
mod tests;
