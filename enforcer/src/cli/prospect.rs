//! What comes next for a workload, as somebody would say it who knows.

use enforcer_core::units::human_duration;
use serde_json::Value;
use std::time::Duration;

/// From `inspect`'s answer; `None` where nothing is about to happen.
pub(super) fn next(workload: &Value) -> Option<String> {
    let name = workload["name"].as_str().unwrap_or("it");
    let mut parts = Vec::new();
    match workload["state"].as_str()? {
        "backing_off" => {
            parts.push(format!("attempt {}", soon(workload)));
            parts.extend(budget(workload));
        }
        "breaker_open" => parts.push(format!(
            "one trial {}; if that lasts, the breaker closes, and if not, it waits again, twice as long up to its most",
            soon(workload)
        )),
        "failed" => parts.push(format!(
            "nothing starts it again by itself; `enforcer start {name}` does"
        )),
        "stopped" if workload["comes_back"] == true => {
            parts.push("it comes back when the host is well again".to_owned());
        }
        "stopped" => parts.push(format!("it stays stopped until `enforcer start {name}`")),
        "running" => {
            // Who only watches restarts nothing.
            if workload["mode"] == "enforce" && workload["restart"] != "never" {
                parts.extend(probes(workload));
            }
            if workload["throttle"]
                .as_str()
                .is_some_and(|held| held != "none")
            {
                parts.push(format!(
                    "it is held back until what led to that is over, or until `enforcer release {name}`"
                ));
            }
        }
        _ => {}
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn soon(workload: &Value) -> String {
    let seconds = workload["next_start_in_seconds"].as_f64().unwrap_or(0.0);
    let whole = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or_default();
    if whole.is_zero() {
        return "now".to_owned();
    }
    format!("in {}", human_duration(whole))
}

fn budget(workload: &Value) -> Option<String> {
    let used = workload["budget_used"].as_u64().filter(|used| *used > 0)?;
    let most = workload["budget"]["restarts"].as_u64()?;
    let within = workload["budget"]["within_seconds"].as_f64()?;
    let within = human_duration(Duration::try_from_secs_f64(within).unwrap_or_default());
    if workload["breaker"] != true {
        return Some(format!("{used} of {most} restarts used within {within}"));
    }
    let left = match most.saturating_sub(used) {
        0 => "the breaker opens at the next failure".to_owned(),
        1 => "the breaker opens after one more".to_owned(),
        left => format!("the breaker opens after {left} more"),
    };
    Some(format!(
        "{used} of {most} restarts used within {within}; {left}"
    ))
}

/// Whether the next failure opens the breaker.
fn is_spent(workload: &Value) -> bool {
    let most = workload["budget"]["restarts"].as_u64();
    let used = workload["budget_used"].as_u64().unwrap_or(0);
    workload["breaker"] == true && most.is_some_and(|most| used >= most)
}

/// What a probe that fails is about to bring.
fn probes(workload: &Value) -> Option<String> {
    let probes = workload["probes"].as_array()?;
    let nearest = probes.iter().filter_map(|probe| {
        let failures = probe["consecutive_failures"]
            .as_u64()
            .filter(|count| *count > 0)?;
        let threshold = probe["failure_threshold"].as_u64()?;
        let word = probe["probe"].as_str()?;
        let then = match word {
            "readiness" => "it counts as not ready",
            _ if is_spent(workload) => "the breaker opens",
            _ => "it is restarted",
        };
        Some(match threshold.saturating_sub(failures) {
            0 if word == "readiness" => return None,
            0 => format!("{word} has failed {failures} times"),
            left => format!(
                "{word} has failed {failures} of {threshold} times, and after {left} more {then}"
            ),
        })
    });
    let told: Vec<String> = nearest.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::next;
    use serde_json::json;

    #[test]
    fn what_comes_next_is_said_with_its_numbers() {
        let budget = json!({ "restarts": 5, "within_seconds": 300.0 });
        let check = |workload: serde_json::Value, expected: Option<&str>| {
            assert_eq!(next(&workload).as_deref(), expected, "{workload}");
        };
        check(
            json!({ "name": "web", "state": "backing_off", "next_start_in_seconds": 37.2,
                "budget_used": 4, "budget": budget, "breaker": true }),
            Some(
                "attempt in 38s; 4 of 5 restarts used within 5m; the breaker opens after one more",
            ),
        );
        check(
            json!({ "name": "web", "state": "backing_off", "next_start_in_seconds": 0.0,
                "budget_used": 5, "budget": budget, "breaker": true }),
            Some(
                "attempt now; 5 of 5 restarts used within 5m; the breaker opens at the next failure",
            ),
        );
        check(
            json!({ "name": "web", "state": "breaker_open", "next_start_in_seconds": 52.0 }),
            Some(
                "one trial in 52s; if that lasts, the breaker closes, and if not, it waits again, twice as long up to its most",
            ),
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "demoted", "mode": "enforce", "restart": "always",
                "probes": [{ "probe": "liveness", "consecutive_failures": 2, "failure_threshold": 3 }] }),
            Some(
                "liveness has failed 2 of 3 times, and after 1 more it is restarted; \
                 it is held back until what led to that is over, or until `enforcer release web`",
            ),
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "none", "mode": "enforce", "restart": "always",
                "budget_used": 5, "budget": budget, "breaker": true,
                "probes": [{ "probe": "liveness", "consecutive_failures": 2, "failure_threshold": 3 }] }),
            Some("liveness has failed 2 of 3 times, and after 1 more the breaker opens"),
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "none" }),
            None,
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "none", "mode": "observe", "restart": "always",
                "probes": [{ "probe": "liveness", "consecutive_failures": 2, "failure_threshold": 3 }] }),
            None,
        );
        check(
            json!({ "name": "web", "state": "stopped", "comes_back": true }),
            Some("it comes back when the host is well again"),
        );
        check(
            json!({ "name": "web", "state": "failed" }),
            Some("nothing starts it again by itself; `enforcer start web` does"),
        );
    }
}
