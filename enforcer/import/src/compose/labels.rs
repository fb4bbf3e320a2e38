//! Services that are described by labels, in a Dockerfile or in what `docker inspect` prints. What they say
//! beside the labels is what a file of Compose says under other names.

use super::service::Service;
use super::{Options, Source, entry, refused};
use crate::outcome::{Outcome, dropped, exact, near, needs_you, unread};
use crate::output::Yaml;
use crate::values::{duration, text, workload_name};
use crate::{Imported, Refused};
use enforcer_manifest::{Node, Value, read_yaml};
use std::collections::{BTreeMap, BTreeSet};

/// A service as a file describes it.
#[derive(Default)]
struct Described {
    name: String,
    keys: Vec<Key>,
    labels: Vec<(String, String)>,
    /// The ports of TCP that it says to listen at.
    ports: Vec<u16>,
}

/// A key of the source.
struct Key {
    name: String,
    means: Means,
}

enum Means {
    /// A key of Compose, with its value there.
    Compose(&'static str, Node),
    Known(Outcome),
}

/// Turns a Dockerfile, or what `docker inspect` prints, into a manifest. The labels are those that begin with
/// the prefix.
///
/// # Errors
/// If the file is neither.
pub fn labels(file: &Source, prefix: &str, options: &Options) -> Result<Imported, Refused> {
    let is_json = file.text.trim_start().starts_with(['[', '{']);
    let services = match is_json {
        true => inspected(file)?,
        false => vec![dockerfile(file, options)?],
    };
    let names: BTreeSet<&str> = services.iter().map(|one| one.name.as_str()).collect();
    let (mut report, mut workloads) = (Vec::new(), Yaml::map());
    let (files, mut taken) = (BTreeMap::new(), BTreeMap::new());
    for described in &services {
        let mut service = Service::new(&described.name, (&names, &files), options);
        service.place.clone_from(&described.name);
        let mut probe = Probe::default();
        for key in &described.keys {
            let outcome = match &key.means {
                Means::Compose(to, value) => service.known(to, value),
                Means::Known(outcome) => outcome.clone(),
            };
            service.line(&key.name, outcome);
        }
        for (label, value) in &described.labels {
            let outcome = match label.strip_prefix(prefix) {
                Some(name) => self::label(&mut service, &mut probe, name, value),
                None => dropped("it has no effect on the program"),
            };
            service.line(&format!("label {label}"), outcome);
        }
        probe.put(&mut service, &described.ports);
        service.finish(&mut taken);
        report.append(&mut service.report);
        workloads.put(&[&workload_name(&described.name)], service.draft);
    }
    Ok(Imported {
        manifest: Yaml::manifest(&workloads, &[&file.name]),
        report,
    })
}

/// The probe that the labels describe.
#[derive(Default)]
struct Probe {
    path: Option<String>,
    port: Option<u16>,
    times: Vec<(&'static str, Yaml)>,
}

impl Probe {
    fn put(self, service: &mut Service<'_>, ports: &[u16]) {
        let Some(path) = self.path else {
            return;
        };
        let Some(port) = self.port.or_else(|| ports.first().copied()) else {
            let note = "no port says where HEALTH_URI is: write `port` of the probe";
            service.line("", needs_you(note));
            return;
        };
        let probe = ["probes", "liveness"];
        service.put(&[probe[0], probe[1], "http", "port"], Yaml::word(port));
        service.put(&[probe[0], probe[1], "http", "path"], Yaml::Text(path));
        for (key, value) in self.times {
            service.put(&[probe[0], probe[1], key], value);
        }
        service.restart_by_default();
    }
}

fn label(service: &mut Service<'_>, probe: &mut Probe, name: &str, value: &str) -> Outcome {
    let mut time = |key: &'static str| match duration(value) {
        Some(time) => {
            probe.times.push((key, Yaml::Word(time)));
            exact("")
        }
        None => unread(),
    };
    match name {
        "CPU_SHARES" => service.known("cpu_shares", &scalar(value)),
        "HEALTH_TIMEOUT" => time("timeout"),
        "HEALTH_INTERVAL" => time("period"),
        "HEALTH_RETRIES" => match value.parse::<u16>() {
            Ok(count @ 1..) => {
                probe.times.push(("failure_threshold", Yaml::word(count)));
                exact("")
            }
            Ok(0) | Err(_) => unread(),
        },
        "HEALTH_PORT" => match value.parse() {
            Ok(port) => {
                probe.port = Some(port);
                exact("")
            }
            Err(_) => unread(),
        },
        "HEALTH_URI" if value.starts_with('/') => {
            probe.path = Some(value.to_owned());
            near("a `liveness` probe: what does not answer is restarted, and so is what ends")
        }
        "HEALTH_URI" => needs_you("expected a path, such as /health"),
        _ => dropped("it has no effect on the program"),
    }
}

fn scalar(text: &str) -> Node {
    let text = text.to_owned();
    node(Value::Scalar { text, plain: false })
}

fn node(value: Value) -> Node {
    Node { span: 0..0, value }
}

fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Node {
    node(Value::Sequence(texts.into_iter().map(scalar).collect()))
}

fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Node)>) -> Node {
    let entries = entries.into_iter();
    node(Value::Mapping(
        entries.map(|(key, value)| (scalar(key), value)).collect(),
    ))
}

