//! The conditions of alerts: every rule is weighed at the tick, and a rule about events when one
//! comes. `alert.rs` has the times.

use super::Supervisor;
use crate::alert::{Holds, Key, Message, Pace, Standing};
use crate::event::{AlertChange, AlertState, Decision, Detail, Moment, Seq, Transition};
use crate::name::ReplicaId;
use crate::spec::{Alerts, Resource, Rule, When};
use crate::state::WorkloadState;
use crate::text::printable;
use crate::units::Percent;
use std::sync::Arc;

impl Supervisor {
    /// Resumes an alert that an earlier agent has sent, and that has not ended.
    pub(super) fn resume_alerts(
        &mut self,
        moment: Moment,
        standing: Vec<Standing>,
        alerts: Arc<Alerts>,
    ) {
        // Events before the manifest are weighed by its rules as well.
        self.host.alerts = alerts;
        for one in standing {
            self.conditions.resume(moment.now, one);
        }
    }

    /// Sends alerts about the events of a decision at once.
    pub(super) fn note_events(&mut self, moment: Moment, decision: &mut Decision) {
        if self.shutting_down {
            return;
        }
        let alerts = Arc::clone(&self.host.alerts);
        let about_events = alerts
            .rules
            .iter()
            .filter_map(|(name, rule)| match rule.when {
                When::Event(kind) => Some((name, rule, kind)),
                When::Memory(_) | When::State(_) | When::Health(_) | When::Host(..) => None,
            });
        for (name, rule, kind) in about_events {
            let seen = decision.transitions.iter();
            let seen = seen.filter(|reported| reported.detail.known_kind() == Some(kind));
            let seen = seen.filter(|reported| names(rule, reported.workload.as_ref()));
            let seen: Vec<(Key, Seq, String)> = seen
                .filter_map(|reported| {
                    let key = (name.clone(), reported.workload.clone());
                    Some((key, reported.seq, reported.trouble()?))
                })
                .collect();
            for (key, seq, trouble) in seen {
                self.conditions.occurred(moment.now, &key, trouble);
                self.weigh(moment, &key, rule, Some(seq), decision);
            }
        }
    }

    /// Weighs every rule about a level, a state or a health.
    pub(super) fn weigh_alerts(&mut self, moment: Moment, decision: &mut Decision) {
        if self.shutting_down {
            // A stop of every workload is no alert; the next agent weighs the rules again.
            return;
        }
        let alerts = Arc::clone(&self.host.alerts);
        for (name, rule) in &alerts.rules {
            let of_host = matches!(rule.when, When::Host(..));
            if of_host {
                self.weigh(moment, &(name.clone(), None), rule, None, decision);
                continue;
            }
            if matches!(rule.when, When::Event(_)) {
                // A rule about events has no condition before its first event.
                continue;
            }
            // A workload that is being removed has no alert.
            let there = self.workloads.iter().filter(|(_, known)| !known.is_gone());
            let named: Vec<ReplicaId> = there
                .map(|(workload, _)| workload)
                .filter(|workload| names(rule, Some(workload)))
                .cloned()
                .collect();
            for workload in named {
                let key = (name.clone(), Some(workload));
                self.weigh(moment, &key, rule, None, decision);
            }
        }
        // The alerts about events, and about workloads that are gone.
        for key in self.conditions.keys() {
            let rule = alerts.rules.get(&key.0);
            let rule = rule.filter(|rule| names(rule, key.1.as_ref()));
            match rule {
                Some(rule) if matches!(rule.when, When::Event(_)) => {
                    self.weigh(moment, &key, rule, None, decision);
                }
                Some(rule) if matches!(rule.when, When::Host(..)) == key.1.is_none() => {
                    let gone = key.1.as_ref();
                    if gone.is_some_and(|workload| !self.workloads.contains_key(workload)) {
                        self.drop_alert(moment, &key, decision);
                    }
                }
                None if self.rules_unread => {}
                Some(_) | None => self.drop_alert(moment, &key, decision),
            }
        }
    }

    fn drop_alert(&mut self, moment: Moment, key: &Key, decision: &mut Decision) {
        if let Some(id) = self.conditions.fired(key) {
            self.report_alert(moment, key, Message::Resolve(id), None, decision);
        }
        self.conditions.forget(key);
    }

    fn weigh(
        &mut self,
        moment: Moment,
        key: &Key,
        rule: &Rule,
        cause: Option<Seq>,
        decision: &mut Decision,
    ) {
        let holds = self.holds(moment, key, rule);
        let pace = Pace {
            held: rule.held,
            repeat: self.host.alerts.repeat,
        };
        let message = self.conditions.observe(moment.now, key, pace, holds);
        if let Some(message) = message {
            self.report_alert(moment, key, message, cause, decision);
        }
    }

