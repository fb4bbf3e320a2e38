//! The books of OOM kills, from two sources. The kernel's counters say how many processes were
//! killed; eBPF marks say which ones, at once. A ledger joins them:
//!
//! ```text
//! mark ─────┐
//!           ├→ episode ──(complete, ended or overdue)──→ Incident [before, after]
//! counters ─┘      └──(counters never rose)──→ forgotten: marked, not killed
//! ```
//!
//! Every increment is explained by exactly one incident, and the ranges of one
//! workload join without gaps. What is not here: reading any of it.

use crate::units::{Bytes, MonoTime};
use enforcer_model::ids::CgroupId;
pub use enforcer_model::oom::{
    Asker, CgroupCounters, Counters, Incident, OomSource, Scope, Victim,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The time that a mark may lag behind its counter. The kernel counts, kills, then marks
/// (`mm/oom_kill.c`, `__oom_kill_process`), microseconds apart, unless the killer is preempted in
/// between.
pub const MARK_WAIT: Duration = Duration::from_millis(50);
/// The wait for the mark of a kill that leaves the main process running: on a busy host the kernel
/// may preempt the killer before it marks, and no restart depends on this report.
pub const LATE_MARK_WAIT: Duration = Duration::from_secs(1);
/// The time after the last kill of a group whose main process does not end, when the group is
/// reported. Between two kills the kernel prints a line to the console (`mm/oom_kill.c`,
/// `__oom_kill_process`), which takes seconds if the console is a slow serial line and other lines
/// are printed as well.
pub const GROUP_WAIT: Duration = Duration::from_secs(5);
/// An incident is reported after this time even if the kills do not end.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// More victims of one incident are counted, and not named.
const MOST_VICTIMS: usize = 4096;
/// An ancestor whose limit was met so recently is taken for the cause.
const ANCESTOR_WINDOW: Duration = Duration::from_secs(2);

/// The ancestors of all workloads whose limits were met lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ancestors {
    seen: BTreeMap<String, (u64, Option<MonoTime>)>,
}

impl Ancestors {
    pub(crate) fn observe(&mut self, now: MonoTime, counters: &Counters) {
        for ancestor in &counters.ancestors {
            let entry = self
                .seen
                .entry(ancestor.path.clone())
                .or_insert((ancestor.oom, None));
            if ancestor.oom > entry.0 {
                *entry = (ancestor.oom, Some(now));
            }
        }
    }

    fn culprit<'c>(&self, now: MonoTime, counters: &'c Counters) -> Option<&'c CgroupCounters> {
        counters.ancestors.iter().find(|ancestor| {
            let rose = self.seen.get(&ancestor.path).and_then(|(_, rose)| *rose);
            rose.is_some_and(|rose| now.since(rose) <= ANCESTOR_WINDOW)
        })
    }
}

/// The books of one workload's kills: explained, and still to be explained.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    cgroup: CgroupId,
    explained: Counters,
    latest: Counters,
    episode: Option<Episode>,
}

#[derive(Clone, Debug)]
struct Episode {
    opened: MonoTime,
    /// The last time that a process was marked or counted.
    changed: MonoTime,
    victims: Vec<Victim>,
    /// The episode is of a time without an agent. Marks of that time may still come.
    past: bool,
}

/// The part of a ledger that the next agent needs: the last increments that are explained. Later
/// ones are found again in the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Balance {
    cgroup: CgroupId,
    oom_kill: u64,
    oom_group_kill: u64,
    own_oom: u64,
    /// `None` in what an older agent has left.
    #[serde(default)]
    subtree_oom: Option<u64>,
}

impl Episode {
    fn new(opened: MonoTime) -> Self {
        Self {
            opened,
            changed: opened,
            victims: Vec::new(),
            past: false,
        }
    }
}

/// The circumstances in which an episode is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// The main process is gone and the cgroup is empty.
    pub(crate) ended: bool,
    /// The eBPF programs are attached, so that marks can be expected.
    pub(crate) ebpf: bool,
    /// `memory.oom.group` is set: the first kill is followed by all others.
    pub(crate) group: bool,
}

