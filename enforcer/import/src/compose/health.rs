//! Health checks. Docker's only colour `docker ps`, and `depends_on` may wait for them. So they become a
//! `readiness` probe, which restarts nothing.

use super::entry;
use super::service::Service;
use crate::outcome::{Outcome, exact, near, needs_you};
use crate::output::Yaml;
use crate::values::{duration, program, text, texts};
use enforcer_manifest::Node;

pub(super) fn read(service: &mut Service<'_>, node: &Node) -> Outcome {
    if entry(node, "disable").and_then(text) == Some("true") {
        return exact("no probe");
    }
    let Some(test) = entry(node, "test") else {
        return needs_you("its test is in the image: write a probe");
    };
    let Some(command) = command(test) else {
        return exact("no probe");
    };
    let (kind, check) = native(&command).unwrap_or_else(|| {
        let mut exec = Yaml::map();
        exec.put(&["command"], Yaml::texts(program(command.clone())));
        ("exec", exec)
    });
    service.put(&["probes", "readiness", kind], check);
    let of = |key: &str| entry(node, key).and_then(text).and_then(duration);
    for (key, to, usual) in [("interval", "period", "30s"), ("timeout", "timeout", "30s")] {
        let time = of(key).unwrap_or_else(|| usual.to_owned());
        service.put(&["probes", "readiness", to], Yaml::Word(time));
    }
    let retries = entry(node, "retries").and_then(text).unwrap_or("3");
    service.put(
        &["probes", "readiness", "failure_threshold"],
        Yaml::word(retries),
    );
    let started = entry(node, "start_period").is_some() || entry(node, "start_interval").is_some();
    let shown = match kind {
        "exec" => "",
        _ => ", asked without a program",
    };
    let start = match started {
        true => ", and failures of the start do not count anyway",
        false => "",
    };
    near(format!(
        "a `readiness` probe{shown}{start}; `liveness` in its place restarts what fails"
    ))
}

/// Returns the command of a test; `None` for `NONE`.
fn command(test: &Node) -> Option<Vec<String>> {
    if let Some(shell) = text(test) {
        return (shell != "NONE").then(|| through_shell(shell));
    }
    let words = texts(test)?;
    match words.split_first()? {
        (first, _) if first == "NONE" => None,
        (first, rest) if first == "CMD" => Some(rest.to_vec()),
        (first, rest) if first == "CMD-SHELL" => Some(through_shell(&rest.join(" "))),
        _ => Some(words),
    }
}

fn through_shell(command: &str) -> Vec<String> {
    ["/bin/sh", "-c", command].map(str::to_owned).into()
}

/// Returns the native check that a command amounts to: a GET or a connection over the loopback device.
fn native(command: &[String]) -> Option<(&'static str, Yaml)> {
    let shell = match command {
        [shell, flag, script] if shell == "/bin/sh" && flag == "-c" => {
            crate::values::words(script).ok()?
        }
        words => words.to_vec(),
    };
    // `… || exit 1` says nothing more.
    let until = shell.iter().position(|word| word == "||");
    let (words, rest) = shell.split_at(until.unwrap_or(shell.len()));
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    if !matches!(rest.as_slice(), [] | ["||", "exit", _] | ["||", "false"]) {
        return None;
    }
    let (first, arguments) = words.split_first()?;
    let name = first.rsplit('/').next()?;
    match name {
        "curl" | "wget" => http(name, arguments),
        "nc" => connection(arguments),
        _ => None,
    }
}

/// The options that change nothing but the output and the waits.
const QUIET: &[&str] = &[
    "-f",
    "-s",
    "-S",
    "-q",
    "-I",
    "--fail",
    "--silent",
    "--show-error",
    "--quiet",
    "--spider",
    "--no-verbose",
    "-nv",
    "-L",
    "--location",
    "-sf",
    "-fs",
    "-fsS",
    "-sSf",
    "-fSs",
    "-sS",
    "-qO-",
    "-fsSL",
    "--head",
    "--no-check-certificate",
    "-k",
    "--insecure",
];
/// The options that take a word, and change nothing else.
const WITH_WORD: &[&str] = &[
    "-o",
    "-O",
    "--output",
    "--output-document",
    "-m",
    "--max-time",
    "--connect-timeout",
    "-T",
    "--timeout",
    "--tries",
    "-t",
    "--retry",
];

fn http(name: &str, arguments: &[String]) -> Option<(&'static str, Yaml)> {
    let mut url = None;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let option = word
            .split_once('=')
            .map_or(word.as_str(), |(option, _)| option);
        if WITH_WORD.contains(&option) {
            if !word.contains('=') {
                words.next()?;
            }
        } else if !QUIET.contains(&word.as_str()) {
            if word.starts_with('-') || url.is_some() {
                return None;
            }
            url = Some(word.as_str());
        }
    }
    // Without -f, curl is content with any answer.
    let fails = name == "wget" || arguments.iter().any(|word| is_fail(word));
    let url = url.filter(|_| fails)?;
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (place, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()?),
        None => (place, if scheme == "https" { 443 } else { 80 }),
    };
    if !["localhost", "127.0.0.1", "0.0.0.0", "[::1]"].contains(&host) {
        return None;
    }
    let mut check = Yaml::map();
    check.put(&["port"], Yaml::word(port));
    check.put(&["path"], Yaml::Text(path.to_owned()));
    match scheme {
        "http" => Some(("http", check)),
        "https" => {
            check.put(&["insecure"], Yaml::word("true"));
            Some(("https", check))
        }
        _ => None,
    }
}

fn is_fail(word: &str) -> bool {
    word == "--fail" || (word.starts_with('-') && !word.starts_with("--") && word.contains('f'))
}

/// Returns the check of `nc -z localhost 5432`.
fn connection(arguments: &[String]) -> Option<(&'static str, Yaml)> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [flags @ .., host, port] = words.as_slice() else {
        return None;
    };
    let is_quiet = flags
        .iter()
        .all(|flag| ["-z", "-v", "-zv", "-vz"].contains(flag));
    let is_own = ["localhost", "127.0.0.1"].contains(host);
    let port = port.parse::<u16>().ok().filter(|_| is_quiet && is_own)?;
    let mut check = Yaml::map();
    check.put(&["port"], Yaml::word(port));
    Some(("tcp", check))
}
