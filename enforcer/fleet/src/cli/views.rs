//! The commands that show the fleet.

use super::{Fleet, Output, failed, say};
use enforcer_client::Fault;
use enforcer_fleet_core::Time;
use enforcer_fleet_core::fleet::WorkloadName;
use enforcer_fleet_core::record::Key;
use enforcer_fleet_core::report;
use enforcer_fleet_core::store::{Change, Keys};
use enforcer_fleet_core::view::View;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

/// The pause after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// The exit code of `status` if something is not as it should be.
const NOT_WELL: u8 = 3;

fn print<const N: usize>(rows: &[[String; N]], output: Output) {
    match output {
        Output::Table => say(report::table(rows).trim_end()),
        Output::Json => {
            let mut rows = rows.iter();
            let headings: Vec<String> = rows
                .next()
                .into_iter()
                .flatten()
                .map(|heading| heading.to_lowercase())
                .collect();
            let objects: Vec<Value> = rows
                .map(|row| {
                    let cells = headings
                        .iter()
                        .cloned()
                        .zip(row.iter().map(|cell| json!(cell)));
                    Value::Object(cells.collect::<Map<String, Value>>())
                })
                .collect();
            say(json!(objects));
        }
    }
}

pub(super) async fn ps(fleet: &Fleet, output: Output) -> Result<(), Fault> {
    let (view, _) = fleet.all().await?;
    print(&report::replicas(&view, Fleet::now()), output);
    Ok(())
}

pub(super) async fn nodes(fleet: &Fleet, output: Output) -> Result<(), Fault> {
    let (view, _) = fleet.all().await?;
    print(&report::nodes(&view, Fleet::now()), output);
    Ok(())
}

pub(super) async fn why(fleet: &Fleet, workload: &WorkloadName) -> Result<(), Fault> {
    let (view, _) = fleet.all().await?;
    let lines = report::why(&view, workload, Fleet::now());
    let missing = || Fault::NoSuchWorkload(format!("the fleet has no workload `{workload}`"));
    for line in lines.ok_or_else(missing)? {
        say(line);
    }
    Ok(())
}

pub(super) async fn status(fleet: &Fleet, output: Output) -> Result<ExitCode, Fault> {
    let (view, got) = fleet.all().await?;
    let candidates = got.entries.iter().filter(|entry| {
        let key = entry.key.strip_prefix(fleet.prefix()).and_then(Key::parse);
        matches!(key, Some(Key::Election(_)))
    });
    let summary = report::summary(&view, candidates.count(), Fleet::now());
    match output {
        Output::Table => {
            for line in &summary.lines {
                say(line);
            }
        }
        Output::Json => say(json!({ "well": summary.is_well, "lines": summary.lines })),
    }
    Ok(match summary.is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NOT_WELL),
    })
}

/// The changes of places that are known, each with its time.
fn known(view: &View) -> BTreeSet<(Time, String)> {
    let all = view.history.iter().flat_map(|(replica, kept)| {
        let changes = kept.record.changes.iter();
        changes.map(move |(at, change)| (*at, format!("{replica}: {}", report::told(change))))
    });
    all.collect()
}

fn print_event(at: Time, text: &str) {
    let time = Timestamp::UNIX_EPOCH + at.0;
    let seconds = time.as_second();
    let time = Timestamp::from_second(seconds).unwrap_or(time);
    say(format_args!("{time}  {text}"));
}

pub(super) async fn events(fleet: &Fleet, follow: bool) -> Result<(), Fault> {
    let mut told = BTreeSet::new();
    loop {
        let error = match follow_events(fleet, &mut told, follow).await {
            Ok(()) => return Ok(()),
            Err(fault) if !follow => return Err(fault),
            Err(fault) => fault,
        };
        // It lists again what it has missed.
        eprintln!("{}", error.text());
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow_events(
    fleet: &Fleet,
    told: &mut BTreeSet<(Time, String)>,
    follow: bool,
) -> Result<(), Fault> {
    let (mut view, got) = fleet.all().await?;
    let mut tell = |view: &View| {
        let all = known(view);
        for (at, text) in all.difference(told) {
            print_event(*at, text);
        }
        *told = all;
    };
    tell(&view);
    if !follow {
        return Ok(());
    }
    let keys = Keys::Prefix(format!("{}history/", fleet.prefix()));
    let watch = fleet.client.watch(&keys, got.revision.next()).await;
    let mut watch = watch.map_err(|error| failed(&error))?;
    loop {
        let changes = watch.next().await.map_err(|error| failed(&error))?;
        // The history of a replica that is gone stays told.
        let puts = changes.iter().filter(|one| matches!(one, Change::Put(_)));
        for change in puts {
            view.take(fleet.prefix(), change);
        }
        tell(&view);
    }
}
