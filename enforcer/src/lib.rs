//! The agent and its command line. The binary is nothing but a call of [`main`]; what else
//! is public is for fuzzing and measuring, and no interface for anybody.

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
mod kernel;
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
    // One heap for all threads: each further one would hold pages of its own,
    // and be copied at every fork.
    // SAFETY: called before there is a second thread or a second heap.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    telemetry::init();
    cli::main()
}
