//! Decides what a node does, as a state machine. It takes what has happened in etcd and on its host, and returns the calls to make and the
//! workloads that its host should run. It has no I/O and no clock.
//!
//! Nothing that runs stops because etcd cannot be reached. A node that has never reached it changes nothing on its host.

mod answers;
mod records;

use crate::fleet::{Health, NodeId, Replica, Time, WorkloadName};
use crate::record::{
    AssignedRecord, DesiredRecord, EndpointRecord, Key, NodeRecord, Pressure, Record, Refusal,
};
use crate::store::{Answer, Change, Entry, Keys, LeaseId, Request, Revision, StoreError};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The pause before another attempt after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// The shortest time between two writes of health.
const COALESCE: Duration = Duration::from_secs(1);
/// The time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The most operations of one transaction.
const BATCH: usize = 100;
const AT_ONCE: Duration = Duration::from_millis(50);
/// The revision of a record of which only the key is known. No record has it.
const UNKNOWN: Revision = Revision(-1);

/// A call that is under way. There is at most one of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// The node's own record, with the lease that it had before.
    Own,
    /// The keys of that lease.
    Leased,
    /// The health records that it has written.
    Said,
    Grant,
    KeepAlive,
    Assignments,
    Desired,
    Write,
}

#[derive(Clone, Debug)]
pub enum Input {
    Answer(Call, Result<Answer, StoreError>),
    /// Changes of the keys that are watched, or the end of the watch.
    Watched(Result<Vec<Change>, StoreError>),
    /// The state of everything that the fleet runs on this host.
    Host(BTreeMap<Replica, Seen>),
    Woken,
}

/// A replica on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub health: Health,
    pub consecutive_failures: u32,
    pub restarts: u64,
    pub breaker_open: bool,
    /// The change of the desired workload whose version it runs.
    pub revision: Revision,
    /// The address and the port of each service at which it answers while it is ready.
    pub endpoints: BTreeMap<WorkloadName, EndpointRecord>,
    pub last_check: Option<Time>,
}

/// A workload that the host should run.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// The change of the desired workload.
    pub revision: Revision,
    /// The workload as a manifest of enforcer has it.
    pub workload: Value,
    pub singleton: bool,
    /// The numbers of the replicas, with the change that has assigned each.
    pub replicas: BTreeMap<u32, Revision>,
}

/// The workloads of the fleet that the host should run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    pub wanted: BTreeMap<WorkloadName, Local>,
    /// It goes on with these as it has them: this node cannot read what they should be.
    pub untouched: BTreeSet<Replica>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Call(Call, Request),
    /// Follow these keys, and nothing else any more.
    Watch(Keys, Revision),
    /// The host should run these, and nothing else of the fleet.
    Run(Run),
    /// The node's lease surely lasts until then. A singleton must have ended before.
    LeaseUntil(Time),
    Failed(StoreError),
}

/// How far a node has got to know what it has written before it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Own,
    Leased(LeaseId),
    Said,
    Done,
}

/// An assignment as it was read.
#[derive(Debug)]
struct Assigned {
    /// `None` if this version cannot read it.
    record: Option<AssignedRecord>,
    created: Revision,
    modified: Revision,
}

impl Assigned {
    fn ends(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.ends.is_some())
    }
}

#[derive(Debug)]
struct Lease {
    id: LeaseId,
    lasts: Duration,
    next: Time,
    /// It surely lasts until then.
    until: Time,
    /// Since then the node's record is in etcd with this lease, and a scheduler does not take the node for lost.
    registered: Option<Time>,
    /// The assignments were read after that. What was assigned before may be elsewhere by now.
    is_confirmed: bool,
}

/// A workload that the host should run.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub desired: &'a DesiredRecord,
    pub revision: Revision,
    /// The number of its replicas on this host.
    pub replicas: usize,
}

/// The host's own rules for workloads.
pub trait Rules {
    /// Returns the workloads that the host does not run, each with the reason.
    fn refused(
        &mut self,
        asked: &BTreeMap<&WorkloadName, Asked<'_>>,
    ) -> BTreeMap<WorkloadName, String>;
}

