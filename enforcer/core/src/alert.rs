//! A condition of a rule about one workload or the host, from its beginning to its end:
//!
//! ```text
//!          holds              held for so long
//! (none) ───────→ pending ─────────────────────→ firing ──→ sent again, now and then
//!    ↑               │ doesn't                     │ doesn't, for as long
//!    └───────────────┴─────────────────────────────┘
//! ```
//!
//! The origin of a condition and the delivery of a message are not known here.

use crate::name::ReplicaId;
use crate::spec::Severity;
use crate::units::{MonoTime, STANDSTILL};
use enforcer_model::ids::Seq;
use std::collections::BTreeMap;
use std::time::Duration;

/// The time after the last event of a kind when its alert ends.
pub(crate) const QUIET: Duration = Duration::from_secs(300);

/// The name of a rule, and the workload that it is about; `None` for the host.
pub(crate) type Key = (String, Option<ReplicaId>);

/// Resumes an alert that an earlier agent has sent, and that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub rule: String,
    pub workload: Option<ReplicaId>,
    /// The number of the alert's first event.
    pub id: Seq,
    /// The time of the last message.
    pub reported: MonoTime,
    pub stood: Duration,
    pub text: String,
    /// The targets that got it.
    pub to: Vec<String>,
    pub severity: Severity,
}

/// The state of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// The condition holds; this is its text.
    Yes(String),
    No,
    /// There is no reading just now. This ends no alert.
    Unknown,
}

/// The message that was sent.
#[derive(Clone, Debug)]
struct Fired {
    id: Seq,
    reported: MonoTime,
    to: Vec<String>,
    severity: Severity,
}

/// The message that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Fire,
    /// The alert still holds.
    Repeat(Seq),
    Resolve(Seq),
}

#[derive(Clone, Debug)]
struct Condition {
    since: MonoTime,
    /// The condition's last text.
    text: String,
    fired: Option<Fired>,
    /// Since when it holds no more.
    clear: Option<MonoTime>,
    /// The time of the last reading.
    seen: MonoTime,
}

#[derive(Clone, Debug)]
struct Occurrence {
    last: MonoTime,
    count: u64,
    /// The last event in words.
    text: String,
}

/// The times that decide when a message is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) held: Duration,
    pub(crate) repeat: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Conditions {
    known: BTreeMap<Key, Condition>,
    occurred: BTreeMap<Key, Occurrence>,
}

impl Conditions {
    /// Notes a reading of a condition, and returns the message that is due. After [`Message::Fire`]
    /// and [`Message::Repeat`] the caller calls [`Self::reported`].
    pub(crate) fn observe(
        &mut self,
        now: MonoTime,
        key: &Key,
        pace: Pace,
        holds: Holds,
    ) -> Option<Message> {
        let holds = match holds {
            Holds::Yes(text) => Some(text),
            Holds::No => None,
            Holds::Unknown => return None,
        };
        let Some(known) = self.known.get_mut(key) else {
            let text = holds?;
            let condition = Condition {
                since: now,
                text,
                fired: None,
                clear: None,
                seen: now,
            };
            self.known.insert(key.clone(), condition);
            return pace.held.is_zero().then_some(Message::Fire);
        };
        // A gap between two readings does not count as time in which the condition held or did not.
        if now.since(known.seen) > STANDSTILL {
            known.clear = None;
            if known.fired.is_none() {
                known.since = now;
            }
        }
        known.seen = now;
        let Some(text) = holds else {
            let clear = *known.clear.get_or_insert(now);
            let Some(id) = known.fired.as_ref().map(|fired| fired.id) else {
                self.known.remove(key);
                return None;
            };
            return (now.since(clear) >= pace.held).then_some(Message::Resolve(id));
        };
        known.text = text;
        known.clear = None;
        match &known.fired {
            None if now.since(known.since) >= pace.held => Some(Message::Fire),
            None => None,
            Some(fired) => {
                let since = now.since(fired.reported);
                let due = pace.repeat.is_some_and(|repeat| since >= repeat);
                due.then_some(Message::Repeat(fired.id))
            }
        }
    }

    /// Notes that the message was sent. `id` is the alert's first event.
    pub(crate) fn reported(
        &mut self,
        now: MonoTime,
        key: &Key,
        id: Seq,
        (to, severity): (Vec<String>, Severity),
    ) {
        if let Some(known) = self.known.get_mut(key) {
            let reported = now;
            known.fired = Some(Fired {
                id,
                reported,
                to,
                severity,
            });
        }
    }

    /// Returns the targets of the last message, and its severity.
    pub(crate) fn audience(&self, key: &Key) -> Option<(Vec<String>, Severity)> {
        let fired = self.known.get(key)?.fired.as_ref()?;
        Some((fired.to.clone(), fired.severity))
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        self.known.remove(key);
        self.occurred.remove(key);
    }

    /// Returns the condition's last text, and the time for which it has held.
    pub(crate) fn describe(&self, now: MonoTime, key: &Key) -> (String, Duration) {
        let known = self.known.get(key);
        known.map_or((String::new(), Duration::ZERO), |known| {
            (known.text.clone(), now.since(known.since))
        })
    }

