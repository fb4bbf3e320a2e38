//! The installed command: short commands at once, and all others by the full program.

use enforcer_client::{Fault, short};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The full program, from the folder above the one that this program is in, such as `/usr`.
const FULL: &str = "libexec/enforcer/enforcer";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    short::run(&arguments).unwrap_or_else(|| {
        let fault = execute_full(&arguments);
        fault.print();
        fault.exit_code()
    })
}

/// Executes the full program in this process, and returns only if that fails.
fn execute_full(arguments: &[OsString]) -> Fault {
    let own = std::env::current_exe().unwrap_or_default();
    let prefix = own.parent().and_then(Path::parent);
    let program = prefix.unwrap_or(Path::new("/")).join(FULL);
    let mut full = Command::new(&program);
    full.args(arguments.iter().skip(1));
    if let Some(name) = arguments.first() {
        full.arg0(name);
    }
    let error = full.exec();
    Fault::Failed(format!(
        "failed to execute {}, which has all other commands: {error}; install the package again",
        program.display()
    ))
}
