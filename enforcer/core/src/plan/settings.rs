//! The settings of a manifest, each as a text to compare and to show. A value that may be a secret
//! is compared, and never shown.

use super::{Setting, Settings};
use crate::limits::Limits;
use crate::spec::{
    Alerts, Check, CpuLoopWatch, DiskWatch, Mode, RestartPolicy, Strategy, Target, Threshold, When,
    WorkloadSpec,
};
use crate::units::Percent;
use std::time::Duration;

pub(super) fn limit_settings(limits: &Limits) -> Settings {
    let files = limits.files().into_iter().filter(|entry| entry.asked);
    files
        .map(|entry| (format!("cgroup.{}", entry.file), entry.value.into()))
        .collect()
}

/// Returns every setting that differs from its default, as a text.
pub(super) fn settings(spec: &WorkloadSpec) -> Settings {
    let mut settings = limit_settings(&spec.limits);
    let mut set = |key: &str, value: String| drop(settings.insert(key.to_owned(), value.into()));
    set(
        "mode",
        if spec.mode == Mode::Enforce {
            "enforce"
        } else {
            "observe"
        }
        .to_owned(),
    );
    set("command", quoted(&spec.command));
    set("priority", spec.priority.to_string());
    for (key, value) in [
        ("user", &spec.user),
        ("group", &spec.group),
        ("directory", &spec.directory),
    ] {
        if let Some(value) = value {
            set(key, value.clone());
        }
    }
    if !spec.environment_files.is_empty() {
        set("environment_files", quoted(&spec.environment_files));
    }
    if spec.capabilities_listed || !spec.capabilities.is_empty() {
        let listed = match spec.capabilities.as_slice() {
            [] => "none".to_owned(),
            listed => listed.join(" "),
        };
        set("capabilities", listed);
    }
    set("start_timeout", format!("{:?}", spec.start_timeout));
    for (name, limit) in &spec.rlimits {
        set(&format!("rlimits.{name}"), limit.to_string());
    }
    recovery_settings(spec, &mut set);
    settings.extend(probe_settings(spec));
    // A value may be a secret; that it differs is enough to know.
    for (name, value) in &spec.environment {
        let setting = Setting::secret("a value that is not shown", value.clone());
        settings.insert(format!("environment.{name}"), setting);
    }
    let shown = |watch: &CpuLoopWatch| {
        let ladder: Vec<String> = watch.respond.iter().map(ToString::to_string).collect();
        format!(
            "after {:?}: {}, step {:?}{}",
            watch.after,
            ladder.join(", "),
            watch.step,
            if watch.assume_loop {
                ", assume_loop"
            } else {
                ""
            }
        )
    };
    let watch = spec.watch.cpu_loop.as_ref();
    let watch = watch.map_or_else(|| "off".to_owned(), shown);
    settings.insert("watch.cpu_loop".to_owned(), watch.into());
    for (key, watch) in [
        ("watch.memory", spec.watch.memory),
        ("watch.cpu", spec.watch.cpu),
    ] {
        let shown = watch.map_or_else(|| "off".to_owned(), |watch| shown_threshold(&watch));
        settings.insert(key.to_owned(), shown.into());
    }
    settings
}

pub(super) fn shown_threshold(threshold: &Threshold) -> String {
    let level =
        |level: Option<Percent>| level.map_or_else(|| "off".to_owned(), |at| at.to_string());
    format!(
        "warn {}, critical {}, for {:?}",
        level(threshold.warn),
        level(threshold.critical),
        threshold.hold
    )
}

pub(super) fn alert_settings(alerts: &Alerts) -> Settings {
    let mut settings = Settings::new();
    if alerts.repeat != Alerts::default().repeat {
        let repeat = alerts
            .repeat
            .map_or("off".to_owned(), |repeat| format!("{repeat:?}"));
        settings.insert("alerts.repeat".to_owned(), repeat.into());
    }
    for (name, target) in &alerts.targets {
        let setting = match target {
            Target::Command(command) => quoted(command).into(),
            // A header's value may be a secret, and so may be what follows a `?`.
            Target::Webhook {
                host,
                port,
                path,
                headers,
            } => Setting::secret(
                &format!(
                    "http://{host}:{port}{}",
                    path.split('?').next().unwrap_or_default()
                ),
                format!("{path}{headers:?}"),
            ),
        };
        settings.insert(format!("alerts.targets.{name}"), setting);
    }
    for (name, rule) in &alerts.rules {
        let when = match rule.when {
            When::Memory(share) => format!("memory {} %", share.0),
            When::State(state) => format!("state {state}"),
            When::Health(health) => format!("health {health:?}").to_lowercase(),
            When::Event(kind) => format!("event {kind}"),
            When::Host(resource, share) => format!("host {} {} %", resource, share.0),
        };
        let mut shown = format!("{when} for {:?}, {:?}", rule.held, rule.severity);
        if let Some(workloads) = &rule.workloads {
            let names: Vec<&str> = workloads.iter().map(|name| name.as_str()).collect();
            shown.push_str(&format!(", of {}", names.join(" ")));
        }
        if let Some(to) = &rule.to {
            let names: Vec<&str> = to.iter().map(String::as_str).collect();
            shown.push_str(&format!(", to {}", names.join(" ")));
        }
        settings.insert(format!("alerts.rules.{name}"), shown.to_lowercase().into());
    }
    settings
}

