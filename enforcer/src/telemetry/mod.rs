//! The metrics of the agent and its workloads, made at each scrape, and the agent's own log:
//! `tracing` to stderr.

mod counts;
mod families;
mod scrape;
mod table;

pub(crate) use scrape::{Format, Telemetry};

use tracing::level_filters::LevelFilter;

/// Warnings and worse, unless `ENFORCER_LOG` names another level.
pub(crate) fn init() {
    let asked = std::env::var("ENFORCER_LOG").ok();
    let level = asked.and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::WARN))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}
