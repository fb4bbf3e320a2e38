//! The outcomes of keys, which the report has.

use crate::Verdict;

/// The verdict on a key, and the note of its line.
pub(crate) type Outcome = (Verdict, String);

pub(crate) fn exact(note: impl Into<String>) -> Outcome {
    (Verdict::Exact, note.into())
}

pub(crate) fn near(note: impl Into<String>) -> Outcome {
    (Verdict::Near, note.into())
}

pub(crate) fn dropped(note: impl Into<String>) -> Outcome {
    (Verdict::Dropped, note.into())
}

pub(crate) fn needs_you(note: impl Into<String>) -> Outcome {
    (Verdict::NeedsYou, note.into())
}

pub(crate) fn unread() -> Outcome {
    needs_you("the value is not understood")
}

/// The note about capabilities that a container adds.
pub(crate) const ADDED: &str = "a user other than root has them as well, unlike in a container";
