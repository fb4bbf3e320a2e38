//! The program `enforcer-fleet`.

fn main() -> std::process::ExitCode {
    enforcer_fleet::cli::main()
}
