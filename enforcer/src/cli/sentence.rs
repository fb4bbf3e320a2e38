//! Events in plain words. Takes their JSON, so that the live lines of an agent
//! and the answers of another read alike.

mod cpu_loop;
mod wellbeing;

pub(super) use enforcer_core::text::printable as plain;
use enforcer_core::units::{Bytes, human_duration};
use serde_json::Value;
use std::time::Duration;

/// One line for events of one workload that belong together.
pub(super) fn line(events: &[Value], color: bool) -> String {
    let oom_told = events.iter().any(|event| event["kind"] == "oom_kill");
    let mut parts: Vec<String> = Vec::new();
    for event in events {
        let repeats = oom_told && event["kind"] == "exit" && event["details"]["oom_killed"] == true;
        if !repeats {
            parts.extend(part(event));
        }
    }
    let text = parts.join("; ");
    let name = events
        .first()
        .and_then(|event| event["workload"].as_str())
        .unwrap_or("enforcer");
    if !color {
        return format!("{name}: {text}");
    }
    let style = match events.first().and_then(|event| event["kind"].as_str()) {
        Some("oom_kill" | "cpu_loop" | "breaker" | "lost" | "degraded" | "host_pressure") => {
            "\u{1b}[31m"
        }
        Some("exit" | "restart" | "throttle" | "pressure" | "health") => "\u{1b}[33m",
        _ => "",
    };
    format!("\u{1b}[1m{name}\u{1b}[0m: {style}{text}\u{1b}[0m")
}

fn part(event: &Value) -> Option<String> {
    let details = &event["details"];
    let reason = event["reason"].as_str().unwrap_or("");
    Some(match event["kind"].as_str()? {
        "start" => start(details),
        "adopt" => format!("taken over, pid {}", details["pid"]),
        "stop" => stop(details, reason),
        "exit" => exit(details),
        "oom_kill" => oom_kill(details),
        "cpu_loop" => cpu_loop::found(details),
        "throttle" => cpu_loop::throttle(details, reason),
        "release" => cpu_loop::release(details),
        "pressure" => format!(
            "{} use is {}: {}% of its limit",
            word(details, "resource"),
            word(details, "level"),
            details["used_percent"]
        ),
        "health" => wellbeing::health(details),
        "ready" => wellbeing::ready(details),
        "host_pressure" => wellbeing::host_pressure(details),
        "restart" => restart(details, reason),
        "breaker" => breaker(details),
        "alert" => wellbeing::alert(details),
        "drift" => wellbeing::drift(details),
        "conflict" => wellbeing::conflict(details),
        "config" => config(details),
        "lost" if details["of"] == "history" => format!(
            "{} events are missing from the history: it could not be written for too long",
            details["records"]
        ),
        "lost" => format!(
            "{} eBPF events were lost; the counters still count",
            details["records"]
        ),
        "degraded" => format!(
            "degraded: {}: {}",
            word(details, "what"),
            word(details, "why")
        ),
        "agent" => match details["state"].as_str() {
            Some("started") => "the agent has started".to_owned(),
            Some("took over") => "the agent has taken over from the one before it".to_owned(),
            Some("history resumed") => "the history is written again".to_owned(),
            Some("leaving") => "the agent goes, and its workloads run on".to_owned(),
            _ => word(details, "state"),
        },
        other => format!("{other} {details}"),
    })
}

fn word(details: &Value, key: &str) -> String {
    plain(details[key].as_str().unwrap_or("?"))
}

fn seconds(details: &Value, key: &str) -> String {
    human_duration(
        Duration::try_from_secs_f64(details[key].as_f64().unwrap_or(0.0)).unwrap_or_default(),
    )
}

/// One decimal: that of a limit and of what filled it should be comparable.
fn mebibytes(bytes: u64) -> String {
    let tenths = u128::from(bytes) * 10 / (1 << 20);
    format!("{}.{}M", tenths / 10, tenths % 10)
}

fn start(details: &Value) -> String {
    match details["pid"].as_u64() {
        Some(pid) => format!("started (pid {pid})"),
        None => {
            let number = details["errno"]
                .as_i64()
                .map(|errno| format!(" (errno {errno})"))
                .unwrap_or_default();
            format!(
                "failed to {}: {}{number}",
                word(details, "stage"),
                word(details, "error")
            )
        }
    }
}

fn stop(details: &Value, reason: &str) -> String {
    if details["kill"] == true {
        return format!("killed ({reason})");
    }
    format!(
        "stopping ({reason}): {}, then {} of grace",
        word(details, "signal"),
        seconds(details, "grace_seconds")
    )
}

fn exit(details: &Value) -> String {
    match (details["code"].as_i64(), details["signal"].as_i64()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            let name = i32::try_from(signal)
                .map(crate::kernel::signal::signal_name)
                .unwrap_or_default();
            format!("killed by {name}")
        }
        (None, None) => "exited".to_owned(),
    }
}

