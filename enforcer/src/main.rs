//! The full program: the agent and the whole command line.

fn main() -> std::process::ExitCode {
    enforcer::main()
}
