//! Decides what a node asks of the agent on its host, as a state machine without I/O and without a clock.
//!
//! ```text
//! the replicas of this node ──▶ wanted file ──▶ apply ──▶ look ──▶ the node's status in etcd
//!                          ▲   the lease's end ──▶ a deadline for each singleton
//!                          └── what leaves stays in the file until clients know that it is gone
//! ```
//!
//! The file in the agent's manifest is all that it remembers. Before it was read, nothing is changed.

pub mod file;
mod judge;
mod seen;

pub use judge::Judge;
pub use seen::Look;

use crate::fleet::{Health, Replica, Time, WorkloadName};
use crate::node::{Local, Run, Seen};
use crate::store::Revision;
use enforcer_model::spec::WorkloadSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The time for which a replica that leaves is still there, without its endpoints.
const WITHDRAWN: Duration = Duration::from_secs(2);
/// The time that a singleton's end is ahead of what its lease and its grace allow.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);
/// The pause after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// The time between two looks at replicas that nothing has happened to.
const LOOK: Duration = Duration::from_secs(10);
/// The time after which the agent is asked again about a workload that it has refused.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// The pause in which events of the agent are collected before a look.
const COLLECT: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub enum Input {
    /// The node's wishes.
    Run(Run),
    /// The node's lease lasts until then.
    LeaseUntil(Time),
    /// Something has happened on the host.
    Changed,
    /// The fleet's file as the agent has it.
    Read(Result<String, String>),
    /// The fleet's workloads as the agent has them, and the names of all others.
    Looked(Result<(BTreeMap<WorkloadName, Look>, BTreeSet<WorkloadName>), String>),
    Applied(Result<(), Rejection>),
    /// The agent's verdict on one workload alone.
    Planned(WorkloadName, Result<(), Rejection>),
    Woken,
}

/// The reason for which the agent does not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It does not answer, or cannot now.
    Unavailable(String),
    /// It refuses what was asked for.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Read,
    Look(BTreeMap<WorkloadName, bool>),
    Apply(String),
    /// Ask the agent for its verdict on this file.
    Plan(WorkloadName, String),
    /// A singleton must not run after this time.
    Deadline(WorkloadName, Time),
    /// The node should know this of its host.
    Seen(BTreeMap<Replica, Seen>),
    /// The host does not run these, in the versions that were refused.
    Refused(BTreeMap<WorkloadName, (Revision, String)>),
    /// The host may run these after all.
    Forgiven(WorkloadName),
    /// These names belong to other workloads of the host.
    Taken(BTreeSet<WorkloadName>),
    Trouble(String),
}

/// The state of a call to the agent, of which there is at most one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// It is to be made from this time on.
    Due(Time),
    UnderWay,
    Idle,
}

impl Call {
    fn is_due(self, now: Time) -> bool {
        matches!(self, Self::Due(at) if at <= now)
    }

    fn wake(self) -> Option<Time> {
        match self {
            Self::Due(at) => Some(at),
            Self::UnderWay | Self::Idle => None,
        }
    }

    /// Makes the call at this time at the latest.
    fn hasten(&mut self, at: Time) {
        *self = match *self {
            Self::Due(before) => Self::Due(before.min(at)),
            Self::Idle => Self::Due(at),
            Self::UnderWay => Self::UnderWay,
        };
    }
}

#[derive(Debug)]
pub struct Host {
    address: String,
    /// It changes nothing on its host.
    observes: bool,
    run: Option<Run>,
    lease: Option<Time>,
    /// The file that the agent has; `None` before it was read.
    present: Option<BTreeMap<WorkloadName, Local>>,
    /// The file that is being applied.
    applying: BTreeMap<WorkloadName, Local>,
    read: Call,
    apply: Call,
    look: Call,
    looks_again: bool,
    looked: BTreeMap<WorkloadName, Look>,
    has_looked: bool,
    /// The replicas that leave, and the time at which they do.
    leaving: BTreeMap<Replica, Time>,
    /// The version that all replicas of a workload have had last.
    settled: BTreeMap<WorkloadName, Revision>,
    health: BTreeMap<Replica, Health>,
    refused: BTreeMap<WorkloadName, (Revision, String)>,
    /// The time at which each refusal is forgotten.
    forgets: BTreeMap<WorkloadName, Time>,
    /// The workloads whose verdict is asked for, one after another.
    suspects: Vec<WorkloadName>,
    specs: BTreeMap<WorkloadName, (Revision, Option<Arc<WorkloadSpec>>)>,
    /// The deadlines that the agent has received.
    deadlines: BTreeMap<WorkloadName, Time>,
    told: Option<BTreeMap<Replica, Seen>>,
    trouble: Option<String>,
    outputs: Vec<Output>,
}