    pub(crate) fn resume(&mut self, now: MonoTime, standing: Standing) {
        let nanos = u64::try_from(standing.stood.as_nanos()).unwrap_or(u64::MAX);
        let condition = Condition {
            since: MonoTime(standing.reported.0.saturating_sub(nanos)),
            text: standing.text.clone(),
            fired: Some(Fired {
                id: standing.id,
                reported: standing.reported,
                to: standing.to,
                severity: standing.severity,
            }),
            clear: None,
            seen: now,
        };
        let key = (standing.rule, standing.workload);
        // A rule about events may have missed some: its alert ends no earlier than if the last
        // event came now.
        let occurrence = Occurrence {
            last: now,
            count: 1,
            text: standing.text,
        };
        self.occurred.insert(key.clone(), occurrence);
        self.known.insert(key, condition);
    }

    /// Returns the keys of all conditions.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.known.keys().cloned().collect()
    }

    /// Returns the alert's first event, if a message was sent.
    pub(crate) fn fired(&self, key: &Key) -> Option<Seq> {
        let fired = self.known.get(key)?.fired.as_ref()?;
        Some(fired.id)
    }

    /// Notes an event that this rule is about.
    pub(crate) fn occurred(&mut self, now: MonoTime, key: &Key, text: String) {
        let count = self.occurred.get(key).map_or(0, |known| known.count);
        let occurrence = Occurrence {
            last: now,
            count: count + 1,
            text,
        };
        self.occurred.insert(key.clone(), occurrence);
    }

    /// Returns the last event in words, with the number of events; `None` if none came for a while.
    pub(crate) fn occurrence(&mut self, now: MonoTime, key: &Key) -> Option<String> {
        let known = self.occurred.get(key)?;
        if now.since(known.last) >= QUIET {
            self.occurred.remove(key);
            return None;
        }
        Some(match known.count {
            1 => known.text.clone(),
            count => format!("{} (the last of {count})", known.text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> MonoTime {
        MonoTime(seconds * 1_000_000_000)
    }

    /// Returns the messages about a condition that is read at these seconds.
    fn messages(pace: Pace, looks: &[(u64, bool)]) -> Vec<(u64, Message)> {
        let key = ("memory".to_owned(), None);
        let mut conditions = Conditions::default();
        let mut reported = Vec::new();
        for (second, holds) in looks {
            let now = at(*second);
            let holds = match holds {
                true => Holds::Yes("full".to_owned()),
                false => Holds::No,
            };
            let Some(message) = conditions.observe(now, &key, pace, holds) else {
                continue;
            };
            reported.push((*second, message));
            match message {
                Message::Fire => conditions.reported(now, &key, Seq(*second), no_target()),
                Message::Repeat(id) => conditions.reported(now, &key, id, no_target()),
                Message::Resolve(_) => conditions.forget(&key),
            }
        }
        reported
    }

    fn no_target() -> (Vec<String>, Severity) {
        (Vec::new(), Severity::Warning)
    }

    const PACE: Pace = Pace {
        held: Duration::from_secs(10),
        repeat: Some(Duration::from_secs(60)),
    };

    #[test]
    fn a_condition_fires_when_it_held_and_ends_when_it_was_clear_as_long() {
        let looks = [
            (0, true),
            (5, false),
            (6, true),
            (15, true),
            (16, true),
            (20, false),
            (25, true),
            (30, false),
            (39, false),
            (40, false),
            (45, false),
        ];
        let expected = [(16, Message::Fire), (40, Message::Resolve(Seq(16)))];
        assert_eq!(messages(PACE, &looks), expected);
    }

    #[test]
    fn a_standing_alert_is_repeated_under_its_first_number() {
        let looks: Vec<(u64, bool)> = (0..30).map(|step| (step * 5, true)).collect();
        let expected = [
            (10, Message::Fire),
            (70, Message::Repeat(Seq(10))),
            (130, Message::Repeat(Seq(10))),
        ];
        assert_eq!(messages(PACE, &looks), expected);
        let never = Pace {
            repeat: None,
            ..PACE
        };
        assert_eq!(messages(never, &looks).len(), 1);
    }

    #[test]
    fn a_condition_without_a_time_is_reported_and_over_at_once() {
        let pace = Pace {
            held: Duration::ZERO,
            repeat: None,
        };
        let looks = [(1, true), (2, true), (3, false), (4, true)];
        let expected = [
            (1, Message::Fire),
            (3, Message::Resolve(Seq(1))),
            (4, Message::Fire),
        ];
        assert_eq!(messages(pace, &looks), expected);
    }

    #[test]
    fn an_event_stands_until_no_other_came() {
        let key = ("oom".to_owned(), ReplicaId::parse("web"));
        let mut conditions = Conditions::default();
        let stands =
            |conditions: &mut Conditions, seconds| conditions.occurrence(at(seconds), &key);
        assert_eq!(stands(&mut conditions, 0), None);
        conditions.occurred(at(1), &key, "a".to_owned());
        conditions.occurred(at(200), &key, "b".to_owned());
        let both = Some("b (the last of 2)".to_owned());
        assert_eq!(stands(&mut conditions, 499), both);
        assert_eq!(stands(&mut conditions, 500), None);
        conditions.occurred(at(600), &key, "c".to_owned());
        assert_eq!(stands(&mut conditions, 600), Some("c".to_owned()));
    }
}
