//! Command lines: prefixes, quotes and variables (systemd.service(5)).

use super::text::words;
use super::unit::Unit;
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;
use crate::values::program;

/// A command, and what its prefixes and variables mean.
struct Command {
    arguments: Vec<String>,
    ignores_failure: bool,
    is_privileged: bool,
    through_shell: bool,
}

fn command(value: &str) -> Result<Command, String> {
    let mut rest = value.trim_start();
    let (mut ignores_failure, mut is_privileged, mut replaces, mut has_name) =
        (false, false, true, false);
    while let Some(prefix) = rest.chars().next().filter(|next| "@-:+!|".contains(*next)) {
        match prefix {
            '-' => ignores_failure = true,
            '+' => is_privileged = true,
            ':' => replaces = false,
            '@' => has_name = true,
            _ => {}
        }
        rest = &rest[1..];
    }
    let mut arguments = words(rest)?;
    if has_name && arguments.len() > 1 {
        arguments.remove(1);
    }
    let uses_variables = replaces && arguments.iter().any(|word| has_variable(word));
    let arguments = match uses_variables {
        true => {
            let words: Vec<String> = arguments.iter().map(|word| for_shell(word)).collect();
            let script = format!("exec {}", words.join(" "));
            ["/bin/sh".to_owned(), "-c".to_owned(), script].into()
        }
        false => program(
            arguments
                .into_iter()
                .map(|word| {
                    if replaces {
                        word.replace("$$", "$")
                    } else {
                        word
                    }
                })
                .collect(),
        ),
    };
    Ok(Command {
        arguments,
        ignores_failure,
        is_privileged,
        through_shell: uses_variables,
    })
}

fn has_variable(word: &str) -> bool {
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        rest = &rest[at + 1..];
        match rest.strip_prefix('$') {
            Some(after) => rest = after,
            None => {
                if rest.starts_with(|next: char| {
                    next == '{' || next == '_' || next.is_ascii_alphabetic()
                }) {
                    return true;
                }
            }
        }
    }
    false
}

/// Returns a word for sh(1). `$NAME` alone is split into words, as systemd does; `${NAME}` is not.
fn for_shell(word: &str) -> String {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    if word.strip_prefix('$').is_some_and(is_name) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    let mut rest = word.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '$' if rest.peek() == Some(&'$') => {
                rest.next();
                quoted.push_str("\\$");
            }
            '$' if rest.peek() == Some(&'{') => quoted.push('$'),
            // Within a word, systemd replaces `${NAME}` alone.
            '$' => quoted.push_str("\\$"),
            '"' | '\\' | '`' => quoted.extend(['\\', next]),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

pub(super) fn read(
    unit: &mut Unit<'_>,
    key: &str,
    value: &str,
    values: &[String],
) -> Option<Outcome> {
    Some(match key {
        "ExecStart" => start(unit, values),
        "ExecStartPre" => hooks(unit, "before_start", values),
        "ExecStartPost" => hooks(unit, "after_start", values),
        "ExecStop" => hooks(unit, "before_stop", values),
        "ExecReload" => reload(unit, values),
        "ReloadSignal" => {
            unit.put(&["reload", "signal"], Yaml::Text(value.to_owned()));
            exact("")
        }
        "ExecStopPost" | "ExecCondition" => {
            needs_you("there is no such command: `before_start` runs before the next start")
        }
        _ => return None,
    })
}

fn start(unit: &mut Unit<'_>, values: &[String]) -> Outcome {
    let commands: Result<Vec<Command>, String> =
        values.iter().map(|value| command(value)).collect();
    let mut commands = match commands {
        Ok(commands) => commands,
        Err(why) => return needs_you(why),
    };
    let Some(last) = commands.pop() else {
        return exact("");
    };
    let notes = [
        (last.through_shell, "sh(1) replaces the variables"),
        (last.is_privileged, "it runs as the user of `user`"),
        (last.ignores_failure, "a failure counts"),
        (
            !commands.is_empty(),
            "all but the last command run in `before_start`",
        ),
    ];
    let notes = notes
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, note)| *note);
    let notes: Vec<&str> = notes.collect();
    unit.put(&["command"], Yaml::texts(last.arguments));
    let before: Vec<Yaml> = commands
        .into_iter()
        .map(|command| Yaml::texts(command.arguments))
        .collect();
    if !before.is_empty() {
        unit.put(&["before_start"], Yaml::List(before));
    }
    match notes.is_empty() {
        true => exact(""),
        false => near(notes.join("; ")),
    }
}