impl Ledger {
    /// Begins with an instance in this cgroup. A new cgroup counts from its beginning.
    pub(crate) fn begin(&mut self, cgroup: CgroupId, counters: Counters) {
        if self.cgroup != cgroup {
            *self = Self {
                cgroup,
                explained: counters.clone(),
                latest: counters,
                episode: None,
            };
        } else {
            self.latest = counters;
        }
    }

    pub(crate) fn balance(&self) -> Balance {
        Balance {
            cgroup: self.cgroup,
            oom_kill: self.explained.oom_kill,
            oom_group_kill: self.explained.oom_group_kill,
            own_oom: self.explained.own_oom,
            subtree_oom: Some(self.explained.subtree_oom),
        }
    }

    /// Goes on where another agent's ledger was left. A cgroup with another id is new, and has
    /// counted from 0.
    pub(crate) fn resume(
        now: MonoTime,
        known: Balance,
        (cgroup, counters): (CgroupId, Counters),
    ) -> Self {
        let known = if known.cgroup == cgroup {
            known
        } else {
            Balance::default()
        };
        // An older agent took the count of the subtree for the workload's own.
        let subtree_oom = known.subtree_oom.unwrap_or(known.own_oom);
        let mut ledger = Self {
            cgroup,
            explained: Counters {
                oom_kill: known.oom_kill,
                oom_group_kill: known.oom_group_kill,
                own_oom: match known.subtree_oom {
                    Some(_) => known.own_oom,
                    None => known.own_oom.min(counters.own_oom),
                },
                subtree_oom,
                // Any of them that ever met its limit may have met it meanwhile.
                descendants: match subtree_oom == counters.subtree_oom {
                    true => counters.descendants.clone(),
                    false => Vec::new(),
                },
                ..counters.clone()
            },
            latest: counters,
            episode: None,
        };
        if ledger.delta() > 0 {
            ledger.episode = Some(Episode {
                past: true,
                ..Episode::new(now)
            });
        }
        ledger
    }

    pub(crate) fn mark(&mut self, now: MonoTime, victim: Victim) {
        let episode = self.episode.get_or_insert(Episode::new(now));
        let same = |known: &Victim| known.pid == victim.pid && known.start_ns == victim.start_ns;
        if episode.victims.len() < MOST_VICTIMS && !episode.victims.iter().any(same) {
            episode.victims.push(victim);
            episode.changed = now;
        }
    }

    /// Takes a reading. One that is older than the last changes nothing.
    pub(crate) fn read(&mut self, now: MonoTime, counters: Counters) {
        if counters.oom_kill < self.latest.oom_kill {
            return;
        }
        if counters.oom_kill > self.explained.oom_kill && self.episode.is_none() {
            self.episode = Some(Episode::new(now));
        }
        if let Some(episode) = &mut self.episode
            && counters.oom_kill > self.latest.oom_kill
        {
            episode.changed = now;
        }
        self.latest = counters;
    }

    /// Returns the time of the next settlement, if no event comes before.
    pub(crate) fn deadline(&self, circumstances: Circumstances) -> Option<MonoTime> {
        let episode = self.episode.as_ref()?;
        let runs_on = !circumstances.ended && self.delta() > 0;
        Some(if episode.past {
            episode.opened.after(GROUP_WAIT)
        } else if runs_on && self.is_group(circumstances) {
            let longest = episode.opened.after(LONGEST_WAIT);
            episode.changed.after(GROUP_WAIT).min(longest)
        } else if runs_on && circumstances.ebpf {
            episode.opened.after(LATE_MARK_WAIT)
        } else {
            episode.opened.after(MARK_WAIT)
        })
    }

    /// Returns whether more kills of a group follow a kill: of this workload's group, or of an
    /// ancestor's.
    fn is_group(&self, circumstances: Circumstances) -> bool {
        circumstances.group || self.group_kills() > 0
    }

