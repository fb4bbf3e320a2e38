//! The JSON that `docker inspect` prints.

use super::{Described, Key, Means, list, map, port, scalar};
use crate::Refused;
use crate::compose::{Source, entry, refused};
use crate::outcome::{dropped, exact, near, needs_you, unread};
use crate::values::text;
use enforcer_manifest::{Node, Value, read_yaml};

/// Reads what `docker inspect` prints: a list of containers.
pub(super) fn read(file: &Source) -> Result<Vec<Described>, Refused> {
    let whole = read_yaml(&file.text).map_err(|fault| {
        let message = format!("{}: {}", fault.message, fault.label);
        refused(&file.name, fault.span.start, message)
    })?;
    let containers = match &whole.value {
        Value::Sequence(items) => items.as_slice(),
        Value::Null | Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(&whole),
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