fn hooks(unit: &mut Unit<'_>, key: &str, values: &[String]) -> Outcome {
    let mut all = match unit.draft.get(&[key]) {
        Some(Yaml::List(known)) if key == "before_start" => known.clone(),
        _ => Vec::new(),
    };
    let mut differs = false;
    for value in values {
        let Command {
            arguments,
            ignores_failure,
            is_privileged,
            through_shell,
        } = match command(value) {
            Ok(command) => command,
            Err(why) => return needs_you(why),
        };
        differs |= is_privileged || through_shell;
        let arguments = match ignores_failure {
            true => ignoring(arguments),
            false => arguments,
        };
        all.push(Yaml::texts(arguments));
    }
    unit.put(&[key], Yaml::List(all));
    let main = values.iter().any(|value| value.contains("$MAINPID"));
    match (key, main, differs) {
        (_, true, _) => {
            needs_you("the main process is not known by MAINPID: use `stop: { signal }`")
        }
        (_, _, true) => near("each runs as the workload's user, 60 s at most"),
        ("before_stop", ..) => near("the stop signal follows in any case"),
        _ => near("60 s at most for each"),
    }
}

/// Returns a command that never fails.
fn ignoring(arguments: Vec<String>) -> Vec<String> {
    let script = "\"$@\" || true".to_owned();
    let mut whole = vec![
        "/bin/sh".to_owned(),
        "-c".to_owned(),
        script,
        "sh".to_owned(),
    ];
    whole.extend(arguments);
    whole
}

/// A reload by kill(1) is a signal.
fn reload(unit: &mut Unit<'_>, values: &[String]) -> Outcome {
    let Some(value) = values.last() else {
        return exact("");
    };
    let plain = value.trim_start_matches(['-', '+', '@', ':', '!']);
    let words: Vec<&str> = plain.split_whitespace().collect();
    let signal = match words.as_slice() {
        [program, flag, "$MAINPID" | "${MAINPID}"] if program.ends_with("kill") => {
            flag.strip_prefix('-')
        }
        [program, "-s", signal, "$MAINPID" | "${MAINPID}"] if program.ends_with("kill") => {
            Some(*signal)
        }
        [program, "$MAINPID"] if program.ends_with("kill") => Some("TERM"),
        _ => None,
    };
    if let Some(signal) = signal {
        unit.put(&["reload", "signal"], Yaml::Text(signal.to_owned()));
        return match values.len() {
            1 => exact(""),
            _ => near("the signal alone: what checks the configuration before is left out"),
        };
    }
    if values.len() > 1 {
        return needs_you("there is one command: join them in a script");
    }
    match command(value) {
        Ok(_) if value.contains("MAINPID") => {
            needs_you("the main process is not known by MAINPID: use `reload: { signal }`")
        }
        Ok(command) => {
            unit.put(&["reload", "run"], Yaml::texts(command.arguments));
            near("it runs as the workload's user")
        }
        Err(why) => needs_you(why),
    }
}

/// Only `kill` modes say whom the signal of a stop is for.
pub(super) fn kill_mode(unit: &mut Unit<'_>, value: &str) -> Outcome {
    let (scope, outcome) = match value {
        "control-group" => ("group", exact("")),
        "mixed" => ("main", exact("")),
        "process" => ("main", near("after the grace, the whole cgroup is killed")),
        _ => ("main", dropped("a stop always ends the whole cgroup")),
    };
    unit.put(&["stop", "scope"], Yaml::word(scope));
    outcome
}
