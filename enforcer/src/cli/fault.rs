//! How a command fails: what is printed, and the exit code.

use std::process::ExitCode;

#[derive(Debug)]
pub(crate) enum Fault {
    /// Anything that has no code of its own.
    Failed(String),
    /// Drawn already, with a summary.
    Drawn {
        drawn: String,
        summary: String,
    },
    NotRunning(String),
    NoSuchWorkload(String),
    NoAgent(String),
    NotPermitted(String),
}

impl Fault {
    pub(crate) fn print(&self) {
        match self {
            Self::Drawn { drawn, summary } => eprintln!("{}\n\nerror: {summary}", drawn.trim_end()),
            Self::Failed(text)
            | Self::NotRunning(text)
            | Self::NoSuchWorkload(text)
            | Self::NoAgent(text)
            | Self::NotPermitted(text) => eprintln!("error: {text}"),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::Drawn { .. } => 1,
            Self::NotRunning(_) => 3,
            Self::NoSuchWorkload(_) => 4,
            Self::NoAgent(_) => 5,
            Self::NotPermitted(_) => 6,
        })
    }
}
