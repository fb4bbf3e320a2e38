//! Which events are trouble that a person may want to be told of, and what it is in a few
//! words. What gets better, what a person asked for and what was only considered is none.

use super::{BreakerState, Cause, Detail, HostPressure, Transition};
use crate::drift::Drifted;
use crate::oom::{Incident, Scope};
use crate::threshold::Level;
use crate::units::human_duration;

impl Transition {
    /// `None` where it is none, and for kinds that no rule of `alerts` is about.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &self.detail {
            Detail::OomKill(incident) => Some(oom_kill(incident)),
            Detail::CpuLoop(found) => Some(format!(
                "{} (tid {}) has used {} of CPU without a sleep: {}",
                found.command,
                found.thread.tid,
                human_duration(found.cpu),
                found.verdict.word()
            )),
            Detail::Pressure(pressure) if pressure.level > Level::Normal => Some(format!(
                "{} use is {}: {} % of its limit",
                pressure.resource, pressure.level, pressure.used_percent
            )),
            Detail::HostPressure(pressure) if pressure.carried_out => host_pressure(pressure),
            Detail::Restart(plan) if plan.carried_out => {
                let cause = self.reason.filter(|cause| is_automatic(*cause))?;
                Some(match plan.delay.as_secs() {
                    0 => format!("restarted, for {cause}"),
                    _ => format!("restarting in {}, for {cause}", human_duration(plan.delay)),
                })
            }
            Detail::Breaker(change) if change.state == BreakerState::Open => Some(format!(
                "too many restarts: the breaker is open for {}",
                human_duration(change.cooldown)
            )),
            Detail::Drift(found) => Some(format!(
                "somebody else changed {}; put right",
                names(&found.drifts)
            )),
            Detail::Conflict { drifts, .. } => Some(format!(
                "somebody else keeps changing {}; left as it is",
                names(drifts)
            )),
            Detail::Lost { records, of } => Some(format!("{records} events of {of} are lost")),
            Detail::Degraded { what, why } => Some(format!("{what}: {why}")),
            Detail::Pressure(_)
            | Detail::HostPressure(_)
            | Detail::Restart(_)
            | Detail::Breaker(_)
            | Detail::Start { .. }
            | Detail::StartFailed(_)
            | Detail::Adopt { .. }
            | Detail::Stop { .. }
            | Detail::Exit { .. }
            | Detail::Throttle(_)
            | Detail::Release { .. }
            | Detail::Health(_)
            | Detail::Ready(_)
            | Detail::Alert(_)
            | Detail::Config(_)
            | Detail::Agent { .. } => None,
        }
    }
}

/// Returns whether enforcer acts by itself, without a request.
fn is_automatic(cause: Cause) -> bool {
    cause.is_failure() || matches!(cause, Cause::HostPressure | Cause::Drift)
}

/// Who had to step back is trouble whatever the level is: waiting alone may be enough.
fn host_pressure(pressure: &HostPressure) -> Option<String> {
    let what = match pressure.done {
        "released" | "started again" => return None,
        "demoted" => "it was demoted: ",
        "stopped" => "it was stopped: ",
        "failed" => "the command for it failed: ",
        _ if pressure.level == Level::Normal => return None,
        _ => "",
    };
    let used = pressure.used_percent.map(|used| format!(", {used} % used"));
    let used = used.unwrap_or_default();
    let resource = pressure.resource;
    Some(match pressure.level {
        Level::Normal => format!("{what}the host waits for {resource}{used}"),
        level @ (Level::Warn | Level::Critical) => {
            format!("{what}the host's {resource} is {level}{used}")
        }
    })
}

fn oom_kill(incident: &Incident) -> String {
    let who = match incident.victims.as_slice() {
        [] => String::new(),
        [only] => format!(" of {} (pid {})", only.command, only.pid),
        [first, rest @ ..] => {
            let more = rest.len();
            format!(" of {} (pid {}) and {more} more", first.command, first.pid)
        }
    };
    let limit = incident.limit_bytes;
    let limit = limit.map_or_else(|| "limit".to_owned(), |bytes| format!("limit of {bytes}"));
    let whose = match &incident.scope {
        Scope::Own => format!("at its {limit}"),
        Scope::Descendant(Some(cgroup)) | Scope::Ancestor(cgroup) => {
            format!("as {cgroup} met its {limit}")
        }
        Scope::Descendant(None) => format!("as a cgroup of its own met its {limit}"),
        Scope::Host => "as the host ran out of memory".to_owned(),
    };
    format!("OOM kill{who} {whose}")
}

fn names(drifts: &[Drifted]) -> String {
    let names: Vec<&str> = drifts.iter().map(|drift| &*drift.what).collect();
    match names.as_slice() {
        [] => "its limits".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(done: &'static str, level: Level) -> Option<String> {
        let pressure = HostPressure {
            resource: "memory",
            level,
            used_percent: Some(91),
            done,
            error: None,
            carried_out: true,
        };
        host_pressure(&pressure)
    }

    #[test]
    fn who_steps_back_is_trouble_at_any_level() {
        let check = |done, level, expected: Option<&str>| {
            assert_eq!(told(done, level).as_deref(), expected, "{done}");
        };
        let waits = "it was stopped: the host waits for memory, 91 % used";
        check("stopped", Level::Normal, Some(waits));
        let full = "the host's memory is critical, 91 % used";
        check("warned", Level::Critical, Some(full));
        check("warned", Level::Normal, None);
        check("released", Level::Critical, None);
        check("started again", Level::Warn, None);
    }
}
