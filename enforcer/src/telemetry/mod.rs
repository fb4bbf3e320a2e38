//! What is told of the agent and its workloads to others: metrics, read from the kernel
//! when somebody asks for them, and the agent's own words: `tracing` to stderr, with the
//! eBPF programs' messages in it.

mod counts;
mod families;
mod scrape;
mod table;

pub(crate) use scrape::{Format, Telemetry};

use crate::kernel::ready;
use aya_log::EbpfLogger;
use tokio::io::Interest;
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

/// Passes on what the eBPF programs say, for as long as the agent lives.
pub(crate) async fn relay_ebpf_log(mut logger: EbpfLogger<&'static dyn log::Log>) {
    let Ok(polled) = ready::watch(&logger, Interest::READABLE) else {
        return;
    };
    loop {
        let Ok(mut readable) = polled.readable().await else {
            return;
        };
        logger.flush();
        readable.clear_ready();
    }
}