impl Host {
    /// Makes the machine of a host whose workloads answer at this address. One that observes changes nothing there.
    #[must_use]
    pub fn new(address: String, observes: bool) -> Self {
        Self {
            address,
            observes,
            run: None,
            lease: None,
            present: None,
            applying: BTreeMap::new(),
            read: Call::Due(Time::default()),
            apply: Call::Idle,
            look: Call::Idle,
            looks_again: false,
            looked: BTreeMap::new(),
            has_looked: false,
            leaving: BTreeMap::new(),
            settled: BTreeMap::new(),
            health: BTreeMap::new(),
            refused: BTreeMap::new(),
            forgets: BTreeMap::new(),
            suspects: Vec::new(),
            specs: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            told: None,
            trouble: None,
            outputs: Vec::new(),
        }
    }

    /// Returns the time at which it wants to be woken.
    #[must_use]
    pub fn wake(&self) -> Option<Time> {
        if self.present.is_none() {
            // Before the file was read, nothing else is done.
            return self.read.wake();
        }
        let leaves = self.leaving.values().min().copied();
        let leaves = leaves.filter(|_| self.apply == Call::Idle);
        // Nothing is applied while verdicts are outstanding.
        let apply = self.apply.wake().filter(|_| self.suspects.is_empty());
        let calls = [self.read.wake(), apply, self.look.wake()];
        let forgets = self.forgets.values().min().copied();
        let calls = calls.into_iter().flatten();
        calls.chain(leaves).chain(forgets).min()
    }

