//! The next steps of a group, after it has seen its replicas.

use super::{Group, Index, Member, Seen, Step};
use crate::event::RolloutState;
use crate::spec::{OnFailure, Replicas, WorkloadSpec};
use crate::units::MonoTime;
use std::collections::{BTreeMap, BTreeSet};

impl Group {
    /// Returns what is to be done next, now that the replicas are as they are seen.
    pub(crate) fn advance(&mut self, seen: &BTreeMap<Index, Seen>, now: MonoTime) -> Vec<Step> {
        self.observe(seen, now);
        let mut steps = Vec::new();
        let is_new = self
            .rollout
            .as_mut()
            .is_some_and(|rollout| !std::mem::replace(&mut rollout.reported, true));
        if is_new {
            let of = self.count(|member| !self.is_current(member));
            steps.push(self.report(RolloutState::Began, format!("replicas to replace: {of}")));
        }
        if let Some(why) = self.failure(seen, now) {
            steps.extend(self.fail(why, now));
        }
        if self.rollout.as_ref().is_some_and(|rollout| rollout.paused) {
            return steps;
        }
        let before = steps.len();
        self.replace(seen, now, &mut steps);
        if steps.len() > before
            && let Some(rollout) = &mut self.rollout
        {
            rollout.progressed = now;
        }
        steps
    }

    fn observe(&mut self, seen: &BTreeMap<Index, Seen>, now: MonoTime) {
        self.members
            .retain(|member| seen.contains_key(&member.index));
        let mut progressed = false;
        for member in &mut self.members {
            let ready = seen.get(&member.index).is_some_and(|seen| seen.ready);
            progressed |= ready && member.ready_since.is_none();
            member.ready_since = match ready {
                true => member.ready_since.or(Some(now)),
                false => None,
            };
        }
        if let Some(rollout) = self.rollout.as_mut().filter(|_| progressed) {
            rollout.progressed = now;
        }
    }

    /// Returns why the rollout has failed.
    fn failure(&self, seen: &BTreeMap<Index, Seen>, now: MonoTime) -> Option<String> {
        let rollout = self.rollout.as_ref()?;
        if rollout.paused || rollout.backward {
            return None;
        }
        let broken = self.members.iter().find(|member| {
            let is_broken = seen.get(&member.index).is_some_and(|seen| seen.is_broken);
            self.is_current(member) && is_broken
        });
        if let Some(Member {
            index: Some(index), ..
        }) = broken
        {
            return Some(format!(
                "replica {index} of the new version does not come up"
            ));
        }
        let deadline = self.target.rollout.deadline;
        (now.since(rollout.progressed) >= deadline).then(|| {
            let seconds = deadline.as_secs();
            format!("no replica became ready for {seconds} s")
        })
    }

    fn fail(&mut self, why: String, now: MonoTime) -> Vec<Step> {
        let Some(rollout) = &mut self.rollout else {
            return Vec::new();
        };
        let goes_back = self.target.rollout.on_failure == OnFailure::Rollback;
        match rollout.from.clone().filter(|_| goes_back) {
            Some(from) => {
                self.go_back(from, now);
                vec![self.report(RolloutState::Failed, format!("{why}; it goes back"))]
            }
            None => {
                rollout.paused = true;
                vec![self.report(RolloutState::Paused, why)]
            }
        }
    }

    /// Returns whether a replica is available, so that others may be replaced.
    fn is_available(&self, member: &Member, now: MonoTime) -> bool {
        let min_ready = match self.is_current(member) && self.rollout.is_some() {
            true => self.target.rollout.min_ready,
            false => std::time::Duration::ZERO,
        };
        !member.leaves
            && member
                .ready_since
                .is_some_and(|since| since.after(min_ready) <= now)
    }

    fn replace(&mut self, seen: &BTreeMap<Index, Seen>, now: MonoTime, steps: &mut Vec<Step>) {
        let slots = self.slots();
        if self.makes_room(steps) {
            return;
        }
        let rules = &self.target.rollout;
        let (surge, unavailable) = (rules.max_surge, rules.max_unavailable);
        let rests = |index: Index| seen.get(&index).is_some_and(|seen| seen.rests);
        let resting = slots.iter().filter(|index| rests(**index)).count();
        let active = slots.len().saturating_sub(resting);
        let floor = active.saturating_sub(usize::from(unavailable));
        let ceiling = slots.len() + usize::from(surge);
        // One that is being removed still has its memory.
        let mut total = self.members.len();
        let mut available = self
            .members
            .iter()
            .filter(|member| self.is_available(member, now))
            .count();
        // Missing replicas are added.
        for index in &slots {
            // Each replica needs a place of its own at the gate, and one that is leaving still has its place.
            let place = index.map(Replicas::place);
            let mut members = self.members.iter();
            let is_taken = members.any(|member| member.index.map(Replicas::place) == place);
            if !is_taken && total < ceiling {
                self.add(*index, steps);
                total += 1;
            }
        }
        // Replicas of another version are replaced. The first ones are those that are not available.
        let mut old: Vec<(bool, Index)> = self
            .members
            .iter()
            .filter(|member| !member.leaves && !self.is_current(member))
            .map(|member| (self.is_available(member, now), member.index))
            .collect();
        old.sort_unstable();
        let mut left = 0_usize;
        for (is_available, index) in old {
            if is_available && available <= floor {
                left += usize::from(slots.contains(&index));
                continue;
            }
            available -= usize::from(is_available);
            match slots.contains(&index) {
                true => self.update(index, steps),
                false => self.remove(index, steps),
            }
        }
        // One more replica makes room, so that another one can be replaced.
        let is_surge = |member: &&Member| !member.leaves && !slots.contains(&member.index);
        let extra = self.members.iter().filter(is_surge).count();
        let most = left.min(usize::from(surge));
        let first = self.wanted.unwrap_or(0);
        let free: Vec<u16> = (first..Replicas::MOST)
            .filter(|index| {
                self.members
                    .iter()
                    .all(|member| member.index != Some(*index))
            })
            .collect();
        for index in free.into_iter().take(most.saturating_sub(extra)) {
            if total < ceiling {
                self.add(Some(index), steps);
                total += 1;
            }
        }
        self.finish(&slots, (floor, available), (&rests, now), steps);
    }

