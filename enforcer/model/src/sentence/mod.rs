//! Events in words. Each event has one text, which the live lines, `events`, `why`, `top` and the
//! alerts share. Text from outside is shown so that it cannot control a terminal.

mod cpu_loop;
mod host;
mod oom;

use crate::detail::{
    AgentState, BreakerChange, BreakerState, ConfigChange, Detail, Drained, Exit, Hang, Lost,
    LostFrom, Reloaded, RestartPlan, RolloutChange, RolloutState, Start, Stop,
};
use crate::ids::Cause;
use crate::plan::SettingChange;
use crate::record::Record;
use crate::signals::signal_name;
use crate::spec::StrategyName;
use crate::text::printable;
use crate::units::human_duration;

/// Returns an event in words, without the workload's name.
#[must_use]
pub fn of_record(record: &Record) -> String {
    of(&record.detail, record.reason)
}

/// Returns the details of an event in words.
#[must_use]
pub fn of(detail: &Detail, reason: Option<Cause>) -> String {
    match detail {
        Detail::Start(start) => of_start(start),
        Detail::Adopt(adopted) => format!("taken over, pid {}", adopted.pid),
        Detail::Main(change) => format!("its main process is pid {} now", change.pid),
        Detail::Stop(stop) => of_stop(stop, reason),
        Detail::Exit(exit) => of_exit(exit),
        Detail::OomKill(incident) => oom::of_incident(incident),
        Detail::CpuLoop(found) => cpu_loop::of_loop(found),
        Detail::Hang(hang) => of_hang(hang),
        Detail::Throttle(change) => cpu_loop::of_throttle(change, reason),
        Detail::Release(release) => cpu_loop::of_release(release),
        Detail::Pressure(pressure) => format!(
            "{} use is {}: {}% of its limit",
            pressure.resource, pressure.level, pressure.used_percent
        ),
        Detail::Health(change) => host::of_health(change),
        Detail::Ready(change) if change.ready => "ready".to_owned(),
        Detail::Drain(drained) => of_drain(drained),
        Detail::Rollout(change) => of_rollout(change),
        Detail::Scale(scaled) => format!(
            "scaled from {} to {} replicas: {}",
            scaled.from,
            scaled.to,
            printable(&scaled.why)
        ),
        Detail::Ready(change) => format!("not ready: {}", printable(&change.why)),
        Detail::HostPressure(pressure) => host::of_pressure(pressure),
        Detail::Restart(plan) => of_restart(plan, reason),
        Detail::Reload(reloaded) => of_reload(reloaded),
        Detail::FileChange(change) => format!("{} has changed", printable(&change.path)),
        Detail::Breaker(change) => of_breaker(change),
        Detail::Alert(alert) => host::of_alert(alert),
        Detail::Drift(found) => host::of_drift(found),
        Detail::Conflict(conflict) => host::of_conflict(conflict),
        Detail::Config(change) => of_config(change),
        Detail::Lost(lost) => of_lost(lost),
        Detail::Degraded(degraded) => format!(
            "degraded: {}: {}",
            printable(&degraded.what),
            printable(&degraded.why)
        ),
        Detail::Agent(change) => match change.state {
            AgentState::Started => "the agent has started".to_owned(),
            AgentState::TookOver => "the agent has taken over from the one before it".to_owned(),
            AgentState::HistoryResumed => "the history is written again".to_owned(),
            AgentState::Leaving => "the agent goes, and its workloads run on".to_owned(),
            AgentState::Stopping => "the agent ends, and its workloads with it".to_owned(),
        },
        Detail::Unknown(unknown) => {
            printable(&format!("{} {}", unknown.kind, unknown.details.get()))
        }
    }
}

/// Returns a cause in brackets, or nothing.
fn in_brackets(reason: Option<Cause>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

fn of_start(start: &Start) -> String {
    match start {
        Start::Started { pid } => format!("started (pid {pid})"),
        Start::Failed(error) => {
            let errno = error.errno.map(|errno| format!(" (errno {errno})"));
            format!(
                "failed to {}: {}{}",
                printable(&error.stage),
                printable(&error.error),
                errno.unwrap_or_default()
            )
        }
    }
}

fn of_stop(stop: &Stop, reason: Option<Cause>) -> String {
    let reason = in_brackets(reason);
    if stop.kill {
        return format!("killed{reason}");
    }
    format!(
        "stopping{reason}: {}, then {} of grace",
        printable(&stop.signal),
        human_duration(stop.grace)
    )
}

/// Returns the end of a main process in words.
#[must_use]
pub fn of_exit(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("killed by {}", signal_name(signal)),
        (None, None) => "ended while no agent was there to see how".to_owned(),
    }
}

