//! The agent and its command line in one binary.

mod api;
mod cli;
mod executor;
mod kernel;
mod manifest_files;
mod marks;
mod runtime;
mod settings;
mod store;
mod telemetry;
mod watch;

fn main() -> std::process::ExitCode {
    telemetry::init();
    cli::main()
}
