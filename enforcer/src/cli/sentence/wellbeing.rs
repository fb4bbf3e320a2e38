//! Health, readiness and the host's shortages in plain words.

use super::word;
use serde_json::Value;

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
