//! The commands that need nothing but an answer of the agent. Whatever else is asked, and whatever is
//! set for all commands, is for the full command line.

use crate::{Fault, http, request};
use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// The commands that take a workload's name and nothing else.
const REQUESTS: [&str; 6] = ["start", "stop", "restart", "reload", "kill", "release"];
/// The variables that such a command heeds.
const HEEDED: [&str; 2] = ["ENFORCER_SOCKET", "ENFORCER_RUNTIME_DIR"];

/// A command that needs nothing but an answer.
#[derive(Debug, PartialEq, Eq)]
enum Short<'a> {
    Version,
    /// The workload, and the request for it.
    Request {
        workload: &'a str,
        request: &'a str,
    },
    /// The workloads as JSON in one line.
    List,
}

/// Carries out the command of this process, if it is a short one. `arguments` begin with the program's
/// own name.
pub fn run(arguments: &[OsString]) -> Option<ExitCode> {
    let arguments: Option<Vec<&str>> = arguments.iter().skip(1).map(|text| text.to_str()).collect();
    let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let short = recognise(&arguments?, variables)?;
    // On a terminal, JSON is indented.
    if short == Short::List && io::stdout().is_terminal() {
        return None;
    }
    Some(match answer(&short) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            fault.print();
            fault.exit_code()
        }
    })
}

fn answer(short: &Short<'_>) -> Result<(), Fault> {
    let socket = || socket(|name| std::env::var_os(name).map(PathBuf::from));
    let mut line = match short {
        Short::Version => concat!("enforcer ", env!("CARGO_PKG_VERSION")).into(),
        Short::Request { workload, request } => {
            request::request(&socket(), workload, request)?.into_bytes()
        }
        Short::List => http::get(&socket(), "/v1/workloads")?.into_bytes(),
    };
    line.push(b'\n');
    match io::stdout().write_all(&line) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Fault::Failed(format!("failed to print: {error}"))),
    }
}

/// Returns the command of these arguments, without the program's own name; `None` if it is for the full
/// command line. `variables` are the names in the environment.
fn recognise<'a>(
    arguments: &[&'a str],
    mut variables: impl Iterator<Item = String>,
) -> Option<Short<'a>> {
    if variables.any(|name| name.starts_with("ENFORCER_") && !HEEDED.contains(&name.as_str())) {
        return None;
    }
    match *arguments {
        ["-V" | "--version"] => Some(Short::Version),
        ["ps", "--json"] | ["ps", "-o", "json"] => Some(Short::List),
        [request, workload] if REQUESTS.contains(&request) && !workload.starts_with('-') => {
            Some(Short::Request { workload, request })
        }
        _ => None,
    }
}

/// Returns the socket that these variables name, or the default one.
fn socket(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let [socket, folder] = HEEDED.map(variable);
    socket.unwrap_or_else(|| crate::socket_in(&crate::runtime_dir(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised<'a>(arguments: &[&'a str], variables: &[&str]) -> Option<Short<'a>> {
        recognise(arguments, variables.iter().map(|&name| name.to_owned()))
    }

    #[test]
    fn a_request_for_one_workload_is_short() {
        let request = |request| {
            Some(Short::Request {
                workload: "web",
                request,
            })
        };
        for word in REQUESTS {
            assert_eq!(
                recognised(&[word, "web"], &["PATH", "ENFORCER_SOCKET"]),
                request(word)
            );
        }
        assert_eq!(recognised(&["--version"], &[]), Some(Short::Version));
        assert_eq!(recognised(&["ps", "-o", "json"], &[]), Some(Short::List));
    }

    #[test]
    fn all_else_is_for_the_full_command_line() {
        for arguments in [
            &[][..],
            &["ps"],
            &["start"],
            &["start", "--help"],
            &["start", "web", "--socket=/x"],
            &["throttle", "web"],
            &["logs", "web"],
        ] {
            assert_eq!(recognised(arguments, &[]), None, "{arguments:?}");
        }
        // A variable may hold a fault, which only the full command line reports.
        assert_eq!(recognised(&["start", "web"], &["ENFORCER_LISTEN"]), None);
    }

    #[test]
    fn a_variable_names_the_socket_or_its_folder() {
        let of = |found: &'static str| {
            socket(move |name| (name == found).then(|| PathBuf::from("/somewhere")))
        };
        assert_eq!(of("ENFORCER_SOCKET"), PathBuf::from("/somewhere"));
        assert_eq!(
            of("ENFORCER_RUNTIME_DIR"),
            PathBuf::from("/somewhere/enforcer.sock")
        );
    }
}