    /// Between one instance and replicas, those of before end first if they have a TCP socket of `listen`:
    /// that of one instance has its address alone. Returns whether they are still there.
    fn makes_room(&mut self, steps: &mut Vec<Step>) -> bool {
        let listens = |spec: &WorkloadSpec| spec.listen.values().any(|one| one.tcp.is_some());
        let rollout = self.rollout.as_ref();
        let from = rollout.and_then(|rollout| rollout.from.as_ref());
        if !listens(&self.target) && from.is_none_or(|(spec, _)| !listens(spec)) {
            return false;
        }
        let is_alone = self.wanted.is_none();
        let others = self.members.iter();
        let others: Vec<(Index, bool)> = others
            .filter(|member| member.index.is_none() != is_alone)
            .map(|member| (member.index, member.leaves))
            .collect();
        for (index, leaves) in &others {
            if !leaves {
                self.remove(*index, steps);
            }
        }
        !others.is_empty()
    }

    /// Removes what is no longer needed, once every wanted replica is in place.
    fn finish(
        &mut self,
        slots: &BTreeSet<Index>,
        (floor, mut available): (usize, usize),
        (rests, now): (&dyn Fn(Index) -> bool, MonoTime),
        steps: &mut Vec<Step>,
    ) {
        let in_place = |member: &Member| {
            self.is_current(member) && (rests(member.index) || self.is_available(member, now))
        };
        let all_in_place = slots.iter().all(|index| {
            let mut members = self.members.iter();
            members.any(|member| member.index == *index && in_place(member))
        });
        let surplus: Vec<(Index, bool)> = self
            .members
            .iter()
            .filter(|member| !member.leaves && !slots.contains(&member.index))
            .map(|member| (member.index, self.is_available(member, now)))
            .collect();
        let rolls = self.rollout.is_some();
        for (index, is_available) in surplus.into_iter().rev() {
            if rolls && !all_in_place {
                continue;
            }
            if is_available && available <= floor && !all_in_place {
                continue;
            }
            available -= usize::from(is_available);
            self.remove(index, steps);
        }
        let is_done = all_in_place
            && self
                .members
                .iter()
                .all(|member| member.leaves || slots.contains(&member.index));
        if is_done && let Some(rollout) = self.rollout.take() {
            let state = match rollout.backward {
                true => RolloutState::RolledBack,
                false => RolloutState::Completed,
            };
            let took = now.since(rollout.began).as_secs_f64();
            steps.push(self.report(state, format!("it took {took:.1} s")));
        }
    }

    fn add(&mut self, index: Index, steps: &mut Vec<Step>) {
        self.members.push(Member {
            index,
            version: self.version,
            ready_since: None,
            leaves: false,
        });
        steps.push(Step::Add(index));
    }

    fn update(&mut self, index: Index, steps: &mut Vec<Step>) {
        let version = self.version;
        if let Some(member) = self.member(index) {
            member.version = version;
            member.ready_since = None;
        }
        steps.push(Step::Update(index));
    }

    fn remove(&mut self, index: Index, steps: &mut Vec<Step>) {
        if let Some(member) = self.member(index) {
            member.leaves = true;
        }
        steps.push(Step::Remove(index));
    }

    fn member(&mut self, index: Index) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.index == index)
    }

    /// Returns the time after `now` at which the group next acts by itself.
    pub(crate) fn deadline(&self, now: MonoTime) -> Option<MonoTime> {
        let rollout = self.rollout.as_ref().filter(|rollout| !rollout.paused)?;
        let rules = &self.target.rollout;
        let fails = (!rollout.backward).then(|| rollout.progressed.after(rules.deadline));
        let current = self.members.iter().filter(|member| self.is_current(member));
        let becomes = current.filter_map(|member| Some(member.ready_since?.after(rules.min_ready)));
        fails
            .into_iter()
            .chain(becomes)
            .filter(|at| *at > now)
            .min()
    }
}