    fn holds(&mut self, moment: Moment, key: &Key, rule: &Rule) -> Holds {
        let level = |used: Option<Percent>, share: Percent, what: &str| match used {
            None => Holds::Unknown,
            Some(used) if used >= share => Holds::Yes(format!(
                "{what} at {} %{}, from {} % on",
                used.0,
                of(rule),
                share.0
            )),
            Some(_) => Holds::No,
        };
        let whether = |holds: bool, text: String| match holds {
            true => Holds::Yes(text),
            false => Holds::No,
        };
        let workload = key.1.as_ref().and_then(|name| self.workloads.get(name));
        match (rule.when, workload) {
            (When::Memory(share), Some(workload))
                if workload.runs() && workload.has_memory_max() =>
            {
                level(workload.memory_share(), share, "memory")
            }
            // A trial that is under way is no way out yet.
            (When::State(state @ WorkloadState::BreakerOpen), Some(workload)) => {
                whether(workload.is_broken(), format!("it is in the state {state}"))
            }
            (When::State(state), Some(workload)) => whether(
                workload.public_state() == state,
                format!("it is in the state {state}"),
            ),
            (When::Health(health), Some(workload)) => {
                let (found, why) = workload.health_in_words();
                whether(found == health, why.to_owned())
            }
            (When::Memory(_) | When::State(_) | When::Health(_), _) => Holds::No,
            (When::Event(_), _) => match self.conditions.occurrence(moment.now, key) {
                None => Holds::No,
                Some(text) => Holds::Yes(text),
            },
            (When::Host(resource, share), _) => {
                let what = match resource {
                    Resource::Memory => "the host's memory",
                    Resource::Cpu => "the host's CPU time",
                    Resource::Disk => "the host's disk",
                };
                level(self.host_state.used_of(resource), share, what)
            }
        }
    }

    fn report_alert(
        &mut self,
        moment: Moment,
        key: &Key,
        message: Message,
        cause: Option<Seq>,
        decision: &mut Decision,
    ) {
        self.next_seq += 1;
        let seq = Seq(self.next_seq);
        let alerts = Arc::clone(&self.host.alerts);
        let rule = alerts.rules.get(&key.0);
        let (text, stood) = self.conditions.describe(moment.now, key);
        let (id, state, caused_by) = match message {
            Message::Fire => (seq, AlertState::Firing, cause),
            Message::Repeat(id) => (id, AlertState::Firing, Some(id)),
            Message::Resolve(id) => (id, AlertState::Resolved, Some(id)),
        };
        let chosen = rule.and_then(|rule| rule.to.as_ref());
        let to = alerts.targets.keys();
        let to = to.filter(|target| chosen.is_none_or(|chosen| chosen.contains(*target)));
        let mut to: Vec<String> = to.cloned().collect();
        let mut severity = rule.map(|rule| rule.severity).unwrap_or_default();
        let mut audience = to.clone();
        if let Some((before, reported_as)) = self.conditions.audience(key) {
            // The end of an alert goes to all targets that got it, with its last text.
            if let Message::Resolve(_) = message {
                (to, audience, severity) = (before.clone(), before, reported_as);
            } else {
                audience.extend(before);
                audience.sort();
                audience.dedup();
            }
        }
        let change = AlertChange {
            id,
            rule: key.0.clone(),
            state,
            repeated: matches!(message, Message::Repeat(_)),
            severity,
            text: printable(&text),
            stood,
            to,
            audience: audience.clone(),
        };
        decision.transitions.push(Transition {
            seq,
            workload: key.1.clone(),
            instance: None,
            reason: None,
            caused_by,
            detail: Detail::Alert(change),
        });
        match message {
            Message::Fire | Message::Repeat(_) => {
                self.conditions
                    .reported(moment.now, key, id, (audience, severity));
            }
            Message::Resolve(_) => self.conditions.forget(key),
        }
    }
}

/// Returns the whole of which a share is taken, if that is not plain.
fn of(rule: &Rule) -> &'static str {
    match rule.when {
        When::Memory(_) => " of its limit",
        When::State(_) | When::Health(_) | When::Event(_) | When::Host(..) => "",
    }
}

fn names(rule: &Rule, workload: Option<&ReplicaId>) -> bool {
    if matches!(rule.when, When::Host(..)) {
        return workload.is_none();
    }
    match (&rule.workloads, workload) {
        (None, _) => true,
        (Some(named), Some(workload)) => named.contains(workload.workload()),
        (Some(_), None) => false,
    }
}
