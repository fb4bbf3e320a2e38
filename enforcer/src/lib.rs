//! The agent and its command line. The binary calls [`main`] and does nothing else. What else is
//! public is behind Cargo features, for fuzzing and measuring.
#![forbid(unsafe_code)]

mod agent;
mod alerting;
mod api;
mod cli;
mod configuration;
mod executor;
mod failpoint;
mod fault;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod holder;
mod inbox;
mod loops;
#[cfg(feature = "measuring")]
pub mod measuring;
mod name_servers;
mod probe;
mod report;
mod runtime;
mod sentence;
mod service;
mod settings;
mod store;
mod telemetry;
mod tls;
mod watch;

use enforcer_kernel::spawn;
use std::process::ExitCode;

/// Runs the command line to its end.
#[must_use]
pub fn main() -> ExitCode {
    // First of all: what is in memory here is copied by each fork.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|named| named == spawn::COMMAND)
    {
        return match spawn::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("failed to serve an agent, whose own command this is: {error}");
                ExitCode::FAILURE
            }
        };
    }
    failpoint::failpoint!("command-begun");
    enforcer_kernel::own_process::use_one_heap();
    telemetry::init();
    cli::main()
}
