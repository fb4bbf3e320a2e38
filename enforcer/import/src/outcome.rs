//! What became of a key, and a workload on its way into a manifest.

use crate::Verdict;

/// What became of a key, and the note of its line.
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
