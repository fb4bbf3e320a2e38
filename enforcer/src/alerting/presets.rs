//! Messages in the form that a receiver expects.

use enforcer_core::event::AlertState;
use enforcer_core::spec::{Preset, Severity};
use enforcer_model::requests::AlertMessage;
use hyper::body::Bytes;
use serde_json::json;
use std::collections::BTreeMap;

/// Discord takes 2000 characters, and PagerDuty 1024. Slack cuts a message at 40,000.
const LONGEST: usize = 1000;

/// The body of a message, and the headers that belong to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) body: Bytes,
    pub(super) headers: BTreeMap<String, String>,
}

/// Returns a message as a receiver wants it. Without a preset, it is our own JSON.
pub(super) fn letter(
    preset: Option<Preset>,
    message: &AlertMessage,
    routing_key: Option<&str>,
) -> Letter {
    let json = |value: serde_json::Value| Letter {
        body: Bytes::from(value.to_string()),
        headers: BTreeMap::new(),
    };
    match preset {
        None => Letter {
            body: Bytes::from(super::as_json(message)),
            headers: BTreeMap::new(),
        },
        Some(Preset::Slack) => json(json!({ "text": escaped(&whole(message)) })),
        // No one is notified because a text has an @ in it.
        Some(Preset::Discord) => json(json!({
            "content": whole(message),
            "allowed_mentions": { "parse": [] },
        })),
        Some(Preset::Ntfy) => ntfy(message),
        Some(Preset::PagerDuty) => json(pagerduty(message, routing_key.unwrap_or_default())),
    }
}

/// Returns a message in one line: "CRITICAL db1/web: memory 91% of its limit (rule memory)".
fn whole(message: &AlertMessage) -> String {
    let state = match (message.state, message.severity) {
        (AlertState::Resolved, _) => "RESOLVED",
        (AlertState::Firing, Severity::Critical) => "CRITICAL",
        (AlertState::Firing, Severity::Warning) => "WARNING",
    };
    let text: String = message.text.chars().take(LONGEST).collect();
    format!("{state} {}: {text} (rule {})", place(message), message.rule)
}

/// Returns the host, and the workload if there is one.
fn place(message: &AlertMessage) -> String {
    match &message.workload {
        Some(workload) => format!("{}/{workload}", message.host),
        None => message.host.clone(),
    }
}

/// Escapes the three characters that Slack reads as markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Returns a message with the headers of ntfy: its title, and a priority from 1 to 5.
fn ntfy(message: &AlertMessage) -> Letter {
    let (priority, tag) = match (message.state, message.severity) {
        (AlertState::Resolved, _) => ("3", "white_check_mark"),
        (AlertState::Firing, Severity::Critical) => ("5", "rotating_light"),
        (AlertState::Firing, Severity::Warning) => ("4", "warning"),
    };
    let title = format!("{} {}", place(message), message.state);
    let headers = [
        ("title", title.as_str()),
        ("priority", priority),
        ("tags", tag),
        ("content-type", "text/plain; charset=utf-8"),
    ];
    let text: String = message.text.chars().take(LONGEST).collect();
    Letter {
        body: Bytes::from(format!("{text} (rule {})", message.rule)),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    }
}

fn pagerduty(message: &AlertMessage, routing_key: &str) -> serde_json::Value {
    let action = match message.state {
        AlertState::Firing => "trigger",
        AlertState::Resolved => "resolve",
    };
    json!({
        "routing_key": routing_key,
        "event_action": action,
        "dedup_key": message.id,
        "payload": {
            "summary": whole(message),
            "source": message.host,
            "severity": message.severity,
            "timestamp": message.time,
            "component": message.workload,
            "group": message.rule,
            "custom_details": message,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::event::Seq;
    use enforcer_model::ReplicaId;
    use expect_test::{Expect, expect};
    use std::time::Duration;

    fn check(preset: Option<Preset>, state: AlertState, expected: &Expect) {
        let message = AlertMessage {
            schema: 1,
            id: "db1/7".to_owned(),
            seq: Seq(9),
            host: "db1".to_owned(),
            time: jiff::Timestamp::UNIX_EPOCH,
            boot_id: "b".into(),
            rule: "memory".to_owned(),
            state,
            repeated: false,
            severity: Severity::Critical,
            workload: ReplicaId::parse("web"),
            text: "memory use is 91% <&> @here".to_owned(),
            stood: Duration::from_secs(120),
        };
        let letter = letter(preset, &message, Some("KEY"));
        let body = String::from_utf8_lossy(&letter.body).into_owned();
        let headers = letter
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\n"));
        expected.assert_eq(&(headers.collect::<String>() + &body));
    }

    #[test]
    fn each_receiver_gets_its_own_form() {
        check(
            Some(Preset::Slack),
            AlertState::Firing,
            &expect![[
                r#"{"text":"CRITICAL db1/web: memory use is 91% &lt;&amp;&gt; @here (rule memory)"}"#
            ]],
        );
        check(
            Some(Preset::Discord),
            AlertState::Resolved,
            &expect![[
                r#"{"allowed_mentions":{"parse":[]},"content":"RESOLVED db1/web: memory use is 91% <&> @here (rule memory)"}"#
            ]],
        );
        check(
            Some(Preset::Ntfy),
            AlertState::Firing,
            &expect![[r#"
            content-type: text/plain; charset=utf-8
            priority: 5
            tags: rotating_light
            title: db1/web firing
            memory use is 91% <&> @here (rule memory)"#]],
        );
        check(
            Some(Preset::PagerDuty),
            AlertState::Resolved,
            &expect![[
                r#"{"dedup_key":"db1/7","event_action":"resolve","payload":{"component":"web","custom_details":{"boot_id":"b","host":"db1","id":"db1/7","repeated":false,"rule":"memory","schema":1,"seq":9,"severity":"critical","state":"resolved","stood_seconds":120.0,"text":"memory use is 91% <&> @here","time":"1970-01-01T00:00:00Z","workload":"web"},"group":"memory","severity":"critical","source":"db1","summary":"RESOLVED db1/web: memory use is 91% <&> @here (rule memory)","timestamp":"1970-01-01T00:00:00Z"},"routing_key":"KEY"}"#
            ]],
        );
        check(
            None,
            AlertState::Firing,
            &expect![[
                r#"{"schema":1,"id":"db1/7","seq":9,"host":"db1","time":"1970-01-01T00:00:00Z","boot_id":"b","rule":"memory","state":"firing","repeated":false,"severity":"critical","workload":"web","text":"memory use is 91% <&> @here","stood_seconds":120.0}"#
            ]],
        );
    }
}
