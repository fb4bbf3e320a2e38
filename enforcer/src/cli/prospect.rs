//! The next thing that enforcer does with a workload, in a sentence.

use enforcer_core::WorkloadState;
use enforcer_core::spec::{Mode, ProbeName, RestartPolicy};
use enforcer_core::units::human_duration;
use enforcer_model::claims::Throttling;
use enforcer_model::views::{Inspection, ProbeStatus};
use std::time::Duration;

/// Returns `None` if nothing is about to happen.
pub(super) fn next(found: &Inspection) -> Option<String> {
    let workload = &found.workload;
    let name = &workload.name;
    let mut parts = Vec::new();
    match workload.state {
        WorkloadState::BackingOff => {
            parts.push(format!("attempt {}", soon(found)));
            parts.extend(budget(found));
        }
        WorkloadState::BreakerOpen => parts.push(format!(
            "one trial {}; if that lasts, the breaker closes, and if not, it waits again, twice as long up to its most",
            soon(found)
        )),
        WorkloadState::Failed => parts.push(format!(
            "nothing starts it again by itself; `enforcer start {name}` does"
        )),
        WorkloadState::Stopped if found.comes_back => {
            parts.push("it comes back when the host is well again".to_owned());
        }
        WorkloadState::Stopped => {
            parts.push(format!("it stays stopped until `enforcer start {name}`"));
        }
        WorkloadState::Running => {
            // The mode `observe` restarts nothing.
            if found.mode == Mode::Enforce && found.restart != RestartPolicy::Never {
                parts.extend(probes(found));
            }
            if workload.throttle != Throttling::None {
                parts.push(format!(
                    "it is held back until what led to that is over, or until `enforcer release {name}`"
                ));
            }
        }
        WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Stopping => {}
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn soon(found: &Inspection) -> String {
    let seconds = found.next_start_in_seconds.unwrap_or(0.0);
    let whole = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or_default();
    if whole.is_zero() {
        return "now".to_owned();
    }
    format!("in {}", human_duration(whole))
}

fn budget(found: &Inspection) -> Option<String> {
    let budget = found.budget.filter(|_| found.budget_used > 0)?;
    let (used, most) = (found.budget_used, budget.restarts);
    let within = Duration::try_from_secs_f64(budget.within_seconds).unwrap_or_default();
    let within = human_duration(within);
    if !found.breaker {
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

/// Returns whether the next failure opens the breaker.
fn is_spent(found: &Inspection) -> bool {
    let budget = found.budget;
    found.breaker && budget.is_some_and(|budget| found.budget_used >= budget.restarts)
}

/// Describes what the probes that fail are about to cause.
fn probes(found: &Inspection) -> Option<String> {
    let failing = found
        .probes
        .iter()
        .filter_map(|probe| describe(found, probe));
    let sentences: Vec<String> = failing.collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn describe(found: &Inspection, probe: &ProbeStatus) -> Option<String> {
    let failures = probe.consecutive_failures;
    if failures == 0 {
        return None;
    }
    let (name, threshold) = (probe.probe, probe.failure_threshold);
    let then = match name {
        ProbeName::Readiness => "it counts as not ready",
        _ if is_spent(found) => "the breaker opens",
        _ => "it is restarted",
    };
    match threshold.saturating_sub(failures) {
        0 if name == ProbeName::Readiness => None,
        0 => Some(format!("{name} has failed {failures} times")),
        left => Some(format!(
            "{name} has failed {failures} of {threshold} times, and after {left} more {then}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::next;
    use enforcer_model::views::Inspection;
    use serde_json::{Value, json};

    /// Returns a workload that runs, with these keys in place of its own.
    fn inspection(keys: &Value) -> Inspection {
        let mut answer = json!({
            "name": "web", "state": "running", "health": "healthy", "ready": true,
            "throttle": "none", "throttle_cpu_percent": null, "pid": 7, "restarts": 0,
            "cgroup": "/", "memory_bytes": 0, "memory_max_bytes": null, "swap_bytes": 0,
            "swap_max_bytes": null, "cpu_percent": 0.0, "cpu_throttled_percent": 0.0,
            "oom_kills": 0, "last_exit": null, "since": "2026-01-31T10:00:00Z", "reason": "",
            "instance": 1, "managed": true, "command": [], "user": null, "directory": null,
            "environment": [], "oom_score_adj": 0, "probes": [], "limits": [], "log": "",
            "budget_used": 0, "budget": null, "breaker": false, "mode": "enforce",
            "restart": "always", "comes_back": false, "next_start_in_seconds": null,
        });
        for (key, value) in keys.as_object().into_iter().flatten() {
            answer[key] = value.clone();
        }
        serde_json::from_value(answer).expect("an inspection")
    }

    /// Returns a liveness probe with two failures.
    fn liveness() -> Value {
        json!([{ "probe": "liveness", "kind": "http", "state": "passing",
            "consecutive_failures": 2, "failure_threshold": 3, "at_rest": false, "last": null }])
    }

    #[test]
    fn what_comes_next_is_said_with_its_numbers() {
        let budget = json!({ "restarts": 5, "within_seconds": 300.0 });
        let check = |keys: Value, expected: Option<&str>| {
            assert_eq!(next(&inspection(&keys)).as_deref(), expected, "{keys}");
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
                "probes": liveness() }),
            Some(
                "liveness has failed 2 of 3 times, and after 1 more it is restarted; \
                 it is held back until what led to that is over, or until `enforcer release web`",
            ),
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "none", "mode": "enforce", "restart": "always",
                "budget_used": 5, "budget": budget, "breaker": true,
                "probes": liveness() }),
            Some("liveness has failed 2 of 3 times, and after 1 more the breaker opens"),
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "none" }),
            None,
        );
        check(
            json!({ "name": "web", "state": "running", "throttle": "none", "mode": "observe", "restart": "always",
                "probes": liveness() }),
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
