//! Restarts.

use super::unit::{Unit, time};
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;

pub(super) fn read(unit: &mut Unit<'_>, key: &str, value: &str) -> Option<Outcome> {
    Some(match key {
        "Restart" => restart(unit, value),
        "RestartSec" => match time(value) {
            Some(delay) => {
                unit.put(&["recovery", "backoff", "initial"], Yaml::Word(delay));
                near("the first restart follows at once, and later ones wait longer")
            }
            None => needs_you("the value is not understood"),
        },
        "RestartMaxDelaySec" => match time(value) {
            Some(delay) => {
                unit.put(&["recovery", "backoff", "max"], Yaml::Word(delay));
                exact("")
            }
            None => exact("no longest wait"),
        },
        "RestartSteps" => near("each wait is twice the one before"),
        "StartLimitIntervalSec" | "StartLimitInterval" => match (value, time(value)) {
            ("0", _) => {
                unit.put(&["recovery", "budget"], Yaml::word("off"));
                exact("restarts without a bound")
            }
            (_, Some(within)) => {
                unit.put(&["recovery", "budget", "within"], Yaml::Word(within));
                near("then the breaker opens, and tries again later")
            }
            (_, None) => needs_you("the value is not understood"),
        },
        "StartLimitBurst" => {
            if unit.draft.get(&["recovery", "budget"]) != Some(&Yaml::word("off")) {
                unit.put(
                    &["recovery", "budget", "restarts"],
                    Yaml::Word(value.to_owned()),
                );
            }
            near("then the breaker opens, and tries again later")
        }
        "StartLimitAction" | "RestartMode" => dropped("there is no such setting"),
        "SuccessExitStatus" => {
            near("however a program ends when it was asked to stop, that is no failure")
        }
        "RestartPreventExitStatus" | "RestartForceExitStatus" => needs_you(
            "exit code 0 alone is a success: a shell around the command can change others",
        ),
        _ => return None,
    })
}

fn restart(unit: &mut Unit<'_>, value: &str) -> Outcome {
    let (word, outcome) = match value {
        "no" => ("never", exact("")),
        "always" => ("always", exact("")),
        "on-failure" => ("on-failure", exact("")),
        "on-abnormal" | "on-watchdog" | "on-abort" => (
            "on-failure",
            near("an exit code other than 0 is a failure as well"),
        ),
        "on-success" => ("always", near("a failure is restarted as well")),
        _ => return needs_you("the value is not understood"),
    };
    unit.put(&["recovery", "restart"], Yaml::word(word));
    outcome
}

/// systemd restarts nothing unless it is told to.
pub(super) fn finish(unit: &mut Unit<'_>) {
    if unit.draft.get(&["recovery", "restart"]).is_none() {
        unit.put(&["recovery", "restart"], Yaml::word("never"));
    }
    let never = unit.draft.get(&["recovery", "restart"]) == Some(&Yaml::word("never"));
    let budget = unit.draft.get(&["recovery", "budget"]);
    let has_part = matches!(budget, Some(Yaml::Map(_)));
    if has_part && !never {
        // What a unit leaves out is 5 in 10 s.
        for (key, usual) in [("restarts", "5"), ("within", "10s")] {
            let path = ["recovery", "budget", key];
            if unit.draft.get(&path).is_none() {
                unit.put(&path, Yaml::word(usual));
            }
        }
    }
}
