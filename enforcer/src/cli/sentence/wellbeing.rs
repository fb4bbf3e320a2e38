//! Health, readiness and the host's shortages in plain words.

use super::word;
use enforcer_core::units::human_duration;
use serde_json::Value;
use std::time::Duration;

pub(super) fn health(details: &Value) -> String {
    let why = word(details, "why");
    match (word(details, "to").as_str(), why.is_empty()) {
        (to, true) => to.to_owned(),
        (to, false) if details["from"] == details["to"] => format!("still {to}: {why}"),
        (to, false) => format!("{to}: {why}"),
    }
}

pub(super) fn ready(details: &Value) -> String {
    if details["ready"] == true {
        return "ready".to_owned();
    }
    format!("not ready: {}", word(details, "why"))
}

pub(super) fn host_pressure(details: &Value) -> String {
    let used = match details["used_percent"].as_u64() {
        Some(percent) => format!(" ({percent}% used)"),
        None => String::new(),
    };
    let what = format!(
        "the host's {} is {}{used}",
        word(details, "resource"),
        word(details, "level")
    );
    let would = if details["carried_out"] == false {
        "would be "
    } else {
        ""
    };
    match word(details, "done").as_str() {
        "warned" => what,
        "ran" => format!("{what}: running its command"),
        "failed" => format!("{what}: its command failed: {}", word(details, "error")),
        done => format!("{would}{done}: {what}"),
    }
}

/// What a person is told, and that it is over.
pub(super) fn alert(details: &Value) -> String {
    let (rule, text) = (word(details, "rule"), word(details, "text"));
    if details["state"] == "resolved" {
        return format!("alert {rule} is over: {text}");
    }
    let still = if details["repeated"] == true {
        " still"
    } else {
        ""
    };
    format!(
        "alert {rule} ({}){still}: {text}",
        word(details, "severity")
    )
}

/// What somebody else has changed, and that it was put right.
pub(super) fn drift(details: &Value) -> String {
    let drifts = drifts(details);
    if drifts.is_empty() {
        return "its limits are written again".to_owned();
    }
    format!("somebody else changed {drifts}; put right")
}

pub(super) fn conflict(details: &Value) -> String {
    let pause = details["pause_seconds"].as_f64().unwrap_or(0.0);
    format!(
        "conflict: somebody else keeps changing {}; left as it is for {}",
        drifts(details),
        human_duration(Duration::try_from_secs_f64(pause.round()).unwrap_or_default())
    )
}

fn drifts(details: &Value) -> String {
    let all = details["drifts"].as_array().into_iter().flatten();
    let told = all.map(|drift| {
        let (expected, found) = (word(drift, "expected"), word(drift, "found"));
        format!("{} from `{expected}` to `{found}`", word(drift, "what"))
    });
    told.collect::<Vec<_>>().join(", ")
}