fn of_restart(plan: &RestartPlan, reason: Option<Cause>) -> String {
    if !plan.carried_out {
        return "would be restarted (mode: observe)".to_owned();
    }
    if plan.attempt == 0 {
        return format!("starting again{}", in_brackets(reason));
    }
    let when = match plan.delay.is_zero() {
        true => "now".to_owned(),
        false => format!("in {}", human_duration(plan.delay)),
    };
    let first = match plan.strategy {
        StrategyName::Restart => "",
        StrategyName::Reset => ", after its reset paths are cleared",
        StrategyName::Recreate => ", in a new cgroup with a new log",
        StrategyName::Run => ", after the strategy's command",
    };
    format!(
        "restarting {when}{}, attempt {}{first}",
        in_brackets(reason),
        plan.attempt
    )
}

fn of_drain(drained: &Drained) -> String {
    let took = human_duration(drained.took);
    let Drained {
        connections, left, ..
    } = drained;
    match (&drained.unknown, left) {
        (Some(why), _) => format!(
            "waited {took} for the connections at its ports, which are not known: {}",
            printable(why)
        ),
        (None, 0) => format!("drained in {took}: {connections} connections have ended"),
        (None, _) => {
            format!("{left} of {connections} connections at its ports outlived the drain of {took}")
        }
    }
}

/// The most threads that a sentence names.
const HUNG: usize = 3;

fn of_hang(hang: &Hang) -> String {
    let shown = hang.threads.iter().take(HUNG).map(|thread| {
        let mut text = format!(
            "{} (pid {}, tid {}) in state {}",
            printable(&thread.name),
            thread.pid,
            thread.tid,
            printable(&thread.state)
        );
        if let Some(call) = &thread.call {
            text.push_str(&format!(", in {}", printable(call)));
        }
        if let Some(function) = thread.kernel_stack.first() {
            text.push_str(&format!(" ({})", printable(function)));
        }
        if let Some(at) = &thread.at {
            text.push_str(&format!(", at {}", printable(at)));
        }
        text
    });
    let shown: Vec<String> = shown.collect();
    let more = match hang.threads.len().saturating_sub(HUNG) {
        0 => String::new(),
        more => format!("; and {more} threads more"),
    };
    format!("hangs while its peers pass: {}{more}", shown.join("; "))
}

fn of_rollout(change: &RolloutChange) -> String {
    let what = match change.state {
        RolloutState::Began => "the rollout has begun",
        RolloutState::Paused => "the rollout is paused",
        RolloutState::Resumed => "the rollout goes on",
        RolloutState::Failed => "the rollout has failed",
        RolloutState::Undone => "the rollout is undone",
        RolloutState::Completed => "the rollout is complete",
        RolloutState::RolledBack => "the version before runs again",
    };
    let RolloutChange { ready, wanted, .. } = change;
    format!(
        "{what}, {ready} of {wanted} replicas ready: {}",
        printable(&change.why)
    )
}

fn of_reload(reloaded: &Reloaded) -> String {
    match (&reloaded.error, &reloaded.signal) {
        (Some(error), _) => format!("failed to reload: {}", printable(error)),
        (None, Some(signal)) => format!("reloaded by {}", printable(signal)),
        (None, None) => "reloaded by its command".to_owned(),
    }
}

fn of_breaker(change: &BreakerChange) -> String {
    match change.state {
        BreakerState::Open => format!(
            "too many restarts: the breaker is open, one trial in {}",
            human_duration(change.cooldown)
        ),
        BreakerState::HalfOpen => "the breaker is half open: one trial".to_owned(),
        BreakerState::Closed => "the trial passed: the breaker is closed".to_owned(),
    }
}

fn of_lost(lost: &Lost) -> String {
    let records = lost.records;
    match lost.of {
        LostFrom::History => format!(
            "{records} events are missing from the history: it could not be written for too long"
        ),
        LostFrom::Ebpf => format!("{records} eBPF events were lost; the counters still count"),
    }
}

fn of_config(change: &ConfigChange) -> String {
    match change {
        ConfigChange::Added => "added".to_owned(),
        ConfigChange::Unmanaged => "named by no manifest any more; it runs on unmanaged".to_owned(),
        ConfigChange::Removed => "removed".to_owned(),
        ConfigChange::LimitsRefused(why) => {
            format!("failed to {}; the old limits hold", printable(why))
        }
        ConfigChange::ManifestRefused(why) => {
            let first = why.lines().next().unwrap_or_default();
            format!(
                "the manifest was refused, and nothing was changed: {}",
                printable(first)
            )
        }
        ConfigChange::Limits(changes) => {
            let shown = changes.iter().map(|change| {
                let (from, to) = (printable(&change.from), printable(&change.to));
                format!("{} {from} → {to}", printable(&change.file))
            });
            format!("in effect: {}", joined(shown))
        }
        ConfigChange::Changed(changes) => {
            format!("changed: {}", joined(changes.iter().map(of_setting)))
        }
    }
}

/// Returns one setting of a plan or of a change in words.
#[must_use]
pub fn of_setting(change: &SettingChange) -> String {
    let text = |value: &Option<String>| printable(value.as_deref().unwrap_or("default"));
    format!(
        "{} {} → {} ({})",
        printable(&change.setting),
        text(&change.from),
        text(&change.to),
        change.effect
    )
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
