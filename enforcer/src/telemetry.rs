//! The agent's own words: `tracing` to stderr, and the eBPF programs' messages
//! into it.

use crate::kernel::ready;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tracing_subscriber::EnvFilter;

/// Warnings and worse, unless `ENFORCER_LOG` says otherwise.
pub(crate) fn init() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
        .with_env_var("ENFORCER_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
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