pub(super) fn shown_disk(disk: &DiskWatch) -> String {
    let run = disk
        .run
        .as_ref()
        .map(|command| format!(": {}", quoted(command)));
    format!(
        "{} {}{}",
        disk.path,
        shown_threshold(&disk.threshold),
        run.unwrap_or_default()
    )
}

fn probe_settings(spec: &WorkloadSpec) -> Settings {
    let mut settings = Settings::new();
    for (name, probe) in &spec.probes {
        let mut hidden = String::new();
        let check = match &probe.check {
            Check::Http {
                host,
                port,
                path,
                headers,
            } => {
                // A header may be a secret.
                hidden = format!("{headers:?}");
                let headers = match headers.len() {
                    0 => String::new(),
                    count => format!(" with {count} headers"),
                };
                format!("http {host}:{port}{path}{headers}")
            }
            Check::Tcp { host, port } => format!("tcp {host}:{port}"),
            Check::Exec { command } => format!("exec {}", quoted(command)),
            Check::File { path, fresh_within } => format!("file {path} within {fresh_within:?}"),
            Check::Cgroup { cpu, io, within } => {
                format!("cgroup cpu {cpu:?} io {io:?} within {within:?}")
            }
        };
        let timing = format!(
            "after {:?} every {:?}, time-out {:?}, {} failures, {} passes",
            probe.initial_delay,
            probe.period,
            probe.timeout,
            probe.failure_threshold,
            probe.success_threshold
        );
        let setting = Setting::secret(&format!("{check}, {timing}"), hidden);
        settings.insert(format!("probes.{name}"), setting);
    }
    let mut set = |key: &str, value: String| drop(settings.insert(key.to_owned(), value.into()));
    if !spec.needs.is_empty() {
        let needs = spec
            .needs
            .iter()
            .map(|(name, need)| format!("{name} {}", need.as_str()));
        set("needs", needs.collect::<Vec<_>>().join(", "));
    }
    for (key, command) in [
        ("on_ready", &spec.on_ready),
        ("on_unready", &spec.on_unready),
    ] {
        if let Some(command) = command {
            set(key, quoted(command));
        }
    }
    let strategies = &spec.recovery.strategies;
    let words = |list: &[Strategy]| {
        let word = |strategy: &Strategy| match strategy {
            Strategy::Run(command) => format!("run {}", quoted(command)),
            Strategy::Restart | Strategy::Reset | Strategy::Recreate => strategy.name().to_string(),
        };
        list.iter().map(word).collect::<Vec<_>>().join(", then ")
    };
    if !strategies.default.is_empty() {
        set("recovery.strategy", words(&strategies.default));
    }
    for (cause, list) in &strategies.by_cause {
        set(&format!("recovery.strategy.{cause}"), words(list));
    }
    if !spec.recovery.reset_paths.is_empty() {
        set("recovery.reset_paths", quoted(&spec.recovery.reset_paths));
    }
    settings
}

fn recovery_settings(spec: &WorkloadSpec, set: &mut impl FnMut(&str, String)) {
    let recovery = &spec.recovery;
    // Exact: what is rounded would hide a change.
    let shown = |duration: Duration| format!("{duration:?}");
    let policy = match recovery.restart {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    };
    set("recovery.restart", policy.to_owned());
    let off = || "off".to_owned();
    let backoff = recovery.backoff.as_ref().map_or_else(off, |backoff| {
        format!(
            "{} × {} up to {} ± {}, again after {}",
            shown(backoff.initial),
            backoff.factor,
            shown(backoff.max),
            backoff.jitter,
            shown(backoff.reset_after)
        )
    });
    set("recovery.backoff", backoff);
    let budget = recovery.budget.as_ref();
    set(
        "recovery.budget",
        budget.map_or_else(off, |budget| {
            format!("{} within {}", budget.restarts, shown(budget.within))
        }),
    );
    let breaker = recovery.breaker.as_ref();
    set(
        "recovery.breaker",
        breaker.map_or_else(off, |breaker| {
            format!("{} up to {}", shown(breaker.cooldown), shown(breaker.max))
        }),
    );
    set("stop.signal", spec.stop.signal.clone());
    set("stop.grace", shown(spec.stop.grace));
    set("logs.to", spec.logs.to.as_str().to_owned());
    set("logs.max_size", spec.logs.max_size.0.to_string());
    set("logs.keep", spec.logs.keep.to_string());
    set("commands.memory.max", spec.commands.memory_max.to_string());
    set("commands.pids.max", spec.commands.pids_max.to_string());
}

/// Words that a shell would read as these same words.
fn quoted(words: &[String]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    let quote = |word: &String| match word.is_empty() || !word.bytes().all(plain) {
        true => format!("'{}'", word.replace('\'', "'\\''")),
        false => word.clone(),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}
