//! `events` and `why`: the history, one line an event, and the causes behind the last.

use super::format::Output;
use super::{Fault, client, escaped, sentence};
use crate::kernel::clock;
use crate::settings::Settings;
use enforcer_model::views::Inspection;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

/// Which events are asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// From then on: a time, or how long ago, like 10m or 2h
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Until then
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Of this workload only
    #[arg(long)]
    workload: Option<String>,
    /// Of this kind only
    #[arg(long)]
    kind: Option<String>,
    /// Only the last so many
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn events(
    settings: &Settings,
    wanted: &Wanted,
    output: Output,
    color: bool,
) -> Result<(), Fault> {
    let mut query = String::new();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let separator = if query.is_empty() { '?' } else { '&' };
            // Writing into a string can't fail.
            let _ = write!(query, "{separator}{key}={}", escaped(&value));
        }
    };
    add("since", wanted.since.as_deref().map(moment).transpose()?);
    add("until", wanted.until.as_deref().map(moment).transpose()?);
    add("workload", wanted.workload.clone());
    add("kind", wanted.kind.clone());
    // What a follower asks again is everything since.
    let lasting = query.clone();
    if let Some(last) = wanted.last {
        let separator = if query.is_empty() { '?' } else { '&' };
        let _ = write!(query, "{separator}last={last}");
    }
    let print = |event: &Value| {
        if !output.print_one(event)? {
            println!("{}", line(event, color));
        }
        Ok(())
    };
    if wanted.follow {
        return follow(settings, (&query, &lasting), print);
    }
    let answer = client::call(settings, "GET", &format!("/v1/events{query}"), None)?;
    answer.as_array().into_iter().flatten().try_for_each(print)
}

/// For as long as somebody looks, over the agents that come and go: the next one is asked
/// for what came after the last event that was told.
fn follow(
    settings: &Settings,
    (first, lasting): (&str, &str),
    print: impl Fn(&Value) -> Result<(), Fault>,
) -> Result<(), Fault> {
    /// Between two looks for an agent.
    const PAUSE: Duration = Duration::from_secs(1);
    let mut last: Option<u64> = None;
    let mut waiting = false;
    loop {
        let separator = if lasting.is_empty() { '?' } else { '&' };
        let query = last.map_or_else(
            || first.to_owned(),
            |last| format!("{lasting}{separator}after={last}"),
        );
        let route = format!("/v1/events/stream{query}");
        let mut unprinted = false;
        let mut pending = Vec::new();
        let streamed = client::stream(settings, &route, |bytes| {
            waiting = false;
            pending.extend_from_slice(bytes);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = pending.drain(..=end).collect();
                if let Ok(event) = serde_json::from_slice::<Value>(&text) {
                    last = event["seq"].as_u64().max(last);
                    print(&event).inspect_err(|_| unprinted = true)?;
                }
            }
            Ok(())
        });
        match streamed {
            // It was there, and goes; or it hasn't come yet.
            Ok(()) | Err(Fault::Failed(_) | Fault::NoAgent(_)) if last.is_some() && !unprinted => {}
            other => return other,
        }
        if !std::mem::replace(&mut waiting, true) {
            eprintln!("note: the agent has gone; what comes is told when the next one answers");
        }
        clock::pause(PAUSE);
    }
}

/// A time as it is written in RFC 3339, or how long ago that was.
fn moment(text: &str) -> Result<String, Fault> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.to_string());
    }
    let ago = enforcer_core::manifest::parse_duration(text).map_err(|_| {
        Fault::Usage(format!(
            "`{text}` is no time: expected one like 2026-01-31T10:00:00Z, or how long ago, like 10m or 2h"
        ))
    })?;
    Ok((clock::wall_now() - ago).to_string())
}

fn line(event: &Value, color: bool) -> String {
    let time = event["time"].as_str().unwrap_or("");
    // Milliseconds are enough for a person.
    let time = time.get(..23).unwrap_or(time);
    let told = sentence::line(std::slice::from_ref(event), color);
    format!("{time}  {told}")
}

/// The chain of causes, the first cause first.
pub(super) fn why(
    settings: &Settings,
    name: &str,
    output: Output,
    color: bool,
) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}", escaped(name));
    // That there is such a workload, and how it is now.
    let view = client::call(settings, "GET", &route, None);
    let answer = client::call(settings, "GET", &format!("{route}/why"), None)?;
    let chain = answer.as_array().cloned().unwrap_or_default();
    if chain.is_empty() {
        return Err(view.err().unwrap_or_else(|| {
            Fault::Failed(format!("nothing is known of {name} yet: it has no history"))
        }));
    }
    if output.print(&answer)? {
        return Ok(());
    }
    for (depth, event) in chain.iter().rev().enumerate() {
        let arrow = if depth == 0 { "" } else { "└─ " };
        println!(
            "{:indent$}{arrow}{}",
            "",
            line(event, color),
            indent = depth.saturating_sub(1) * 3
        );
    }
    if let Ok(view) = view {
        let found: Inspection = client::read(&view)?;
        println!(
            "now: {} ({})",
            found.workload.state,
            sentence::plain(&found.workload.reason)
        );
        if let Some(next) = super::prospect::next(&found) {
            println!("next: {next}");
        }
    }
    Ok(())
}
