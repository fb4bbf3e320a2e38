//! The faults of a manifest, each with its place. The command line draws them.

use std::ops::Range;

/// The severity of a fault: the manifest is refused, or it is accepted with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// A fault of a manifest, with the bytes of the source that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub severity: Severity,
    pub span: Range<usize>,
    /// The headline, which says what is wrong.
    pub message: String,
    /// The text beside the caret, which says what was expected.
    pub label: String,
    /// The advice, if it is not obvious.
    pub help: Option<String>,
}

impl Fault {
    #[must_use]
    pub fn error(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span,
            message: message.into(),
            label: String::new(),
            help: None,
        }
    }

    #[must_use]
    pub fn warning(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
