//! The replicas of a workload: which ones there are to be, and the order in which another version takes
//! the place of the one before.
//!
//! ```text
//! wanted replicas    0, 1, … wanted - 1, or those of `indexes`
//! surge              wanted, … at most `max_surge` more, while a rollout goes on
//! floor              wanted - `max_unavailable` replicas are available at every moment, as far as a
//!                      rollout decides about it
//! ```
//!
//! A replica is available while it is ready. One of the new version must have been ready for `min_ready`.

mod advance;
mod scaling;

pub(crate) use scaling::{Reading, Rescaled, Room};

use crate::event::{RolloutChange, RolloutState};
use crate::plan::Effect;
use crate::spec::{Replicas, WorkloadSpec};
use crate::units::MonoTime;
use enforcer_model::settings::differences;
use scaling::Readings;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The number of a replica; `None` for the one instance of a workload without replicas.
pub(crate) type Index = Option<u16>;

/// A workload with replicas. It is its own checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The version of the manifest.
    asked: Arc<WorkloadSpec>,
    /// The version that the replicas run, or are on the way to.
    target: Arc<WorkloadSpec>,
    /// The version before the last change.
    before: Option<Arc<WorkloadSpec>>,
    /// The manifest names it.
    managed: bool,
    /// It is removed with all of its replicas.
    leaves: bool,
    /// The number of replicas; `None` after the manifest has stopped asking for replicas.
    wanted: Option<u16>,
    /// The number of the version in `target`.
    version: u64,
    /// The last number that was given to a version.
    last_version: u64,
    members: Vec<Member>,
    rollout: Option<Rollout>,
    /// The time since which fewer replicas would do, and the most of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lower: Option<(MonoTime, u16)>,
    #[serde(skip)]
    readings: Readings,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    index: Index,
    version: u64,
    /// It has been ready since then, in its present version.
    ready_since: Option<MonoTime>,
    /// It is being removed.
    leaves: bool,
}

/// The change from one version to another that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rollout {
    /// The version to go back to, with its number; `None` if it is the same, as for a restart.
    from: Option<(Arc<WorkloadSpec>, u64)>,
    paused: bool,
    /// It has failed and goes back.
    backward: bool,
    began: MonoTime,
    progressed: MonoTime,
    /// Its beginning is in the history.
    reported: bool,
}

/// The state of a replica, as a group needs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) ready: bool,
    /// A person has stopped it.
    pub(crate) rests: bool,
    /// It has failed, and its breaker is open or no start follows.
    pub(crate) is_broken: bool,
}

/// A change that a group asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Add(Index),
    Update(Index),
    Remove(Index),
    Report(RolloutChange),
}

/// A command about a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRequest {
    Pause,
    Resume,
    /// Go back to the version before.
    Undo,
    /// Try the manifest's version again.
    Retry,
    /// Have this number of replicas.
    Scale(u16),
}

/// A group as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    pub wanted: u16,
    pub ready: u16,
    /// The replicas that have the version which is rolled out, or runs.
    pub current: u16,
    pub total: u16,
    pub rollout: Option<RolloutState>,
    /// The running version differs from the manifest.
    pub differs: bool,
}

impl Group {
    /// Makes the group of a workload that gets replicas. `is_there` says that an instance without a
    /// number runs already.
    pub(crate) fn new(
        asked: Arc<WorkloadSpec>,
        is_there: Option<Arc<WorkloadSpec>>,
        now: MonoTime,
    ) -> Self {
        let mut group = Self {
            target: Arc::clone(&asked),
            before: None,
            managed: true,
            leaves: false,
            wanted: asked.replicas.map(|replicas| replicas.min),
            version: 1,
            last_version: 1,
            members: Vec::new(),
            rollout: None,
            lower: None,
            readings: Readings::default(),
            asked,
        };
        if let Some(present) = is_there {
            group.members.push(Member {
                index: None,
                version: 0,
                ready_since: None,
                leaves: false,
            });
            group.rollout = Some(Rollout::new(Some((present, 0)), now));
        }
        group
    }

    /// The manifest's version, whatever runs.
    pub(crate) fn asked(&self) -> &Arc<WorkloadSpec> {
        &self.asked
    }

    /// Returns the spec that a replica is to have.
    pub(crate) fn spec_of(&self, index: Index) -> Arc<WorkloadSpec> {
        match index {
            Some(index) => Arc::new(self.target.of_replica(index)),
            None => Arc::clone(&self.target),
        }
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.managed
    }