    /// Takes what has happened, and returns what to do.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        match input {
            Input::Run(run) => {
                // Another version is tried anew.
                self.refused.retain(|name, (of, _)| {
                    let wanted = run.wanted.get(name);
                    wanted.is_none_or(|wanted| wanted.revision == *of)
                });
                self.run = Some(run);
                self.apply.hasten(now);
            }
            Input::LeaseUntil(until) => {
                self.lease = Some(until);
                self.extend();
            }
            Input::Changed => self.look_at(now.after(COLLECT)),
            Input::Read(Ok(text)) => {
                self.read = Call::Idle;
                self.present = Some(file::read(&text));
                self.apply.hasten(now);
                self.look_at(now);
            }
            Input::Read(Err(why)) => {
                self.read = Call::Due(now.after(AGAIN));
                self.trouble(why);
            }
            Input::Looked(looked) => self.looked(now, looked),
            Input::Applied(result) => self.applied(now, result),
            Input::Planned(name, verdict) => self.planned(now, &name, verdict),
            Input::Woken => {}
        }
        self.pass(now);
        std::mem::take(&mut self.outputs)
    }

    fn trouble(&mut self, why: String) {
        if self.trouble.as_ref() != Some(&why) {
            self.outputs.push(Output::Trouble(why.clone()));
            self.trouble = Some(why);
        }
    }

    fn look_at(&mut self, at: Time) {
        self.looks_again |= self.look == Call::UnderWay;
        self.look.hasten(at);
    }

    fn pass(&mut self, now: Time) {
        if self.read.is_due(now) {
            self.read = Call::UnderWay;
            self.outputs.push(Output::Read);
        }
        let Some(present) = self.present.clone() else {
            return;
        };
        self.forgive(now);
        // A call that waits after a failure takes them along.
        if self.apply == Call::Idle && self.leaving.values().any(|at| *at <= now) {
            self.apply.hasten(now);
        }
        if self.apply.is_due(now) && self.suspects.is_empty() {
            self.apply = Call::Idle;
            let wanted = self.next_file(now, &present);
            if wanted != present && self.observes {
                self.leaving.clear();
                self.trouble(format!(
                    "this node only observes; otherwise its file would have {}",
                    told(&wanted)
                ));
            } else if wanted != present {
                self.apply = Call::UnderWay;
                self.outputs.push(Output::Apply(file::write(&wanted)));
                self.applying = wanted;
            }
        }
        if self.look.is_due(now) {
            self.look = Call::UnderWay;
            let all = present.iter();
            let all = all.map(|(name, local)| (name.clone(), local.singleton));
            self.outputs.push(Output::Look(all.collect()));
        }
        self.tell();
    }

    /// Returns the file that the agent should have.
    fn next_file(
        &mut self,
        now: Time,
        present: &BTreeMap<WorkloadName, Local>,
    ) -> BTreeMap<WorkloadName, Local> {
        let Some(run) = &self.run else {
            return present.clone();
        };
        let mut wanted = run.wanted.clone();
        wanted.retain(|name, _| !self.refused.contains_key(name));
        let mut leaving = BTreeMap::new();
        for (name, local) in present {
            for (index, since) in &local.replicas {
                let replica = Replica {
                    workload: name.clone(),
                    index: *index,
                };
                let stays = wanted
                    .get(name)
                    .is_some_and(|wanted| wanted.replicas.contains_key(index));
                if stays {
                    continue;
                }
                let until = match run.untouched.contains(&replica) {
                    true => None,
                    // A singleton has to be gone before it begins elsewhere: its clients wait for nothing.
                    false if local.singleton => continue,
                    false => Some(
                        self.leaving
                            .get(&replica)
                            .copied()
                            .unwrap_or(now.after(WITHDRAWN)),
                    ),
                };
                if let Some(until) = until {
                    // It is known until the agent has the file without it.
                    leaving.insert(replica, until);
                }
                if until.is_some_and(|until| until <= now) {
                    continue;
                }
                let kept = wanted.entry(name.clone()).or_insert_with(|| Local {
                    replicas: BTreeMap::new(),
                    ..local.clone()
                });
                kept.replicas.insert(*index, *since);
            }
        }
        self.leaving = leaving;
        wanted
    }

    fn applied(&mut self, now: Time, result: Result<(), Rejection>) {
        self.apply = Call::Idle;
        match result {
            Ok(()) => {
                self.trouble = None;
                let present = std::mem::take(&mut self.applying);
                self.settled.retain(|name, _| present.contains_key(name));
                self.present = Some(present);
                self.extend();
                self.look_at(now);
                // The wishes may have changed meanwhile.
                self.apply.hasten(now);
            }
            Err(Rejection::Unavailable(why)) => {
                self.apply = Call::Due(now.after(AGAIN));
                self.trouble(why);
            }
            // What leaves counts until it is gone: the next file is without it.
            Err(Rejection::Refused(why)) if self.leaving.values().any(|at| *at > now) => {
                let gone = self.leaving.values().max().copied();
                self.apply = Call::Due(gone.unwrap_or(now));
                self.trouble(why);
            }
            Err(Rejection::Refused(why)) => {
                // Each workload that is new in it is asked about alone.
                let present = self.present.as_ref();
                let changed = self.applying.iter().filter(|(name, local)| {
                    present.and_then(|present| present.get(*name)) != Some(*local)
                });
                self.suspects = changed.map(|(name, _)| name.clone()).collect();
                self.apply = Call::Due(now.after(AGAIN));
                self.trouble(why);
                self.ask_about_next();
            }
        }
    }

    fn ask_about_next(&mut self) {
        let Some(name) = self.suspects.last().cloned() else {
            return;
        };
        let mut alone = self.present.clone().unwrap_or_default();
        if let Some(local) = self.applying.get(&name) {
            alone.insert(name.clone(), local.clone());
        }
        let text = file::write(&alone);
        self.outputs.push(Output::Plan(name, text));
    }

    fn planned(&mut self, now: Time, name: &WorkloadName, verdict: Result<(), Rejection>) {
        self.suspects.retain(|other| other != name);
        if let Err(Rejection::Refused(why)) = verdict
            && let Some(local) = self.applying.get(name)
        {
            let refusal = (local.revision, why);
            self.refused.insert(name.clone(), refusal);
            self.forgets.insert(name.clone(), now.after(ASK_AGAIN));
            self.outputs.push(Output::Refused(self.refused.clone()));
            self.apply.hasten(now);
        }
        self.ask_about_next();
    }

    /// Forgets old refusals: their reason may be gone, as a fault in another file of the manifest.
    fn forgive(&mut self, now: Time) {
        let due = self.forgets.iter().filter(|(_, at)| **at <= now);
        let due: Vec<WorkloadName> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            self.forgets.remove(&name);
            if self.refused.remove(&name).is_some() {
                self.outputs.push(Output::Refused(self.refused.clone()));
                self.outputs.push(Output::Forgiven(name));
                self.apply.hasten(now);
            }
        }
    }

    fn spec(&mut self, name: &WorkloadName) -> Option<Arc<WorkloadSpec>> {
        let local = self.present.as_ref()?.get(name)?;
        let known = self.specs.get(name);
        if known.is_none_or(|(of, _)| *of != local.revision) {
            let spec = file::spec_of(name, local).ok();
            self.specs.insert(name.clone(), (local.revision, spec));
        }
        self.specs.get(name)?.1.clone()
    }

    /// Moves the deadlines of singletons with the lease.
    fn extend(&mut self) {
        let (Some(until), Some(present)) = (self.lease, &self.present) else {
            return;
        };
        let singletons = present.iter().filter(|(_, local)| local.singleton);
        let names = singletons.flat_map(|(name, local)| {
            let replicas = local.replicas.keys();
            replicas.map(move |index| Replica {
                workload: name.clone(),
                index: *index,
            })
        });
        // One that the node no longer wants gets no more time.
        let names: Vec<WorkloadName> = names
            .filter(|replica| self.stays(replica))
            .map(|replica| replica.workload)
            .collect();
        self.deadlines.retain(|name, _| names.contains(name));
        for name in names {
            let Some(spec) = self.spec(&name) else {
                continue;
            };
            let ends = until.0.saturating_sub(spec.stop.grace + MARGIN);
            self.deadlines.insert(name.clone(), Time(ends));
            self.outputs.push(Output::Deadline(name, Time(ends)));
        }
    }

    fn looked(
        &mut self,
        now: Time,
        looked: Result<(BTreeMap<WorkloadName, Look>, BTreeSet<WorkloadName>), String>,
    ) {
        self.look = Call::Due(now.after(LOOK));
        if std::mem::take(&mut self.looks_again) {
            self.look = Call::Due(now.after(COLLECT));
        }
        match looked {
            Err(why) => {
                self.look = Call::Due(now.after(AGAIN));
                self.trouble(why);
            }
            Ok((looked, taken)) => {
                self.has_looked = true;
                let present = self.present.iter().flatten();
                let is_missing = |(name, _): (&WorkloadName, _)| !looked.contains_key(name);
                if self.apply == Call::Idle && { present }.any(is_missing) {
                    // A person removed the file, or the agent has read another one.
                    self.read.hasten(now.after(AGAIN));
                }
                let present = self.present.iter().flatten();
                for (name, local) in present {
                    // What is being applied is not the present version any more.
                    let is_current = looked.get(name).is_some_and(|look| look.is_current);
                    if is_current && self.apply != Call::UnderWay {
                        self.settled.insert(name.clone(), local.revision);
                    }
                }
                let health = replicas(&looked).map(|(replica, (view, _))| {
                    let known = self.health.get(&replica).copied();
                    (replica, seen::health(view, known, now))
                });
                self.health = health.collect();
                self.looked = looked;
                self.outputs.push(Output::Taken(taken));
            }
        }
    }

    /// Returns whether a replica is not on its way out. Before the first wishes all stay.
    fn stays(&self, replica: &Replica) -> bool {
        let Some(run) = &self.run else {
            return true;
        };
        let wanted = run.wanted.get(&replica.workload);
        let is_wanted = wanted.is_some_and(|wanted| wanted.replicas.contains_key(&replica.index));
        let is_refused = self.refused.contains_key(&replica.workload);
        is_wanted && !is_refused || run.untouched.contains(replica)
    }

    /// Tells the node how its host is, if that has changed.
    fn tell(&mut self) {
        if !self.has_looked {
            return;
        }
        let mut all = BTreeMap::new();
        let looked = std::mem::take(&mut self.looked);
        for (replica, found) in replicas(&looked) {
            let spec = self.spec(&replica.workload);
            let endpoints = match spec.filter(|_| self.stays(&replica)) {
                Some(spec) => seen::endpoints(&replica, &spec, &self.address),
                None => BTreeMap::new(),
            };
            let settled = self.settled.get(&replica.workload);
            let revision = settled.copied().unwrap_or_default();
            let health = self.health.get(&replica).copied().unwrap_or_default();
            all.insert(replica, seen::seen(found, revision, endpoints, health));
        }
        self.looked = looked;
        if self.told.as_ref() != Some(&all) {
            self.told = Some(all.clone());
            self.outputs.push(Output::Seen(all));
        }
    }
}

/// Returns the workloads of a file with the numbers of their replicas.
fn told(file: &BTreeMap<WorkloadName, Local>) -> String {
    let all = file.iter().flat_map(|(name, local)| {
        let indexes = local.replicas.keys();
        indexes.map(move |index| format!("{name}/{index}"))
    });
    match all.collect::<Vec<_>>() {
        all if all.is_empty() => "no workload".to_owned(),
        all => all.join(", "),
    }
}

/// Returns the replicas of all workloads.
fn replicas(
    looked: &BTreeMap<WorkloadName, Look>,
) -> impl Iterator<
    Item = (
        Replica,
        &(
            enforcer_model::views::WorkloadView,
            Vec<enforcer_model::views::ProbeStatus>,
        ),
    ),
> {
    looked.iter().flat_map(|(name, look)| {
        look.replicas.iter().map(|(index, found)| {
            let replica = Replica {
                workload: name.clone(),
                index: *index,
            };
            (replica, found)
        })
    })
}

#[cfg(test)]
mod tests;
