//! Limits, `deploy`, and what else the kernel holds.

use super::entry;
use super::service::Service;
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;
use crate::values::{bytes, cpus, duration, size, text, weight};
use enforcer_manifest::{Node, Value};

/// Reads a key about resources; `None` if it is another one.
pub(super) fn key(service: &mut Service<'_>, key: &str, value: &Node) -> Option<Outcome> {
    let word = text(value).unwrap_or_default();
    Some(match key {
        "mem_limit" => memory(service, word),
        "mem_reservation" => sized(
            service,
            "memory.low",
            word,
            near("it protects from reclaim"),
        ),
        "memswap_limit" => swap(service, word),
        "mem_swappiness" => dropped("the kernel has no such setting in cgroup v2"),
        "oom_kill_disable" => {
            dropped("cgroup v2 has no such setting: the kernel would stop the program instead")
        }
        "oom_score_adj" => match word.parse::<i32>() {
            Ok(score) => {
                let priority = (50 - score / 10).clamp(0, 100);
                service.put(&["priority"], Yaml::word(priority));
                match score % 10 == 0 && (-500..=500).contains(&score) {
                    true => exact(format!("priority {priority}")),
                    false => near(format!(
                        "priority {priority}, which is {}",
                        (50 - priority) * 10
                    )),
                }
            }
            Err(_) => needs_you("the value is not understood"),
        },
        "cpus" => quota(service, word),
        "cpu_shares" => match word.parse::<u64>() {
            Ok(0) => exact("the default"),
            Ok(shares) => {
                let weight = weight(shares);
                service.put(&["cgroup", "cpu.weight"], Yaml::word(weight));
                near(format!("shares {word} → weight {weight}"))
            }
            Err(_) => needs_you("the value is not understood"),
        },
        "cpuset" => {
            service.put(&["cgroup", "cpuset.cpus"], Yaml::Text(word.to_owned()));
            exact("")
        }
        "cpu_quota" | "cpu_period" | "cpu_count" | "cpu_percent" | "cpu_rt_runtime"
        | "cpu_rt_period" => needs_you("write the quota as `cgroup: { cpu.max: 150% }`"),
        "pids_limit" => {
            let limit = if word.starts_with('-') || word == "0" {
                "max"
            } else {
                word
            };
            service.put(&["cgroup", "pids.max"], Yaml::word(limit));
            exact("")
        }
        "shm_size" => match size(word) {
            Some(size) => {
                let mut shm = Yaml::map();
                shm.put(&["path"], Yaml::Text("/dev/shm".to_owned()));
                shm.put(&["size"], Yaml::Word(size));
                service.put(&["tmpfs"], Yaml::List(vec![shm]));
                exact("")
            }
            None => needs_you("the value is not understood"),
        },
        "ulimits" => ulimits(service, value),
        _ => return None,
    })
}

fn sized(service: &mut Service<'_>, file: &str, word: &str, outcome: Outcome) -> Outcome {
    match size(word) {
        Some(_) if bytes(word) == Some(0) => exact("no limit"),
        Some(size) => {
            service.put(&["cgroup", file], Yaml::Word(size));
            outcome
        }
        None => needs_you("the value is not understood"),
    }
}

/// Without `memswap_limit`, Docker allows as much swap as memory.
fn memory(service: &mut Service<'_>, word: &str) -> Outcome {
    service.memory = bytes(word).filter(|bytes| *bytes > 0);
    let outcome = sized(service, "memory.max", word, exact(""));
    if service.memory.is_some() {
        sized(service, "memory.swap.max", word, exact(""));
    }
    outcome
}

/// `memswap_limit` is memory and swap together.
fn swap(service: &mut Service<'_>, word: &str) -> Outcome {
    if bytes(word) == Some(0) {
        return exact("the default: as much swap as memory");
    }
    if word == "-1" {
        service.put(&["cgroup", "memory.swap.max"], Yaml::word("max"));
        return exact("swap without a limit");
    }
    let (Some(both), Some(memory)) = (bytes(word), service.memory) else {
        return needs_you("write `memory.swap.max`: it is what is more than `mem_limit`");
    };
    let swap = both.saturating_sub(memory);
    service.put(&["cgroup", "memory.swap.max"], Yaml::word(swap));
    exact(format!("memory.swap.max {swap}, which is swap alone"))
}

fn quota(service: &mut Service<'_>, word: &str) -> Outcome {
    match cpus(word) {
        Some(share) => {
            let note = format!("{word} CPUs → {share}");
            service.put(&["cgroup", "cpu.max"], Yaml::Word(share));
            exact(note)
        }
        None if word.parse::<f64>() == Ok(0.0) => exact("no limit"),
        None => needs_you("the value is not understood"),
    }
}

