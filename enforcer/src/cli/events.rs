//! `events`: the history, one line an event.

use super::{Fault, client, sentence};
use crate::settings::Settings;
use serde_json::Value;

pub(super) fn events(
    settings: &Settings,
    workload: Option<&str>,
    kind: Option<&str>,
    json: bool,
    color: bool,
) -> Result<(), Fault> {
    let answer = client::call(settings, "GET", "/v1/events", None)?;
    for event in answer.as_array().into_iter().flatten() {
        let wanted = |key: &str, value: Option<&str>| {
            value.is_none_or(|value| event[key].as_str() == Some(value))
        };
        if !wanted("workload", workload) || !wanted("kind", kind) {
            continue;
        }
        if json {
            println!("{event}");
        } else {
            print_line(event, color);
        }
    }
    Ok(())
}

fn print_line(event: &Value, color: bool) {
    let time = event["time"].as_str().unwrap_or("");
    // Milliseconds are enough for a person.
    let time = time.get(..23).unwrap_or(time);
    println!(
        "{time}  {}",
        sentence::line(std::slice::from_ref(event), color)
    );
}
