//! Turns the files of other tools into a manifest, and reports what carries over. `running` does the same for
//! what runs already.
//!
//! This crate reads no file: the texts come in as arguments. The report has one line for every key of the
//! source. Importing the same texts twice gives the same bytes.
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod compose;
pub mod kubernetes;
mod outcome;
mod output;
pub mod running;
pub mod systemd;
mod values;

pub use compose::{compose, labels};
pub use kubernetes::kubernetes;
pub use systemd::systemd;

use serde::Serialize;
use std::fmt;

/// The verdict on a key of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It means the same.
    Exact,
    /// It means nearly the same; the note says what differs.
    Near,
    /// It has no meaning here; the note says why, and what to do.
    Dropped,
    /// Somebody must decide.
    NeedsYou,
}

impl Verdict {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Near => "near",
            Self::Dropped => "dropped",
            Self::NeedsYou => "needs you",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The key, such as `services.web.mem_limit`.
    pub key: String,
    pub verdict: Verdict,
    pub note: String,
}

/// A manifest, and the verdict on every key of its source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    pub manifest: String,
    pub report: Vec<Line>,
}

impl Imported {
    /// Returns whether everything means the same here, or nearly.
    #[must_use]
    pub fn carries_over(&self) -> bool {
        let mut lines = self.report.iter();
        lines.all(|line| matches!(line.verdict, Verdict::Exact | Verdict::Near))
    }
}

/// A text that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file, and the byte at which the fault begins.
    pub file: String,
    pub at: usize,
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.message)
    }
}

impl std::error::Error for Refused {}