    /// Returns whether a group is no longer needed: nothing is left, or the one instance that is to be.
    pub(crate) fn is_over(&self) -> bool {
        let is_single = self.wanted.is_none() && self.rollout.is_none();
        let only_one = self.members.iter().all(|member| member.index.is_none());
        (self.leaves && self.members.is_empty()) || (is_single && only_one)
    }

    pub(crate) fn disown(&mut self) {
        self.managed = false;
    }

    pub(crate) fn leave(&mut self) {
        self.managed = false;
        self.leaves = true;
        self.rollout = None;
    }

    /// Takes another version of the manifest. Returns the replicas that get it while they run.
    pub(crate) fn configure(&mut self, asked: Arc<WorkloadSpec>, now: MonoTime) -> Vec<Index> {
        let bounds = asked.replicas;
        let count = self.wanted.unwrap_or(0);
        self.wanted = bounds.map(|bounds| match self.asked.replicas == asked.replicas {
            // A number that a person or the load has chosen stays.
            true => count,
            false => count.clamp(bounds.min, bounds.max),
        });
        self.managed = true;
        self.leaves = false;
        self.asked = Arc::clone(&asked);
        self.take(asked, now)
    }

    /// Makes this version the one that replicas are to have.
    fn take(&mut self, target: Arc<WorkloadSpec>, now: MonoTime) -> Vec<Index> {
        let going_back_to = self
            .rollout
            .as_ref()
            .and_then(|rollout| rollout.from.clone());
        if let Some((spec, version)) = going_back_to
            && template(&spec) == template(&target)
        {
            self.go_back((target, version), now);
            return Vec::new();
        }
        let changes = differences(&template(&self.target), &template(&target));
        let older = std::mem::replace(&mut self.target, target);
        if changes
            .iter()
            .any(|change| change.effect == Effect::Restart)
        {
            self.before = Some(Arc::clone(&older));
            let from = (older, self.version);
            self.begin(Some(from), now);
            return Vec::new();
        }
        match changes.is_empty() {
            true => Vec::new(),
            false => {
                let current = self.members.iter().filter(|member| self.is_current(member));
                current.map(|member| member.index).collect()
            }
        }
    }

    /// Replaces every replica by one of the same version.
    pub(crate) fn restart(&mut self, now: MonoTime) {
        let from = self.rollout.take().and_then(|rollout| rollout.from);
        self.begin(from, now);
    }

    fn begin(&mut self, from: Option<(Arc<WorkloadSpec>, u64)>, now: MonoTime) {
        // A change during a rollout goes back to where that one would have gone back to.
        let from = match self.rollout.take() {
            Some(rollout) if !rollout.backward => rollout.from.or(from),
            Some(_) | None => from,
        };
        self.last_version += 1;
        self.version = self.last_version;
        self.rollout = Some(Rollout::new(from, now));
    }

    /// Carries out a command. Returns why not, if it cannot be.
    pub(crate) fn request(
        &mut self,
        request: GroupRequest,
        now: MonoTime,
    ) -> Result<Vec<Step>, String> {
        match request {
            GroupRequest::Pause | GroupRequest::Resume => {
                let pauses = request == GroupRequest::Pause;
                let Some(rollout) = self.rollout.as_mut() else {
                    return Err("no rollout is under way".to_owned());
                };
                rollout.paused = pauses;
                rollout.progressed = now;
                let state = match pauses {
                    true => RolloutState::Paused,
                    false => RolloutState::Resumed,
                };
                Ok(vec![self.report(state, "a person asked for it")])
            }
            GroupRequest::Undo => {
                let from = self
                    .rollout
                    .as_ref()
                    .and_then(|rollout| rollout.from.clone());
                if let Some(from) = from {
                    self.go_back(from, now);
                    return Ok(vec![
                        self.report(RolloutState::Undone, "a person asked for it"),
                    ]);
                }
                let Some(before) = self.before.clone() else {
                    return Err("no version before this one is known".to_owned());
                };
                self.take(before, now);
                Ok(vec![
                    self.report(RolloutState::Undone, "a person asked for it"),
                ])
            }
            GroupRequest::Retry => {
                if !self.differs() {
                    return Err("the manifest's version runs already".to_owned());
                }
                let asked = Arc::clone(&self.asked);
                self.take(asked, now);
                Ok(Vec::new())
            }
            GroupRequest::Scale(_) if !self.asked.replica_indexes.is_empty() => {
                Err("the manifest names its replicas by `indexes`".to_owned())
            }
            GroupRequest::Scale(count) => {
                let bounds = self.asked.replicas.unwrap_or(Replicas::fixed(1));
                let most = Replicas::MOST - self.target.rollout.max_surge.min(Replicas::MOST - 1);
                let is_fixed = bounds.min == bounds.max;
                let (least, most) = match is_fixed {
                    true => (1, most),
                    false => (bounds.min, bounds.max.min(most)),
                };
                if count < least || count > most {
                    return Err(format!("{count} replicas: expected {least} to {most}"));
                }
                self.wanted = Some(count);
                Ok(Vec::new())
            }
        }
    }

