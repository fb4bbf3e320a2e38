//! One decision of a leader, about a part of the fleet where that is enough.

use super::looked::{Looked, look};
use super::writes::Write;
use super::{LOOK, News, Phase, Scheduler};
use crate::fleet::Time;
use crate::record::{Key, RecordError};
use crate::store::Revision;

impl Scheduler {
    /// Decides, and writes what changes.
    pub(super) fn decide(&mut self, now: Time) {
        let Phase::Leading(leading) = &mut self.phase else {
            return;
        };
        self.changes += 1;
        let before = self.memory.clone();
        let part = leading.scope.take().filter(|_| leading.view.has_parts());
        let part = part.map(|scope| leading.view.part(&scope));
        let part = part.and_then(|part| {
            let mut memory = before.clone();
            let looked = look(&part, &mut memory, &self.settings, now);
            // Only the whole fleet has those that it could displace.
            (!looked.may_displace(&leading.view)).then_some((part, memory, looked))
        });
        let whole = || {
            let mut memory = before.clone();
            let looked = look(&leading.view, &mut memory, &self.settings, now);
            (memory, looked)
        };
        let (view, memory, looked) = match &part {
            Some((part, memory, looked)) => (part, memory.clone(), looked.clone()),
            None => {
                let (memory, looked) = whole();
                (&leading.view, memory, looked)
            }
        };
        self.memory = memory;
        let mut writes = looked.writes(&self.prefix, view, now);
        if self.compares && part.is_some() {
            let (_, of_all) = whole();
            assert_eq!(looked.decision, of_all.decision);
            let of_all = of_all.writes(&self.prefix, &leading.view, now);
            assert_eq!(writes, of_all);
        }
        if self.memory != before && writes.is_empty() {
            // Each transaction writes it.
            writes.push(Write::default());
        }
        let view = &leading.view;
        let Looked {
            decision,
            unsettled,
            ..
        } = looked;
        leading.memory = view
            .memory
            .as_ref()
            .map_or(Revision(0), |kept| kept.modified);
        // Only what is not settled may be decided about otherwise because time has passed.
        leading.due = (!unsettled.is_empty()).then(|| now.after(LOOK));
        leading.scope = Some(unsettled);
        writes.reverse();
        leading.writes = writes;
        let unreadable: Vec<(Key, RecordError)> = (view.unreadable.iter())
            .filter(|(key, _)| !self.reported.contains(*key))
            .map(|(key, error)| (key.clone(), error.clone()))
            .collect();
        for (key, error) in unreadable {
            self.reported.insert(key.clone());
            self.tell(News::Unreadable(key, error));
        }
        if !decision.changes.is_empty() {
            self.tell(News::Decided(decision));
        }
        self.write_next(now);
    }
}