fn ulimits(service: &mut Service<'_>, node: &Node) -> Outcome {
    let mut differs = false;
    for (name, _, value) in node.value.pairs() {
        let one = text(value).map(str::to_owned);
        let soft = entry(value, "soft").and_then(text);
        let hard = entry(value, "hard").and_then(text);
        differs |= soft != hard;
        let limit = one.or_else(|| hard.or(soft).map(str::to_owned));
        let Some(limit) = limit else {
            return needs_you("the value is not understood");
        };
        let limit = if limit == "-1" {
            "max".to_owned()
        } else {
            limit
        };
        service.put(&["rlimits", &name.to_ascii_lowercase()], Yaml::Word(limit));
    }
    match differs {
        true => near("the soft limit is the hard one"),
        false => exact(""),
    }
}

pub(super) fn blkio(service: &mut Service<'_>, node: &Node) -> Outcome {
    let weight = entry(node, "weight").and_then(text);
    if let Some(weight) = weight {
        service.put(&["cgroup", "io.weight"], Yaml::word(weight));
    }
    let more = node.value.pairs().any(|(key, ..)| key != "weight");
    match more {
        true => needs_you("write the rates of devices as `cgroup: { io.max: … }`"),
        false => exact(""),
    }
}

pub(super) fn replicas(service: &mut Service<'_>, node: &Node) -> Outcome {
    match text(node).and_then(|text| text.parse::<u16>().ok()) {
        Some(1) => exact(""),
        Some(count @ 2..=14) => {
            service.put(&["replicas"], Yaml::word(count));
            exact("")
        }
        _ => needs_you("expected from 1 to 14 replicas"),
    }
}

/// Reads `deploy`, a line for each of its keys.
pub(super) fn deploy(service: &mut Service<'_>, node: &Node) {
    for (key, _, value) in node.value.pairs() {
        let place = format!("deploy.{key}");
        match key {
            "resources" => resources(service, value),
            "restart_policy" => {
                let outcome = restart_policy(service, value);
                service.line(&place, outcome);
            }
            "update_config" => {
                let outcome = update(service, value);
                service.line(&place, outcome);
            }
            "replicas" => {
                let outcome = replicas(service, value);
                service.line(&place, outcome);
            }
            "mode" | "endpoint_mode" | "labels" | "placement" | "rollback_config" => {
                service.line(&place, dropped("it is for a swarm"));
            }
            _ => service.line(&place, dropped("the key is not known")),
        }
    }
    if !matches!(node.value, Value::Mapping(_)) {
        service.line("deploy", needs_you("the value is not understood"));
    }
}

fn resources(service: &mut Service<'_>, node: &Node) {
    for (side, _, values) in node.value.pairs() {
        for (key, _, value) in values.value.pairs() {
            let word = text(value).unwrap_or_default();
            let outcome = match (side, key) {
                ("limits", "memory") => memory(service, word),
                ("limits", "cpus") => quota(service, word),
                ("limits", "pids") => {
                    service.put(&["cgroup", "pids.max"], Yaml::word(word));
                    exact("")
                }
                ("reservations", "memory") => sized(
                    service,
                    "memory.low",
                    word,
                    near("it protects from reclaim"),
                ),
                ("reservations", "cpus") => dropped("it only places a container"),
                _ => dropped("the key is not known"),
            };
            service.line(&format!("deploy.resources.{side}.{key}"), outcome);
        }
    }
}

fn restart_policy(service: &mut Service<'_>, node: &Node) -> Outcome {
    let of = |key: &str| entry(node, key).and_then(text);
    let restart = match of("condition").unwrap_or("any") {
        "none" => "never",
        "on-failure" => "on-failure",
        _ => "always",
    };
    service.deploys_restart = true;
    service.put(&["recovery", "restart"], Yaml::word(restart));
    if let Some(delay) = of("delay").and_then(duration) {
        service.put(&["recovery", "backoff", "initial"], Yaml::Word(delay));
    }
    if let Some(count) = of("max_attempts") {
        let within = of("window")
            .and_then(duration)
            .unwrap_or_else(|| "1h".to_owned());
        service.put(&["recovery", "budget", "restarts"], Yaml::word(count));
        service.put(&["recovery", "budget", "within"], Yaml::Word(within));
    }
    near("the first restart follows at once, and the breaker tries again after its budget")
}

fn update(service: &mut Service<'_>, node: &Node) -> Outcome {
    let of = |key: &str| entry(node, key).and_then(text);
    let count = of("parallelism").unwrap_or("1");
    let first = of("order").unwrap_or("stop-first");
    let (surge, unavailable) = match first {
        "start-first" => (count, "0"),
        _ => ("0", count),
    };
    service.put(&["rollout", "max_surge"], Yaml::word(surge));
    service.put(&["rollout", "max_unavailable"], Yaml::word(unavailable));
    let failure = match of("failure_action") {
        Some("rollback") => "rollback",
        _ => "pause",
    };
    service.put(&["rollout", "on_failure"], Yaml::word(failure));
    if let Some(delay) = of("delay").and_then(duration) {
        service.put(&["rollout", "min_ready"], Yaml::Word(delay));
    }
    near("the next replica follows when one has been ready for the delay")
}