#[derive(Debug)]
pub struct Node<R> {
    prefix: String,
    id: NodeId,
    grace: Duration,
    about: NodeRecord,
    rules: R,
    start: Start,
    lease: Option<Lease>,
    /// The host does not know yet how long the lease lasts.
    tells_lease: bool,
    again: Time,
    /// The time of each call, and the lease of the node at that time.
    under_way: BTreeMap<Call, (Time, Option<LeaseId>)>,
    has_list: bool,
    /// The last change of the assignments that is known.
    known: Revision,
    list_again: Option<Time>,
    assigned: BTreeMap<Replica, Assigned>,
    desired: BTreeMap<WorkloadName, (DesiredRecord, Revision)>,
    /// The workloads whose desired version has to be read, and the time from which on that may be tried.
    unread: BTreeSet<WorkloadName>,
    read_after: Time,
    asked_for: Option<WorkloadName>,
    seen: Option<BTreeMap<Replica, Seen>>,
    /// The workloads that the host's rules do not allow.
    refused: BTreeMap<WorkloadName, Refusal>,
    running: Option<Run>,
    /// The records of this node that are in etcd, as far as it knows. A write has the condition that this is right, so that a late one
    /// changes nothing.
    written: BTreeMap<Key, (Revision, Vec<u8>)>,
    /// Refusals that may not hold any more. They go, unless they are written anew.
    stale: BTreeSet<Key>,
    pending: Vec<(Key, Option<Vec<u8>>)>,
    /// The time of the next write of health, and of any write.
    write_after: Time,
    blocked_until: Time,
    heartbeat_at: Time,
    outputs: Vec<Output>,
}

impl<R: Rules> Node<R> {
    #[must_use]
    pub fn new(prefix: String, id: NodeId, grace: Duration, about: NodeRecord, rules: R) -> Self {
        Self {
            prefix,
            id,
            grace,
            about,
            rules,
            start: Start::Own,
            lease: None,
            tells_lease: false,
            again: Time::default(),
            under_way: BTreeMap::new(),
            has_list: false,
            known: Revision(0),
            list_again: Some(Time::default()),
            assigned: BTreeMap::new(),
            desired: BTreeMap::new(),
            unread: BTreeSet::new(),
            read_after: Time::default(),
            asked_for: None,
            seen: None,
            refused: BTreeMap::new(),
            running: None,
            written: BTreeMap::new(),
            stale: BTreeSet::new(),
            pending: Vec::new(),
            write_after: Time::default(),
            blocked_until: Time::default(),
            heartbeat_at: Time::default(),
            outputs: Vec::new(),
        }
    }

    /// Takes back what was said against a workload, so that a scheduler may try this node again.
    pub fn forgive(&mut self, workload: &WorkloadName) {
        let written = self.written.keys();
        let of_workload = written.filter(|key| match key {
            Key::Health(_, replica) => replica.workload == *workload,
            _ => false,
        });
        self.stale.extend(of_workload.cloned());
    }

    /// Takes the agent's version and the host's pressure, which the next heartbeat contains.
    pub fn describe(&mut self, agent_version: Option<String>, pressure: Option<Pressure>) {
        self.about.agent_version = agent_version;
        self.about.pressure = pressure;
    }

    /// Returns the host's rules, which may learn something. The next event has them judge again.
    pub fn rules(&mut self) -> &mut R {
        &mut self.rules
    }

    /// Returns the time at which it wants to be woken.
    #[must_use]
    pub fn wake(&self) -> Option<Time> {
        // What waits for an answer needs no time.
        let when = |call: Call, at: Option<Time>| at.filter(|_| self.is_idle(call));
        let begin = self.begins();
        let begin = begin.and_then(|(call, _)| when(call, Some(self.again)));
        let renewal = self.lease.as_ref().map(|lease| lease.next);
        let heartbeat = self.lease.as_ref().map(|_| self.heartbeat_at);
        let differs = !self.differences().is_empty();
        let write = [heartbeat, differs.then_some(self.write_after)];
        let write = write.into_iter().flatten().min();
        let write = write.map(|at| at.max(self.blocked_until));
        let list = self.list_again.filter(|_| !self.has_list);
        let read = (!self.unread.is_empty()).then_some(self.read_after);
        let all = [
            begin,
            when(Call::KeepAlive, renewal),
            when(Call::Write, write),
            when(Call::Assignments, list),
            when(Call::Desired, read),
        ];
        all.into_iter().flatten().min()
    }

