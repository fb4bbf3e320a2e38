//! Loops in plain words: which thread, what it is, what proves it, and what was
//! done about it.

use super::word;
use serde_json::Value;

pub(super) fn found(details: &Value) -> String {
    let evidence = &details["evidence"];
    let cpu = details["cpu_seconds"].as_f64().unwrap_or(0.0);
    let who = format!("{} (tid {})", word(details, "command"), details["tid"]);
    let place = evidence["stack"][0]
        .as_str()
        .map_or_else(String::new, |frame| format!(" at {}", super::plain(frame)));
    let what = match details["verdict"].as_str() {
        Some("dead_loop") => format!(
            "dead loop: {who} has used {cpu:.1} s of CPU without a sleep{place}; its whole state came back {} times in {} looks",
            evidence["recurrences"], evidence["snapshots"]
        ),
        Some("syscall_spin") => format!(
            "busy polling: {who} has used {cpu:.1} s of CPU without a sleep{place}, in calls that do nothing ({})",
            names(&evidence["calls"]["names"])
        ),
        _ => format!(
            "hot: {who} has used {cpu:.1} s of CPU without a sleep{place}; no loop is proved{}",
            why(evidence)
        ),
    };
    let outside = outside(&evidence["outside"]);
    if outside.is_empty() {
        what
    } else {
        format!("{what} (outside the proof: {outside})")
    }
}

fn why(evidence: &Value) -> String {
    match evidence["unproven"].as_str() {
        Some(why) => format!(": {}", super::plain(why)),
        None if evidence["recurs"] == true => {
            ": its state recurs, but something else may end that".to_owned()
        }
        None => String::new(),
    }
}

fn names(list: &Value) -> String {
    let names = list.as_array().into_iter().flatten();
    names
        .filter_map(Value::as_str)
        .map(super::plain)
        .collect::<Vec<_>>()
        .join(", ")
}

fn outside(list: &Value) -> String {
    let described = list.as_array().into_iter().flatten().map(|entry| {
        let detail = super::plain(entry["detail"].as_str().unwrap_or(""));
        match entry["what"].as_str() {
            Some("thread_ran") => format!("{detail} ran"),
            Some("thread_wakes") => format!("{detail} will wake up"),
            Some("thread_waits") => format!("{detail} waits for something from outside"),
            Some("shared_mapping") => format!("memory shared as {detail}"),
            Some("device_mapping") => format!("memory of the device {detail}"),
            Some("clock") => "it reads a clock".to_owned(),
            Some("timer") => "a timer may interrupt it".to_owned(),
            _ => detail,
        }
    });
    const SHOWN: usize = 3;
    let all: Vec<String> = described.collect();
    let more = all.len().saturating_sub(SHOWN);
    let shown = all.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        format!("{shown} and {more} more")
    } else {
        shown
    }
}

pub(super) fn throttle(details: &Value, reason: &str) -> String {
    let what = match details["cpu_percent"].as_u64() {
        Some(percent) => format!("throttled to {percent}% of one CPU"),
        None => "demoted to cpu.weight 1".to_owned(),
    };
    if details["carried_out"] == false {
        return format!("would be {what} (mode: observe)");
    }
    format!("{what} ({reason})")
}

pub(super) fn release(details: &Value) -> String {
    let why = word(details, "why");
    match details["throttle"].as_str() {
        Some("none") => format!("released: {why}"),
        left => format!("released in part, still {}: {why}", left.unwrap_or("held")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_dead_loop_says_who_where_and_why() {
        let details = json!({ "verdict": "dead_loop", "tid": 812, "command": "web", "cpu_seconds": 10.04,
            "evidence": { "recurrences": 88, "snapshots": 96, "stack": ["spin+0x4 in web"], "outside": [
                { "what": "thread_waits", "detail": "pool (tid 813)" } ] } });
        assert_eq!(
            found(&details),
            "dead loop: web (tid 812) has used 10.0 s of CPU without a sleep at spin+0x4 in web; \
             its whole state came back 88 times in 96 looks (outside the proof: pool (tid 813) waits for something from outside)"
        );
    }

    #[test]
    fn heat_alone_says_what_is_missing() {
        let details = json!({ "verdict": "over_budget", "tid": 1, "command": "gcc\u{1b}", "cpu_seconds": 12.0,
            "evidence": { "unproven": "it is at work", "stack": [], "outside": [] } });
        assert_eq!(
            found(&details),
            "hot: gcc\u{fffd} (tid 1) has used 12.0 s of CPU without a sleep; no loop is proved: it is at work"
        );
    }
}
