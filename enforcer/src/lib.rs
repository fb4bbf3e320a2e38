//! The agent and its command line. The binary is nothing but a call of [`main`]; what else
//! is public is for fuzzing and measuring, and no interface for anybody.
#![forbid(unsafe_code)]

mod agent;
mod alerting;
mod api;
mod cli;
mod executor;
mod failpoint;
#[doc(hidden)]
pub mod fuzzing;
mod holder;
mod inbox;
mod loops;
mod manifest_files;
mod marks;
#[doc(hidden)]
pub mod measuring;
mod probe;
mod reload;
mod report;
mod runtime;
mod service;
mod settings;
mod store;
mod symbolize;
mod telemetry;
mod watch;

/// Runs the command line to its end.
#[must_use]
pub fn main() -> std::process::ExitCode {
    enforcer_kernel::own_process::use_one_heap();
    telemetry::init();
    cli::main()
}