fn oom_kill(details: &Value) -> String {
    let victims = details["victims"].as_array().map_or(&[][..], Vec::as_slice);
    let limit = details["limit_bytes"]
        .as_u64()
        .map(|bytes| Bytes(bytes).to_string());
    // A cgroup that the workload has made may be gone by the time that the kill is reported.
    let cgroup = details["cgroup"].as_str().unwrap_or("a cgroup of its own");
    let limit_of = |whose: &str| {
        limit.as_ref().map_or_else(
            || format!("{whose} limit"),
            |limit| format!("{whose} {limit} limit"),
        )
    };
    let Some(first) = victims.first() else {
        let whose = match details["scope"].as_str() {
            Some("own") => format!("at {}", limit_of("its")),
            Some("ancestor" | "descendant") => {
                format!("at {} of {cgroup}", limit_of("the"))
            }
            _ => "as the host ran out of memory".to_owned(),
        };
        return format!("OOM kill {whose} (seen by the kernel's counters alone)");
    };
    // What is charged to nobody else: shared pages may belong to another cgroup.
    let private = |victim: &Value| {
        ["anon_bytes", "kernel_bytes"]
            .iter()
            .filter_map(|key| victim[key].as_u64())
            .sum::<u64>()
    };
    let used: u64 = victims.iter().map(private).sum();
    let more = match victims.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let who = format!("{} (pid {}){more}", word(first, "command"), first["pid"]);
    let used = mebibytes(used);
    match details["scope"].as_str() {
        Some("own") => format!("OOM kill: {who} used {used} of {}", limit_of("its")),
        Some("ancestor" | "descendant") => format!(
            "OOM kill: {who} used {used} as {cgroup} met {}",
            limit_of("its")
        ),
        _ => format!("OOM kill: {who} used {used} as the host ran out of memory"),
    }
}

fn restart(details: &Value, reason: &str) -> String {
    if details["carried_out"] == false {
        return "would be restarted (mode: observe)".to_owned();
    }
    let attempt = details["attempt"].as_u64().unwrap_or(0);
    if attempt == 0 {
        return format!("starting again ({reason})");
    }
    let when = match details["delay_seconds"].as_f64() {
        Some(delay) if delay > 0.0 => format!("in {}", seconds(details, "delay_seconds")),
        _ => "now".to_owned(),
    };
    let first = match details["strategy"].as_str() {
        Some("reset") => ", after its reset paths are cleared",
        Some("recreate") => ", in a new cgroup with a new log",
        Some("run") => ", after the strategy's command",
        _ => "",
    };
    format!("restarting {when}, attempt {attempt}{first}")
}

fn breaker(details: &Value) -> String {
    match details["state"].as_str() {
        Some("open") => format!(
            "too many restarts: the breaker is open, one trial in {}",
            seconds(details, "cooldown_seconds")
        ),
        Some("half_open") => "the breaker is half open: one trial".to_owned(),
        _ => "the trial passed: the breaker is closed".to_owned(),
    }
}

fn config(details: &Value) -> String {
    if let Some(state) = details.as_str() {
        return match state {
            "added" => "added".to_owned(),
            "unmanaged" => "named by no manifest any more; it runs on unmanaged".to_owned(),
            other => other.to_owned(),
        };
    }
    if let Some(refused) = details["limits_refused"].as_str() {
        return format!("failed to {}; the old limits hold", plain(refused));
    }
    if let Some(refused) = details["manifest_refused"].as_str() {
        let first = refused.lines().next().unwrap_or_default();
        return format!(
            "the manifest was refused, and nothing was changed: {}",
            plain(first)
        );
    }
    let changes = |key: &str| details[key].as_array().cloned().unwrap_or_default();
    let text = |change: &Value, key: &str| plain(change[key].as_str().unwrap_or("default"));
    let shown: Vec<String> = changes("limits")
        .iter()
        .map(|change| {
            format!(
                "{} {} → {}",
                text(change, "file"),
                text(change, "from"),
                text(change, "to")
            )
        })
        .collect();
    if !shown.is_empty() {
        return format!("in effect: {}", shown.join(", "));
    }
    let shown: Vec<String> = changes("changed").iter().map(setting).collect();
    format!("changed: {}", shown.join(", "))
}

/// One setting of a plan or of a change.
pub(super) fn setting(change: &Value) -> String {
    let text = |key: &str| plain(change[key].as_str().unwrap_or("default"));
    format!(
        "{} {} → {} ({})",
        text("setting"),
        text("from"),
        text("to"),
        text("effect")
    )
}

#[cfg(test)]
mod tests {
    use super::line;
    use serde_json::json;

    fn oom(victims: serde_json::Value, scope: &str) -> serde_json::Value {
        json!({ "workload": "web", "kind": "oom_kill", "details": {
            "victims": victims, "scope": scope, "cgroup": "/all", "limit_bytes": 33_554_432u64 } })
    }

    #[test]
    fn a_kill_and_its_answer_are_one_line() {
        let victims = json!([{ "pid": 812, "command": "python3", "anon_bytes": 33_500_000u64, "kernel_bytes": 54_432u64 }]);
        let events = [
            oom(victims, "own"),
            json!({ "workload": "web", "kind": "exit", "details": { "signal": 9, "oom_killed": true } }),
            json!({ "workload": "web", "kind": "restart", "reason": "oom_kill",
                "details": { "attempt": 1, "delay_seconds": 0.0, "carried_out": true } }),
        ];
        let expected = "web: OOM kill: python3 (pid 812) used 32.0M of its 32M limit; restarting now, attempt 1";
        assert_eq!(line(&events, false), expected);
    }

    #[test]
    fn a_kill_without_a_witness_says_so() {
        let expected = "web: OOM kill at its 32M limit (seen by the kernel's counters alone)";
        assert_eq!(line(&[oom(json!([]), "own")], false), expected);
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        let victims = json!([{ "pid": 1, "command": "\u{1b}[2Jx\n", "rss_bytes": 0 }]);
        assert!(!line(&[oom(victims, "host")], false).contains(['\u{1b}', '\n']));
    }
}