    fn group_kills(&self) -> u64 {
        self.latest
            .oom_group_kill
            .saturating_sub(self.explained.oom_group_kill)
    }

    /// Returns whether a kill is still unreported.
    pub(crate) fn is_open(&self) -> bool {
        self.episode.is_some()
    }

    fn delta(&self) -> u64 {
        self.latest.oom_kill.saturating_sub(self.explained.oom_kill)
    }

    /// Closes the episode if everything about it is known, or the wait is over.
    pub(crate) fn settle(
        &mut self,
        now: MonoTime,
        circumstances: Circumstances,
        ancestors: &Ancestors,
    ) -> Option<Incident> {
        let episode = self.episode.as_ref()?;
        let waited = now.since(episode.opened);
        let delta = self.delta();
        if delta == 0 {
            // Marked while it was dying anyway: the kernel counts no kill for that.
            if waited >= MARK_WAIT {
                self.episode = None;
            }
            return None;
        }
        let group = self.is_group(circumstances);
        let known = u64::try_from(episode.victims.len()).unwrap_or(u64::MAX);
        // A group kill counts its first victim twice.
        let everyone_known = known.saturating_add(u64::from(group)) >= delta && known > 0;
        let complete = match circumstances {
            // Marks of that time may come as late as the next agent reads them.
            _ if episode.past => !circumstances.ebpf || waited >= GROUP_WAIT || everyone_known,
            Circumstances {
                ended: true,
                ebpf: true,
                ..
            } => everyone_known || waited >= MARK_WAIT,
            Circumstances {
                ended: true,
                ebpf: false,
                ..
            } => true,
            Circumstances { .. } if group => {
                now.since(episode.changed) >= GROUP_WAIT || waited >= LONGEST_WAIT
            }
            Circumstances { ebpf: true, .. } => known >= delta || waited >= LATE_MARK_WAIT,
            Circumstances { ebpf: false, .. } => true,
        };
        complete.then(|| self.close(now, ancestors))
    }

    /// Returns the cgroup of the workload's own that met its limit. It may be gone.
    fn descendant(&self) -> (Scope, Option<Bytes>) {
        let before = |id: CgroupId| {
            let known = self.explained.descendants.iter();
            let mut known = known.filter(|known| known.id == id);
            known.next().map_or(0, |known| known.oom)
        };
        let mut found = self.latest.descendants.iter();
        let found = found.find(|one| one.oom > before(one.id));
        let limit = found.and_then(|one| one.limit);
        (Scope::Descendant(found.map(|one| one.path.clone())), limit)
    }

    fn close(&mut self, now: MonoTime, ancestors: &Ancestors) -> Incident {
        let group = self.group_kills() > 0;
        let episode = self.episode.take();
        let past = episode.as_ref().is_some_and(|episode| episode.past);
        let victims = episode.map(|episode| episode.victims).unwrap_or_default();
        let (scope, limit_bytes) = if self.latest.own_oom > self.explained.own_oom {
            (Scope::Own, self.latest.limit)
        } else if self.latest.subtree_oom > self.explained.subtree_oom {
            self.descendant()
        } else if let Some(ancestor) = ancestors.culprit(now, &self.latest) {
            (Scope::Ancestor(ancestor.path.clone()), ancestor.limit)
        } else {
            (Scope::Host, None)
        };
        let first = victims.first();
        let incident = Incident {
            asked_by: first
                .map(|victim| victim.asker.clone())
                .filter(|asker| asker.pid != 0),
            scope,
            limit_bytes,
            peak_bytes: self.latest.peak,
            group,
            source: match (victims.is_empty(), past) {
                (false, _) => OomSource::Ebpf,
                (true, false) => OomSource::Counters,
                (true, true) => OomSource::Recovered,
            },
            marked_ns: first.map(|victim| victim.marked_ns),
            counter_before: self.explained.oom_kill,
            counter_after: self.latest.oom_kill,
            victims,
        };
        self.explained = self.latest.clone();
        incident
    }
}

#[cfg(test)]
mod tests;
