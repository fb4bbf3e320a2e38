//! The agent and its command line in one binary.

fn main() -> std::process::ExitCode {
    enforcer::main()
}