    /// Takes what has happened, and returns what to do.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Answer(call, answer) => self.answered(now, call, answer),
            Input::Watched(Ok(changes)) => {
                for change in changes {
                    self.changed(change);
                }
            }
            Input::Watched(Err(error)) => {
                self.outputs.push(Output::Failed(error));
                self.has_list = false;
                self.list_again = Some(now.after(AGAIN));
            }
            Input::Host(seen) => self.seen = Some(seen),
            Input::Woken => {}
        }
        self.pass(now);
        std::mem::take(&mut self.outputs)
    }

    fn call(&mut self, now: Time, call: Call, request: Request) {
        let lease = self.lease.as_ref().map(|lease| lease.id);
        self.under_way.insert(call, (now, lease));
        self.outputs.push(Output::Call(call, request));
    }

    fn is_idle(&self, call: Call) -> bool {
        !self.under_way.contains_key(&call)
    }

    fn own(&self) -> Keys {
        Keys::Prefix(format!("{}assigned/{}/", self.prefix, self.id))
    }

    fn pass(&mut self, now: Time) {
        if now >= self.again
            && let Some((call, request)) = self.begins()
            && self.is_idle(call)
        {
            self.call(now, call, request);
        }
        if let Some(lease) = &mut self.lease
            && now >= lease.next
            && !self.under_way.contains_key(&Call::KeepAlive)
        {
            lease.next = now.after(lease.lasts / 3);
            let id = lease.id;
            self.call(now, Call::KeepAlive, Request::KeepAlive(id));
        }
        let is_due = self.list_again.is_some_and(|at| now >= at);
        if !self.has_list && is_due && self.is_idle(Call::Assignments) {
            let keys = self.own();
            self.call(now, Call::Assignments, Request::Get { keys, at: None });
        }
        if self.is_idle(Call::Desired)
            && now >= self.read_after
            && let Some(workload) = self.unread.first().cloned()
        {
            let key = format!("{}{}", self.prefix, Key::Desired(workload.clone()));
            self.asked_for = Some(workload);
            let keys = Keys::One(key);
            self.call(now, Call::Desired, Request::Get { keys, at: None });
        }
        self.judge();
        self.run();
        self.tell_lease();
        self.write(now);
    }

    /// Has the host's rules judge what it should run.
    fn judge(&mut self) {
        let mut asked: BTreeMap<&WorkloadName, Asked<'_>> = BTreeMap::new();
        for (replica, assigned) in &self.assigned {
            let Some((desired, revision)) = self.desired.get(&replica.workload) else {
                continue;
            };
            let of_workload = asked.entry(&replica.workload).or_insert(Asked {
                desired,
                revision: *revision,
                replicas: 0,
            });
            of_workload.replicas += usize::from(!assigned.ends());
        }
        let refused = self.rules.refused(&asked).into_iter();
        let refused = refused.filter_map(|(workload, why)| {
            let of = asked.get(&workload)?.revision;
            Some((workload, Refusal { why, of }))
        });
        self.refused = refused.collect();
    }

    /// Returns the call that comes next until the node has learned what it has written before and has a lease.
    fn begins(&self) -> Option<(Call, Request)> {
        let get = |keys| Request::Get { keys, at: None };
        match self.start {
            Start::Own => {
                let key = format!("{}{}", self.prefix, Key::Node(self.id.clone()));
                Some((Call::Own, get(Keys::One(key))))
            }
            Start::Leased(id) => Some((Call::Leased, Request::Leased(id))),
            Start::Said => {
                let keys = format!("{}health/{}/", self.prefix, self.id);
                Some((Call::Said, get(Keys::Prefix(keys))))
            }
            Start::Done if self.lease.is_none() => Some((Call::Grant, Request::Grant(self.grace))),
            Start::Done => None,
        }
    }

    fn has_lease(&mut self, now: Time, id: LeaseId, lasts: Duration, until: Time) {
        self.lease = Some(Lease {
            id,
            lasts,
            next: now.after(lasts / 3),
            until,
            registered: None,
            is_confirmed: false,
        });
        self.heartbeat_at = now;
    }

    /// Notes that the node's record is in etcd, and reads the assignments again.
    fn is_registered(&mut self, now: Time) {
        if let Some(lease) = self
            .lease
            .as_mut()
            .filter(|lease| lease.registered.is_none())
        {
            lease.registered = Some(now);
            self.has_list = false;
            self.list_again = Some(now);
        }
    }

    /// Tells how long the lease lasts, if that may be relied upon. The host knows before what it should run: with more time it
    /// would start a singleton that is elsewhere by now.
    fn tell_lease(&mut self) {
        if !std::mem::take(&mut self.tells_lease) {
            return;
        }
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.is_confirmed) {
            self.outputs.push(Output::LeaseUntil(lease.until));
        }
    }

    fn renewed(&mut self, until: Time) {
        if let Some(lease) = &mut self.lease {
            lease.until = lease.until.max(until);
        }
        self.tells_lease = true;
    }

    /// Notes a key that is in etcd.
    fn note(&mut self, key: &str, modified: Revision, value: Vec<u8>) {
        if let Some(key) = key.strip_prefix(&self.prefix).and_then(Key::parse) {
            self.written.insert(key, (modified, value));
        }
    }

    fn assign(&mut self, entry: &Entry) {
        let key = entry.key.strip_prefix(&self.prefix).and_then(Key::parse);
        let Some(Key::Assigned(_, replica)) = key else {
            return;
        };
        let record = AssignedRecord::decode(&entry.value).ok();
        let known = self.desired.get(&replica.workload);
        let wanted = record.as_ref().map(|record| record.revision);
        if known.is_none_or(|(_, revision)| Some(*revision) < wanted) {
            self.unread.insert(replica.workload.clone());
        }
        let assigned = Assigned {
            record,
            created: entry.created,
            modified: entry.modified,
        };
        self.assigned.insert(replica, assigned);
    }

    fn changed(&mut self, change: Change) {
        self.known = self.known.max(change.revision());
        match change {
            Change::Put(entry) => self.assign(&entry),
            Change::Deleted { key, .. } => {
                let key = key.strip_prefix(&self.prefix).and_then(Key::parse);
                if let Some(Key::Assigned(_, replica)) = key {
                    self.assigned.remove(&replica);
                }
            }
        }
    }

    /// Takes the desired version of the workload that was asked for.
    fn learn(&mut self, entry: Option<&Entry>) {
        let Some(workload) = self.asked_for.take() else {
            return;
        };
        self.unread.remove(&workload);
        let read = entry.map(|entry| (DesiredRecord::decode(&entry.value), entry.modified));
        // One that is gone, or that only a newer version can read, runs on as it was.
        if let Some((Ok(record), version)) = read {
            self.desired.insert(workload, (record, version));
        }
    }

    /// Tells the host what it should run, if that has changed.
    fn run(&mut self) {
        // Before the first list nothing is known, and nothing is stopped.
        if !self.has_list && self.running.is_none() {
            return;
        }
        let mut run = Run::default();
        for (replica, assigned) in &self.assigned {
            if assigned.ends() {
                continue;
            }
            let desired = self.desired.get(&replica.workload);
            let (Some((desired, revision)), Some(_)) = (desired, &assigned.record) else {
                run.untouched.insert(replica.clone());
                continue;
            };
            if self.refused.contains_key(&replica.workload) {
                continue;
            }
            let local = run
                .wanted
                .entry(replica.workload.clone())
                .or_insert_with(|| Local {
                    revision: *revision,
                    workload: desired.workload.clone(),
                    singleton: desired.scheduling.singleton,
                    replicas: BTreeMap::new(),
                });
            local.replicas.insert(replica.index, assigned.created);
        }
        if self.running.as_ref() != Some(&run) {
            self.running = Some(run.clone());
            self.outputs.push(Output::Run(run));
        }
    }
}

/// Returns whether a record goes with the node's lease.
fn is_leased(key: &Key) -> bool {
    matches!(key, Key::Node(_) | Key::Endpoint(..))
}
