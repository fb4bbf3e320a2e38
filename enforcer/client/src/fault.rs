//! The failure of a command: its text and its exit code.

use std::process::ExitCode;

#[derive(Debug)]
pub enum Fault {
    /// Anything that has no code of its own.
    Failed(String),
    /// The agent will not do what was asked.
    Refused(String),
    /// Drawn already, with a summary.
    Drawn {
        drawn: String,
        summary: String,
    },
    /// The answer of `diff`, which says all there is to say.
    Differs,
    /// The arguments make no sense.
    Usage(String),
    NotRunning(String),
    NoSuchWorkload(String),
    NoAgent(String),
    NotPermitted(String),
}

impl Fault {
    /// Returns the text of the failure.
    pub fn text(&self) -> String {
        match self {
            Self::Differs => String::new(),
            Self::Drawn { summary: text, .. }
            | Self::Failed(text)
            | Self::Refused(text)
            | Self::Usage(text)
            | Self::NotRunning(text)
            | Self::NoSuchWorkload(text)
            | Self::NoAgent(text)
            | Self::NotPermitted(text) => text.clone(),
        }
    }

    pub fn print(&self) {
        match self {
            Self::Differs => {}
            Self::Drawn { drawn, summary } => eprintln!("{}\n\nerror: {summary}", drawn.trim_end()),
            Self::Failed(text)
            | Self::Refused(text)
            | Self::Usage(text)
            | Self::NotRunning(text)
            | Self::NoSuchWorkload(text)
            | Self::NoAgent(text)
            | Self::NotPermitted(text) => eprintln!("error: {text}"),
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::Refused(_) | Self::Drawn { .. } | Self::Differs => 1,
            Self::Usage(_) => 2,
            Self::NotRunning(_) => 3,
            Self::NoSuchWorkload(_) => 4,
            Self::NoAgent(_) => 5,
            Self::NotPermitted(_) => 6,
        })
    }
}
