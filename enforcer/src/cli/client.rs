//! Speaks to the agent over the Unix socket that the settings name.

use crate::fault::Fault;
use crate::settings::Settings;
use enforcer_client::http;
pub(super) use enforcer_client::http::{Answer, read};
use serde::Serialize;

/// Asks the agent.
pub(super) fn get(settings: &Settings, path: &str) -> Result<Answer, Fault> {
    http::get(&settings.socket(), path)
}

/// Sends a request that has a body, and returns the answer.
pub(super) fn post(
    settings: &Settings,
    path: &str,
    body: &impl Serialize,
) -> Result<Answer, Fault> {
    http::post(&settings.socket(), path, body)
}

/// Sends a request that has no body, and returns the answer.
pub(super) fn order(settings: &Settings, path: &str) -> Result<Answer, Fault> {
    http::order(&settings.socket(), path)
}

/// Sends one request, and passes on its answer piece by piece until it ends.
pub(super) fn stream(
    settings: &Settings,
    path: &str,
    take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    http::stream(&settings.socket(), path, take)
}

/// Returns the process id of the agent.
pub(super) fn agent(settings: &Settings) -> Result<u32, Fault> {
    http::agent(&settings.socket())
}
