//! The failure of a command.

use crate::configuration::files::LoadError;
pub(crate) use enforcer_client::Fault;

/// The failure of a command that could not read its manifest.
impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Faults(drawn, count) => {
                let summary = if count == 1 {
                    "one fault".to_owned()
                } else {
                    format!("{count} faults")
                };
                Self::Drawn {
                    drawn,
                    summary: format!("{summary}; nothing was started"),
                }
            }
            other => Self::Failed(format!("failed to {other}")),
        }
    }
}