/// Reads a Dockerfile. What its last stage says is what the image has.
fn dockerfile(file: &Source, options: &Options) -> Result<Described, Refused> {
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

/// Returns a port of TCP.
fn port(text: &str) -> Option<u16> {
    match text.split_once('/') {
        Some((port, "tcp")) => port.parse().ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

/// Reads what `docker inspect` prints: a list of containers.
fn inspected(file: &Source) -> Result<Vec<Described>, Refused> {
    let read = read_yaml(&file.text).map_err(|fault| {
        let message = format!("{}: {}", fault.message, fault.label);
        refused(&file.name, fault.span.start, message)
    })?;
    let containers = match &read.value {
        Value::Sequence(items) => items.as_slice(),
        Value::Null | Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(&read),
    };
    let mut all = Vec::new();
    for container in containers {
        let name = entry(container, "Name").and_then(text);
        let (Some(name), Some(_)) = (name, entry(container, "Config")) else {
            let message =
                "expected what `docker inspect CONTAINER` prints: it has no `Name` and `Config`";
            return Err(refused(&file.name, container.span.start, message));
        };
        all.push(container_of(name.trim_start_matches('/'), container));
    }
    Ok(all)
}

fn container_of(name: &str, container: &Node) -> Described {
    let mut described = Described {
        name: name.to_owned(),
        ..Described::default()
    };
    for (key, _, value) in container.value.pairs() {
        if !matches!(key, "Config" | "HostConfig") {
            described.keys.push(Key {
                name: key.to_owned(),
                means: Means::Known(exact("it says how things stand")),
            });
            continue;
        }
        for (inner, _, value) in value.value.pairs() {
            if (key, inner) == ("Config", "Labels") {
                let pairs = crate::values::pairs(value).unwrap_or_default();
                let pairs = pairs.into_iter();
                described.labels = pairs
                    .map(|(name, value)| (name, value.unwrap_or_default()))
                    .collect();
                continue;
            }
            if (key, inner) == ("Config", "ExposedPorts") {
                described.ports = value
                    .value
                    .pairs()
                    .filter_map(|(name, ..)| port(name))
                    .collect();
            }
            let means = match is_unset(value) {
                true => Means::Known(exact("")),
                false => setting(inner, value),
            };
            described.keys.push(Key {
                name: format!("{key}.{inner}"),
                means,
            });
        }
    }
    described
}

/// Returns whether a value is what Docker writes where nothing was said.
fn is_unset(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Scalar { text, .. } => {
            matches!(text.as_str(), "" | "0" | "false" | "default" | "private")
        }
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
    }
}

/// The keys of `docker inspect` that are Compose's with another name.
const NAMES: [(&str, &str); 24] = [
    ("Binds", "volumes"),
    ("CapAdd", "cap_add"),
    ("CapDrop", "cap_drop"),
    ("Cmd", "command"),
    ("CpuShares", "cpu_shares"),
    ("CpusetCpus", "cpuset"),
    ("Dns", "dns"),
    ("Entrypoint", "entrypoint"),
    ("Env", "environment"),
    ("ExtraHosts", "extra_hosts"),
    ("GroupAdd", "group_add"),
    ("Image", "image"),
    ("Init", "init"),
    ("Memory", "mem_limit"),
    ("MemoryReservation", "mem_reservation"),
    ("MemorySwap", "memswap_limit"),
    ("OomKillDisable", "oom_kill_disable"),
    ("OomScoreAdj", "oom_score_adj"),
    ("PidsLimit", "pids_limit"),
    ("Privileged", "privileged"),
    ("ReadonlyRootfs", "read_only"),
    ("StopSignal", "stop_signal"),
    ("User", "user"),
    ("WorkingDir", "working_dir"),
];

fn setting(key: &str, value: &Node) -> Means {
    let named = NAMES.iter().find(|(name, _)| *name == key);
    if let Some((_, to)) = named {
        return Means::Compose(to, value.clone());
    }
    let word = text(value).unwrap_or_default();
    let of = |key: &str| entry(value, key).and_then(text);
    match key {
        "NanoCpus" => match word.parse::<f64>() {
            Ok(cpus) => Means::Compose("cpus", scalar(&(cpus / 1e9).to_string())),
            Err(_) => Means::Known(unread()),
        },
        "StopTimeout" => Means::Compose("stop_grace_period", scalar(&format!("{word}s"))),
        "RestartPolicy" => {
            let name = of("Name").unwrap_or("no");
            let policy = match of("MaximumRetryCount") {
                Some(count) if name == "on-failure" && count != "0" => format!("{name}:{count}"),
                _ => name.to_owned(),
            };
            Means::Compose("restart", scalar(&policy))
        }
        "Healthcheck" => {
            let mut entries = Vec::new();
            entries.extend(entry(value, "Test").map(|test| ("test", test.clone())));
            for (from, to) in [
                ("Interval", "interval"),
                ("Timeout", "timeout"),
                ("StartPeriod", "start_period"),
            ] {
                // Nanoseconds.
                let time = of(from).and_then(|time| time.parse::<u64>().ok());
                let time = time.filter(|time| *time > 0);
                entries.extend(time.map(|time| (to, scalar(&format!("{}ms", time / 1_000_000)))));
            }
            entries.extend(
                of("Retries")
                    .filter(|count| *count != "0")
                    .map(|count| ("retries", scalar(count))),
            );
            Means::Compose("healthcheck", map(entries))
        }
        "PortBindings" => {
            let mut ports = Vec::new();
            for (container, _, bindings) in value.value.pairs() {
                let Value::Sequence(bindings) = &bindings.value else {
                    continue;
                };
                for binding in bindings {
                    let host = entry(binding, "HostPort")
                        .and_then(text)
                        .unwrap_or_default();
                    let (port, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
                    ports.push(format!("{host}:{port}/{protocol}"));
                }
            }
            Means::Compose("ports", list(ports.iter().map(String::as_str)))
        }
        "LogConfig" => {
            let mut entries = Vec::new();
            entries.extend(of("Type").map(|driver| ("driver", scalar(driver))));
            entries.extend(entry(value, "Config").map(|options| ("options", options.clone())));
            Means::Compose("logging", map(entries))
        }
        "Ulimits" => {
            let Value::Sequence(items) = &value.value else {
                return Means::Known(unread());
            };
            let limits = items.iter().filter_map(|item| {
                let of = |key: &str| entry(item, key).and_then(text);
                let (name, soft, hard) = (of("Name")?, of("Soft")?, of("Hard")?);
                Some((name, map([("soft", scalar(soft)), ("hard", scalar(hard))])))
            });
            Means::Compose("ulimits", map(limits))
        }
        "Tmpfs" => {
            let pairs = crate::values::pairs(value).unwrap_or_default();
            let pairs: Vec<String> = pairs
                .into_iter()
                .map(|(path, options)| match options {
                    Some(options) if !options.is_empty() => format!("{path}:{options}"),
                    _ => path,
                })
                .collect();
            Means::Compose("tmpfs", list(pairs.iter().map(String::as_str)))
        }
        "ShmSize" if word == "67108864" => Means::Known(exact("the default")),
        "ShmSize" => Means::Compose("shm_size", value.clone()),
        "ExposedPorts" => Means::Known(exact("workloads share the host's network")),
        "NetworkMode" => Means::Compose("network_mode", value.clone()),
        "Hostname" => Means::Known(near("the name is the host's: write `hostname`")),
        "CpuQuota" | "CpuPeriod" => {
            Means::Known(needs_you("write the quota as `cgroup: { cpu.max: 150% }`"))
        }
        "Volumes" => Means::Known(near(
            "`Binds` says where they are; the others are those of `root`",
        )),
        "Tty" | "OpenStdin" | "StdinOnce" | "AttachStdin" => {
            Means::Known(dropped("standard input is /dev/null"))
        }
        "AttachStdout" | "AttachStderr" => Means::Known(exact("output is always kept")),
        "IpcMode" | "PidMode" | "UTSMode" | "CgroupnsMode" | "UsernsMode" | "Isolation"
        | "Runtime" | "MaskedPaths" | "ReadonlyPaths" | "ConsoleSize" | "CgroupParent"
        | "VolumeDriver" => Means::Known(near("there is no container engine")),
        "SecurityOpt" => Means::Compose("security_opt", value.clone()),
        "MemorySwappiness" => Means::Compose("mem_swappiness", value.clone()),
        _ => Means::Known(dropped("the key has no meaning here")),
    }
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
