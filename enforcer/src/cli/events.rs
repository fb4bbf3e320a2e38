//! `events` and `why`: the history, one line an event, and the causes behind the last.

use super::format::Output;
use super::{client, escaped};
use crate::fault::Fault;
use crate::sentence;
use crate::settings::Settings;
use enforcer_kernel::clock;
use enforcer_model::Record;
use enforcer_model::ids::Seq;
use enforcer_model::views::{Inspection, Replicas};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt::Write as _;
use std::time::Duration;

/// The choice of events.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Events of this workload
    #[arg(value_name = "WORKLOAD", conflicts_with = "workload")]
    of: Option<String>,
    /// Events from this time on: a time, or an age such as 10m or 2h
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Events before this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// The same
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,
    /// Events of this kind
    #[arg(long)]
    kind: Option<String>,
    /// The last N events
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// Go on with new events
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
    let workload = wanted.of.as_ref().or(wanted.workload.as_ref());
    add("workload", workload.cloned());
    add("kind", wanted.kind.clone());
    // A follower that connects again asks for everything since its last event.
    let lasting = query.clone();
    if let Some(last) = wanted.last {
        let separator = if query.is_empty() { '?' } else { '&' };
        let _ = write!(query, "{separator}last={last}");
    }
    let print = |event: &RawValue| {
        if !output.print_one(&event)? {
            let event: Record = client::read(event.get().as_bytes())?;
            println!("{}", line(&event, color));
        }
        Ok(())
    };
    if wanted.follow {
        return follow(settings, (&query, &lasting), print);
    }
    let answer = client::get(settings, &format!("/v1/events{query}"))?;
    let events: Vec<Box<RawValue>> = answer.read()?;
    events.iter().try_for_each(|event| print(event))
}

/// The number of an event of any version.
#[derive(Deserialize)]
struct Numbered {
    seq: Seq,
}

/// Prints events until the user ends it. When an agent goes, the next one is asked for the events
/// after the last one that was printed.
fn follow(
    settings: &Settings,
    (first, lasting): (&str, &str),
    print: impl Fn(&RawValue) -> Result<(), Fault>,
) -> Result<(), Fault> {
    /// The time between two attempts to reach an agent.
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
                if let Ok(event) = serde_json::from_slice::<&RawValue>(&text) {
                    let numbered = client::read::<Numbered>(event.get().as_bytes());
                    last = numbered.ok().map(|event| event.seq.0).max(last);
                    print(event).inspect_err(|_| unprinted = true)?;
                }
            }
            Ok(())
        });
        match streamed {
            // The agent is ending, or the next one has not started yet.
            Ok(()) | Err(Fault::Failed(_) | Fault::NoAgent(_)) if last.is_some() && !unprinted => {}
            other => return other,
        }
        if !std::mem::replace(&mut waiting, true) {
            eprintln!("note: the agent has ended; events go on when the next one answers");
        }
        clock::pause(PAUSE);
    }
}

/// Reads a time in RFC 3339, or an age.
fn moment(text: &str) -> Result<String, Fault> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.to_string());
    }
    let ago = enforcer_manifest::parse_duration(text).map_err(|_| {
        Fault::Usage(format!(
            "`{text}` is no time: expected one like 2026-01-31T10:00:00Z, or how long ago, like 10m or 2h"
        ))
    })?;
    Ok((clock::wall_now() - ago).to_string())
}

fn line(event: &Record, color: bool) -> String {
    // Milliseconds are enough for a person.
    let time = event.time.strftime("%Y-%m-%dT%H:%M:%S%.3f");
    format!("{time}  {}", sentence::line(&[event], color))
}

/// Prints the chain of causes, the first cause first.
pub(super) fn why(
    settings: &Settings,
    name: &str,
    output: Output,
    color: bool,
) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}", escaped(name));
    // The workload may be gone, and have a history all the same.
    let now = client::get(settings, &route);
    let answer = client::get(settings, &format!("{route}/why"))?;
    let chain: Vec<Record> = answer.read()?;
    if chain.is_empty() {
        return Err(now.err().unwrap_or_else(|| {
            Fault::Failed(format!("nothing is known of {name} yet: it has no history"))
        }));
    }
    if output.print_answer(&answer, None)? {
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
    let Ok(now) = now else {
        return Ok(());
    };
    if let Ok(found) = now.read::<Replicas>() {
        println!("now: {}", super::replicas::summary(&found));
    } else {
        let found: Inspection = now.read()?;
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
