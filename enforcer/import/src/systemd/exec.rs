//! The place of a program: its user, folders, variables and outputs (systemd.exec(5)).

use super::command;
use super::text::words;
use super::unit::{Unit, is_yes, time};
use crate::outcome::{Outcome, dropped, exact, near, needs_you};
use crate::output::Yaml;

/// Reads the variables first: other settings need them.
pub(super) fn environment(unit: &mut Unit<'_>) {
    let values = unit.values.get("Environment").cloned().unwrap_or_default();
    for value in values {
        for pair in words(&value).unwrap_or_default() {
            if let Some((name, value)) = pair.split_once('=') {
                unit.environment.retain(|(known, _)| known != name);
                unit.environment.push((name.to_owned(), value.to_owned()));
            }
        }
    }
}

fn put(unit: &mut Unit<'_>, key: &str, value: &str) -> Outcome {
    unit.put(&[key], Yaml::Text(value.to_owned()));
    exact("")
}

pub(super) fn read(
    unit: &mut Unit<'_>,
    key: &str,
    value: &str,
    values: &[String],
) -> Option<Outcome> {
    Some(match key {
        "Type" => kind(unit, value),
        "User" => put(unit, "user", value),
        "Group" => put(unit, "group", value),
        "SupplementaryGroups" => {
            let groups = values.iter().flat_map(|value| value.split_whitespace());
            let groups: Vec<&str> = groups.collect();
            unit.put(&["groups"], Yaml::texts(groups));
            exact("")
        }
        "DynamicUser" if is_yes(value) => needs_you("make an account, and name it in `user`"),
        "DynamicUser" => exact(""),
        "UMask" => {
            unit.put(&["umask"], Yaml::Text(value.to_owned()));
            exact("")
        }
        "Nice" => {
            unit.put(&["nice"], Yaml::Word(value.to_owned()));
            exact("")
        }
        "WorkingDirectory" => directory(unit, value),
        "RootDirectory" => put(unit, "root", value),
        "Environment" => match values.iter().all(|value| words(value).is_ok()) {
            true => exact(""),
            false => needs_you("a quote is not closed"),
        },
        "EnvironmentFile" => {
            let files: Vec<&str> = values.iter().map(String::as_str).collect();
            unit.put(&["environment_files"], Yaml::texts(files));
            near("`Environment` wins over the file")
        }
        "PassEnvironment" => dropped("write the variables into `environment`"),
        "UnsetEnvironment" => exact("a workload has the variables of its manifest alone"),
        "PIDFile" => match value.starts_with('/') {
            true => put(unit, "main_pid_file", value),
            false => put(unit, "main_pid_file", &format!("/run/{value}")),
        },
        "RuntimeDirectory" => directories(unit, "runtime_directory", key, values),
        "StateDirectory" => directories(unit, "state_directory", key, values),
        "CacheDirectory" => directories(unit, "cache_directory", key, values),
        "RuntimeDirectoryMode" | "StateDirectoryMode" | "CacheDirectoryMode" => exact(""),
        "RuntimeDirectoryPreserve" => {
            near("it stays over restarts, and goes when the workload comes to rest")
        }
        "LogsDirectory"
        | "ConfigurationDirectory"
        | "LogsDirectoryMode"
        | "ConfigurationDirectoryMode" => {
            needs_you("make the folder, with the workload's user as its owner")
        }
        "StandardOutput" | "StandardError" => output(unit, key, value),
        "StandardInput" if value == "null" => exact(""),
        "StandardInput" | "StandardInputText" | "StandardInputData" => {
            dropped("standard input is /dev/null")
        }
        "SyslogIdentifier"
        | "SyslogFacility"
        | "SyslogLevel"
        | "SyslogLevelPrefix"
        | "LogLevelMax"
        | "LogRateLimitIntervalSec"
        | "LogRateLimitBurst"
        | "LogExtraFields"
        | "LogNamespace" => near("lines have the workload's name"),
        "LoadCredential" | "LoadCredentialEncrypted" => credentials(unit, values),
        "SetCredential" | "SetCredentialEncrypted" | "ImportCredential" => {
            needs_you("write it to a file, and name that in `credentials`")
        }
        "Sockets" => exact("import the socket units with it"),
        "NonBlocking" | "FileDescriptorStoreMax" | "FileDescriptorStorePreserve" => {
            dropped("sockets of `listen` are kept; other descriptors are not")
        }
        "NotifyAccess" => exact("a process of the workload's cgroup may notify"),
        "TTYPath" | "TTYReset" | "TTYVHangup" | "TTYVTDisallocate" | "UtmpIdentifier"
        | "PAMName" => dropped("a workload has no terminal and no session of PAM"),
        "RemainAfterExit" => near("a job that has ended is `stopped`, and counts as completed"),
        "GuessMainPID" | "BusName" | "ExitType" => {
            near("the main process is the one that was started, or that `main_pid_file` names")
        }
        "Slice" => near("all workloads are in the agent's own cgroup"),
        "Delegate" | "DelegateSubgroup" => near("a workload may make cgroups below its own"),
        "TimerSlackNSec" | "Personality" | "KeyringMode" | "LimitRTTIME" | "CoredumpFilter"
        | "MountFlags" => dropped("there is no such setting"),
        "CPUSchedulingPolicy"
        | "CPUSchedulingPriority"
        | "CPUSchedulingResetOnFork"
        | "IOSchedulingClass"
        | "IOSchedulingPriority"
        | "CPUAffinity"
        | "NUMAPolicy"
        | "NUMAMask" => {
            needs_you("put chrt(1), ionice(1), taskset(1) or numactl(8) in front of the command")
        }
        "KillMode" => command::kill_mode(unit, value),
        "KillSignal" => {
            unit.put(&["stop", "signal"], Yaml::Text(value.to_owned()));
            exact("")
        }
        "RestartKillSignal" | "FinalKillSignal" | "WatchdogSignal" => {
            near("every stop has one signal, and then SIGKILL")
        }
        "SendSIGKILL" | "SendSIGHUP" => match is_yes(value) == (key == "SendSIGKILL") {
            true => exact(""),
            false => dropped("a stop ends with SIGKILL"),
        },
        "TimeoutStopSec" | "TimeoutSec" => {
            let grace = time(value);
            let outcome = match grace {
                Some(_) => exact(""),
                None => near("a day, in place of no end"),
            };
            let grace = grace.unwrap_or_else(|| "1d".to_owned());
            unit.put(&["stop", "grace"], Yaml::Word(grace));
            outcome
        }
        "TimeoutStartSec"
        | "TimeoutAbortSec"
        | "TimeoutStartFailureMode"
        | "TimeoutStopFailureMode"
        | "RuntimeMaxSec"
        | "RuntimeRandomizedExtraSec" => near(
            "`start_timeout` bounds a start until the program runs; a `startup` probe bounds the rest",
        ),
        "WatchdogSec" => match time(value) {
            Some(within) => {
                unit.put(
                    &["probes", "liveness", "notify", "within"],
                    Yaml::Word(within),
                );
                exact("")
            }
            None => exact("no watchdog"),
        },
        "OOMScoreAdjust" => oom_score(unit, value),
        _ => return None,
    })
}

