//! The instructions of a Dockerfile.

use super::{Described, Key, Means, list, map, node, port, scalar};
use crate::Refused;
use crate::compose::{Options, Source, refused};
use crate::outcome::{dropped, exact, near, needs_you};
use enforcer_manifest::{Node, Value, read_yaml};

/// Reads a Dockerfile. What its last stage says is what the image has.
pub(super) fn read(file: &Source, options: &Options) -> Result<Described, Refused> {
    let folder = options.folder.rsplit('/').find(|part| !part.is_empty());
    let mut described = Described {
        name: folder.unwrap_or("service").to_owned(),
        ..Described::default()
    };
    let mut has_begun = false;
    for (number, at, line) in instructions(&file.text) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
        if !has_begun && !matches!(word.as_str(), "FROM" | "ARG") {
            let message =
                "expected a Dockerfile, which begins with FROM, or the JSON of `docker inspect`";
            return Err(refused(&file.name, at, message));
        }
        let compose = |key: &'static str, value: Node| Means::Compose(key, value);
        let means = match word.as_str() {
            "FROM" => {
                has_begun = true;
                // What an earlier stage says is not in the image.
                for key in &mut described.keys {
                    key.means = Means::Known(exact("of an earlier stage"));
                }
                described.labels.clear();
                described.ports.clear();
                match options.images.contains_key(&described.name) {
                    true => compose("image", scalar(rest)),
                    false => Means::Known(needs_you(format!(
                        "build the image, and import its files with `--image {}=DIR`",
                        described.name
                    ))),
                }
            }
            "CMD" => compose("command", command(rest)),
            "ENTRYPOINT" => compose("entrypoint", command(rest)),
            "ENV" => {
                let pairs = assignments(rest).into_iter();
                let pairs: Vec<String> = pairs
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                compose("environment", list(pairs.iter().map(String::as_str)))
            }
            "WORKDIR" => compose("working_dir", scalar(rest)),
            "USER" => compose("user", scalar(rest)),
            "STOPSIGNAL" => compose("stop_signal", scalar(rest)),
            "HEALTHCHECK" => compose("healthcheck", health(rest)),
            "EXPOSE" => {
                let ports = rest.split_whitespace().filter_map(port);
                described.ports.extend(ports);
                Means::Known(exact("workloads share the host's network"))
            }
            "LABEL" => {
                described.labels.extend(assignments(rest));
                continue;
            }
            "VOLUME" => Means::Known(near(
                "the folder is that of `root`: write `mounts` to keep it apart",
            )),
            "RUN" | "COPY" | "ADD" | "ARG" | "SHELL" | "ONBUILD" | "MAINTAINER" => {
                Means::Known(exact("it is for the build"))
            }
            _ => Means::Known(dropped("the instruction is not known")),
        };
        described.keys.push(Key {
            name: format!("{word} (line {number})"),
            means,
        });
    }
    match has_begun {
        true => Ok(described),
        false => Err(refused(
            &file.name,
            0,
            "it has no FROM: it is no Dockerfile",
        )),
    }
}

/// Returns each instruction with its line and its place. A backslash at the end joins the next line, and a
/// document that begins with `<<EOF` is left out.
fn instructions(text: &str) -> Vec<(usize, usize, String)> {
    let mut all: Vec<(usize, usize, String)> = Vec::new();
    let (mut at, mut is_open) = (0, false);
    let mut document: Option<String> = None;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let (place, content) = (at, line.trim());
        at += line.len();
        if let Some(end) = &document {
            if content == end {
                document = None;
            }
            continue;
        }
        if content.starts_with('#') || content.is_empty() {
            continue;
        }
        let (part, joins) = match content.strip_suffix('\\') {
            Some(part) => (part.trim_end(), true),
            None => (content, false),
        };
        match all.last_mut().filter(|_| is_open) {
            Some((.., begun)) => {
                begun.push(' ');
                begun.push_str(part);
            }
            None => all.push((index + 1, place, part.to_owned())),
        }
        is_open = joins;
        document = all.last().and_then(|(.., begun)| begins_document(begun));
    }
    all
}

/// Returns the line that ends the document of an instruction.
fn begins_document(instruction: &str) -> Option<String> {
    let word = instruction.split_whitespace().next()?.to_ascii_uppercase();
    let (_, behind) = instruction.split_once("<<")?;
    let end = behind.trim_start_matches('-').split_whitespace().next()?;
    let end = end.trim_matches(['"', '\'']);
    let is_name = end
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_build = matches!(word.as_str(), "RUN" | "COPY" | "ADD");
    (is_build && is_name && !end.is_empty()).then(|| end.to_owned())
}

/// Returns the words of a command: a list, or a text for a shell.
fn command(text: &str) -> Node {
    let read = text
        .starts_with('[')
        .then(|| read_yaml(text).ok())
        .flatten();
    match read {
        Some(read) if matches!(read.value, Value::Sequence(_)) => read,
        _ => list(["/bin/sh", "-c", text]),
    }
}

/// Returns `NAME=value` pairs, or the one pair of the older form `NAME value`.
fn assignments(text: &str) -> Vec<(String, String)> {
    let words = crate::values::words(text).unwrap_or_default();
    let is_pair = words.first().is_some_and(|word| word.contains('='));
    if !is_pair {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return vec![(name.to_owned(), value.trim().to_owned())];
    }
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn health(text: &str) -> Node {
    if text.eq_ignore_ascii_case("none") {
        return map([("disable", scalar("true"))]);
    }
    let mut entries = Vec::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, behind) = option
            .split_once(char::is_whitespace)
            .unwrap_or((option, ""));
        rest = behind.trim_start();
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let key = match key {
            "interval" => "interval",
            "timeout" => "timeout",
            "retries" => "retries",
            "start-period" => "start_period",
            _ => continue,
        };
        entries.push((key, scalar(value)));
    }
    let test = rest.strip_prefix("CMD").unwrap_or(rest).trim_start();
    let words = test
        .starts_with('[')
        .then(|| read_yaml(test).ok())
        .flatten();
    let test = match words.map(|read| read.value) {
        Some(Value::Sequence(mut words)) => {
            words.insert(0, scalar("CMD"));
            node(Value::Sequence(words))
        }
        _ => list(["CMD-SHELL", test]),
    };
    entries.push(("test", test));
    map(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_go_on_over_lines() {
        let text = "# a\nFROM x\nLABEL A=1 \\\n  # between\n  B=\"2 3\"\nRUN <<'EOF' sh\nUSER y\nEOF\nUSER z\n";
        let all: Vec<(usize, String)> = instructions(text)
            .into_iter()
            .map(|(number, _, line)| (number, line))
            .collect();
        let expected = [
            (2, "FROM x"),
            (3, "LABEL A=1 B=\"2 3\""),
            (6, "RUN <<'EOF' sh"),
            (9, "USER z"),
        ];
        assert_eq!(
            all,
            expected.map(|(number, line)| (number, line.to_owned()))
        );
    }
}