    /// Returns whether what runs differs from the manifest.
    fn differs(&self) -> bool {
        !Arc::ptr_eq(&self.asked, &self.target) && template(&self.asked) != template(&self.target)
    }

    fn is_current(&self, member: &Member) -> bool {
        member.version == self.version
    }

    /// Returns the numbers of the replicas that there are to be.
    fn slots(&self) -> BTreeSet<Index> {
        match (self.leaves, self.wanted) {
            (true, _) => BTreeSet::new(),
            (false, Some(_)) if !self.asked.replica_indexes.is_empty() => {
                let named = self.asked.replica_indexes.iter();
                named.map(|index| Some(*index)).collect()
            }
            (false, Some(count)) => (0..count).map(Some).collect(),
            (false, None) => [None].into(),
        }
    }

    fn report(&self, state: RolloutState, why: impl Into<String>) -> Step {
        Step::Report(RolloutChange {
            state,
            ready: self.count(|member| member.ready_since.is_some()),
            wanted: self.wanted.unwrap_or(1),
            why: why.into(),
        })
    }

    /// Counts the replicas that stay and fulfil a condition.
    fn count(&self, condition: impl Fn(&Member) -> bool) -> u16 {
        let staying = self.members.iter().filter(|member| !member.leaves);
        let counted = staying.filter(|member| condition(member)).count();
        u16::try_from(counted).unwrap_or(u16::MAX)
    }

    pub(crate) fn view(&self) -> GroupView {
        GroupView {
            wanted: self.wanted.unwrap_or(1),
            ready: self.count(|member| member.ready_since.is_some()),
            current: self.count(|member| self.is_current(member)),
            total: self.count(|_| true),
            rollout: self.rollout.as_ref().map(|rollout| match rollout {
                Rollout { paused: true, .. } => RolloutState::Paused,
                Rollout { backward: true, .. } => RolloutState::Failed,
                Rollout { .. } => RolloutState::Began,
            }),
            differs: self.differs(),
        }
    }

    /// Goes back to an earlier version. Replicas that still have it stay as they are.
    fn go_back(&mut self, (spec, version): (Arc<WorkloadSpec>, u64), now: MonoTime) {
        // One instance's sockets of `listen` cannot be shared among replicas.
        if spec.replicas.is_none() && !spec.listen.is_empty() {
            self.wanted = None;
        }
        self.target = spec;
        self.version = version;
        let began = self.rollout.as_ref().map_or(now, |rollout| rollout.began);
        self.rollout = Some(Rollout {
            from: None,
            paused: false,
            backward: true,
            began,
            progressed: now,
            reported: true,
        });
    }

    /// Takes the replicas that another agent has left. One that it does not know is of the present
    /// version if its spec is.
    pub(crate) fn take_over(&mut self, found: &BTreeMap<Index, Arc<WorkloadSpec>>) {
        self.members
            .retain(|member| found.contains_key(&member.index));
        for (index, spec) in found {
            let is_known = self.members.iter().any(|member| member.index == *index);
            if !is_known {
                let is_current = *self.spec_of(*index) == **spec;
                self.members.push(Member {
                    index: *index,
                    version: if is_current { self.version } else { u64::MAX },
                    ready_since: None,
                    leaves: false,
                });
            }
        }
    }
}

/// Returns what makes a version: everything but the number of replicas.
fn template(spec: &WorkloadSpec) -> WorkloadSpec {
    WorkloadSpec {
        replicas: None,
        replica_indexes: BTreeSet::new(),
        ..spec.clone()
    }
}

impl Rollout {
    fn new(from: Option<(Arc<WorkloadSpec>, u64)>, now: MonoTime) -> Self {
        Self {
            from,
            paused: false,
            backward: false,
            began: now,
            progressed: now,
            reported: false,
        }
    }
}