fn kind(unit: &mut Unit<'_>, value: &str) -> Outcome {
    match value {
        "simple" | "exec" | "idle" => exact(""),
        "notify" | "notify-reload" => {
            unit.put(&["probes", "startup", "notify"], Yaml::map());
            if value == "notify-reload" && unit.last("ReloadSignal").is_none() {
                unit.put(&["reload", "signal"], Yaml::Text("SIGHUP".to_owned()));
            }
            exact("")
        }
        "oneshot" => {
            unit.put(&["recovery", "restart"], Yaml::word("never"));
            near("a job: what needs it can wait for `completed`")
        }
        "forking" => match unit.last("PIDFile") {
            Some(_) => exact(""),
            None => needs_you("name its pid file in `main_pid_file`, or keep it from forking"),
        },
        _ => near("it counts as up when it runs: a probe can say more"),
    }
}

fn directory(unit: &mut Unit<'_>, value: &str) -> Outcome {
    let path = value.trim_start_matches('-');
    if path == "~" {
        return needs_you("write the home of the user");
    }
    unit.put(&["directory"], Yaml::Text(path.to_owned()));
    match value.starts_with('-') {
        true => near("a folder that is missing is a start error"),
        false => exact(""),
    }
}

fn directories(unit: &mut Unit<'_>, key: &str, of: &str, values: &[String]) -> Outcome {
    let names = values.iter().flat_map(|value| value.split_whitespace());
    let names: Vec<String> = names
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect();
    let mode = unit.last(&format!("{of}Mode")).map(str::to_owned);
    match mode {
        Some(mode) => {
            unit.put(&[key, "names"], Yaml::texts(names));
            unit.put(&[key, "mode"], Yaml::Text(mode));
        }
        None => unit.put(&[key], Yaml::texts(names)),
    }
    exact("")
}

fn output(unit: &mut Unit<'_>, key: &str, value: &str) -> Outcome {
    let kind = value.split(':').next().unwrap_or_default();
    match kind {
        "journal" | "syslog" | "kmsg" | "journal+console" => {
            unit.put(&["logs", "to"], Yaml::word("journal"));
            exact("")
        }
        "inherit" => exact(""),
        "file" | "append" | "truncate" => near(format!(
            "the output is below the agent's state folder: `enforcer logs`; {key} was {value}"
        )),
        "null" => near("the output is kept, within `logs: { max_size, keep }`"),
        _ => dropped("output goes to a file of the agent's, or to journald"),
    }
}

fn credentials(unit: &mut Unit<'_>, values: &[String]) -> Outcome {
    let mut lacks_path = false;
    for value in values {
        let (name, path) = value.split_once(':').unwrap_or((value, ""));
        lacks_path |= !path.starts_with('/');
        unit.put(&["credentials", name], Yaml::Text(path.to_owned()));
    }
    match lacks_path {
        true => needs_you("name the path of the file"),
        false => exact("the program finds them in $CREDENTIALS_DIRECTORY"),
    }
}

fn oom_score(unit: &mut Unit<'_>, value: &str) -> Outcome {
    let Ok(score) = value.parse::<i32>() else {
        return needs_you("the value is not understood");
    };
    let priority = (50 - score / 10).clamp(0, 100);
    unit.put(&["priority"], Yaml::word(priority));
    match (50 - priority) * 10 == score {
        true => exact(format!("priority {priority}")),
        false => near(format!(
            "priority {priority}, which is {}",
            (50 - priority) * 10
        )),
    }
}

/// systemd's defaults, where they differ from ours.
pub(super) fn finish(unit: &mut Unit<'_>) {
    if unit.draft.get(&["user"]).is_none() {
        unit.put(&["user"], Yaml::Text("root".to_owned()));
    }
    let defaults = [
        (["stop", "grace"], "90s"),
        (["stop", "scope"], "group"),
        (["logs", "to"], "journal"),
    ];
    for (path, value) in defaults {
        if unit.draft.get(&path).is_none() {
            unit.put(&path, Yaml::word(value));
        }
    }
}
