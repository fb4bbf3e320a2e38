//! Health, host pressure, drift and alerts in words.

use super::joined;
use crate::detail::{
    AlertChange, AlertState, Conflict, DriftFound, HealthChange, HostPressure, PressureAnswer,
};
use crate::drift::Drifted;
use crate::text::printable;
use crate::units::human_duration;
use std::time::Duration;

pub(super) fn of_health(change: &HealthChange) -> String {
    let (to, why) = (change.to, printable(&change.why));
    match why.is_empty() {
        true => to.to_string(),
        false if change.from == to => format!("still {to}: {why}"),
        false => format!("{to}: {why}"),
    }
}

pub(super) fn of_pressure(pressure: &HostPressure) -> String {
    let used = match pressure.used_percent {
        Some(percent) => format!(" ({percent}% used)"),
        None => String::new(),
    };
    let what = format!(
        "the host's {} is {}{used}",
        pressure.resource, pressure.level
    );
    match pressure.done {
        PressureAnswer::Warned => what,
        PressureAnswer::Ran => format!("{what}: running its command"),
        PressureAnswer::Failed => {
            let error = pressure.error.as_deref().unwrap_or("?");
            format!("{what}: its command failed: {}", printable(error))
        }
        done @ (PressureAnswer::Demoted
        | PressureAnswer::Stopped
        | PressureAnswer::StartedAgain
        | PressureAnswer::Released) => {
            let would = if pressure.carried_out {
                ""
            } else {
                "would be "
            };
            format!("{would}{done}: {what}")
        }
    }
}

pub(super) fn of_alert(alert: &AlertChange) -> String {
    let (rule, text) = (printable(&alert.rule), printable(&alert.text));
    match alert.state {
        AlertState::Resolved => format!("alert {rule} is over: {text}"),
        AlertState::Firing => {
            let still = if alert.repeated { " still" } else { "" };
            format!("alert {rule} ({}){still}: {text}", alert.severity)
        }
    }
}

pub(super) fn of_drift(found: &DriftFound) -> String {
    if found.drifts.is_empty() {
        return "its limits are written again".to_owned();
    }
    format!(
        "another process changed {}; enforcer wrote its own values again",
        changes(&found.drifts)
    )
}

pub(super) fn of_conflict(conflict: &Conflict) -> String {
    let pause = Duration::from_secs_f64(conflict.pause.as_secs_f64().round());
    format!(
        "conflict: another process keeps changing {}; enforcer leaves it for {}",
        changes(&conflict.drifts),
        human_duration(pause)
    )
}

fn changes(drifts: &[Drifted]) -> String {
    joined(drifts.iter().map(|drift| {
        format!(
            "{} from `{}` to `{}`",
            printable(&drift.what),
            printable(&drift.expected),
            printable(&drift.found)
        )
    }))
}
