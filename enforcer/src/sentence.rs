//! One line for events that belong together, for the live lines of an agent and for commands.

use enforcer_model::Record;
use enforcer_model::detail::{Detail, Kind};
pub(crate) use enforcer_model::sentence::{of_record, of_setting};
pub(crate) use enforcer_model::text::printable as plain;

/// Returns one line for events of one workload.
pub(crate) fn line(events: &[&Record], color: bool) -> String {
    let has_kill = events
        .iter()
        .any(|event| matches!(event.detail, Detail::OomKill(_)));
    // The exit of a process that was OOM killed says nothing new beside the kill.
    let repeats =
        |event: &Record| matches!(&event.detail, Detail::Exit(exit) if has_kill && exit.oom_killed);
    let parts = events.iter().filter(|event| !repeats(event));
    let parts: Vec<String> = parts.map(|event| of_record(event)).collect();
    let text = parts.join("; ");
    let first = events.first();
    let name = first.and_then(|event| event.workload.as_ref());
    let name = name.map_or_else(|| "enforcer".to_owned(), ToString::to_string);
    if !color {
        return format!("{name}: {text}");
    }
    let style = match first.and_then(|event| event.detail.known_kind()) {
        Some(
            Kind::OomKill
            | Kind::CpuLoop
            | Kind::Breaker
            | Kind::Lost
            | Kind::Degraded
            | Kind::HostPressure,
        ) => "\u{1b}[31m",
        Some(Kind::Exit | Kind::Restart | Kind::Throttle | Kind::Pressure | Kind::Health) => {
            "\u{1b}[33m"
        }
        _ => "",
    };
    format!("\u{1b}[1m{name}\u{1b}[0m: {style}{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::line;
    use enforcer_model::Record;

    fn event(kind: &str, reason: &str, details: &str) -> Record {
        let text = format!(
            r#"{{"seq":1,"time":"2026-01-31T10:00:00Z","boot_id":"b","workload":"web","instance":1,"kind":"{kind}","reason":{reason},"caused_by":null,"details":{details}}}"#
        );
        serde_json::from_str(&text).expect("an event")
    }

    #[test]
    fn a_kill_and_its_answer_are_one_line() {
        let kill = event(
            "oom_kill",
            "null",
            r#"{"victims":[{"pid":812,"command":"python3","rss_bytes":0,"anon_bytes":33500000,"file_bytes":0,"kernel_bytes":54432,"swap_bytes":0}],"asked_by":null,"scope":"own","limit_bytes":33554432,"peak_bytes":null,"group":false,"source":"ebpf","counter_before":0,"counter_after":1}"#,
        );
        let exit = event(
            "exit",
            "null",
            r#"{"code":null,"signal":9,"oom_killed":true}"#,
        );
        let restart = event(
            "restart",
            "\"oom_kill\"",
            r#"{"attempt":1,"delay_seconds":0.0,"carried_out":true,"strategy":"restart","rate_limited":false,"budget_used":1,"budget":5}"#,
        );
        let expected = "web: OOM kill: python3 (pid 812) used 32.0M of its 32M limit; \
                        restarting now (oom_kill), attempt 1";
        assert_eq!(line(&[&kill, &exit, &restart], false), expected);
    }

    #[test]
    fn an_event_of_another_version_cannot_control_the_terminal() {
        let event = event("omen", "null", r#"{"text":"\u001b[2J"}"#);
        assert_eq!(line(&[&event], false), r#"web: omen {"text":"\u001b[2J"}"#);
    }
}
