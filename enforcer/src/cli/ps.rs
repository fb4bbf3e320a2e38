//! `ps`: the workloads as a table.

use super::client;
use super::format::{Format, Output};
use crate::fault::Fault;
use crate::settings::Settings;
use enforcer_core::units::{Bytes, human_duration};
use enforcer_kernel::clock;
use enforcer_model::ids::LastExit;
use enforcer_model::views::{WorkloadView, Workloads};
use jiff::Timestamp;
use std::time::Duration;

pub(super) fn ps(settings: &Settings, output: Output) -> Result<(), Fault> {
    let answer = client::get(settings, "/v1/workloads")?;
    if output.format() == Format::Json {
        return output.print_answer(&answer, None).map(drop);
    }
    let Workloads { workloads, .. } = answer.read()?;
    let names = workloads.iter().map(|workload| workload.name.to_string());
    let names: Vec<String> = names.collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if output.print_answer(&answer, Some(&names))? {
        return Ok(());
    }
    if output.format() == Format::Wide {
        let mut rows = vec![HEADER.map(str::to_owned).to_vec()];
        rows[0].extend(WIDER.map(str::to_owned));
        rows.extend(workloads.iter().map(|workload| {
            let mut row = row(workload).to_vec();
            row.extend(wider(workload));
            row
        }));
        print!("{}", aligned(&rows));
        return Ok(());
    }
    print!("{}", listed(&workloads));
    Ok(())
}

/// Returns workloads as a table.
pub(super) fn listed(workloads: &[WorkloadView]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(workloads.iter().map(row));
    table(&rows)
}

const HEADER: [&str; 11] = [
    "NAME",
    "STATE",
    "HEALTH",
    "PID",
    "MEMORY",
    "CPU",
    "THROTTLE",
    "RESTARTS",
    "OOM KILLS",
    "SINCE",
    "REASON",
];

/// The further columns of `-o wide`.
const WIDER: [&str; 4] = ["READY", "SWAP", "LAST EXIT", "CGROUP"];

fn wider(workload: &WorkloadView) -> [String; 4] {
    [
        if workload.ready { "yes" } else { "no" }.to_owned(),
        used(workload.swap_bytes, workload.swap_max_bytes),
        match workload.last_exit {
            Some(LastExit {
                code: Some(code), ..
            }) => format!("code {code}"),
            Some(LastExit {
                signal: Some(signal),
                ..
            }) => format!("signal {signal}"),
            Some(_) | None => "-".to_owned(),
        },
        workload.cgroup.clone(),
    ]
}

/// Bytes in use, and the limit if there is one.
fn used(bytes: u64, limit: Option<u64>) -> String {
    let limit = limit.map_or_else(String::new, |limit| format!(" / {}", Bytes(limit)));
    format!("{}{limit}", Bytes(bytes))
}

fn row(workload: &WorkloadView) -> [String; 11] {
    let throttled = workload.cpu_throttled_percent;
    let throttled = if throttled > 0.0 {
        format!(" (held back {throttled}%)")
    } else {
        String::new()
    };
    let pid = workload.pid;
    [
        workload.name.to_string(),
        workload.state.to_string(),
        workload.health.to_string(),
        pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        used(workload.memory_bytes, workload.memory_max_bytes),
        format!("{}%{throttled}", workload.cpu_percent),
        throttle(workload),
        workload.restarts.to_string(),
        workload.oom_kills.to_string(),
        age(workload.since),
        workload.reason.clone(),
    ]
}

fn throttle(workload: &WorkloadView) -> String {
    match workload.throttle_cpu_percent {
        Some(percent) => format!("throttled {percent}%"),
        None => workload.throttle.as_str().to_owned(),
    }
}

/// Returns the time that has passed since then.
pub(super) fn age(then: Timestamp) -> String {
    let passed = clock::wall_now().duration_since(then);
    human_duration(Duration::from_secs(
        u64::try_from(passed.as_secs()).unwrap_or(0),
    ))
}

/// Columns as wide as their widest cell, two spaces between them.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    aligned(rows)
}

fn aligned(rows: &[impl AsRef<[String]>]) -> String {
    let mut text = String::new();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row
            .as_ref()
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_line_up() {
        let rows = [["NAME", "PID"], ["web", "7"], ["a-long-name", "12345"]]
            .map(|row| row.map(str::to_owned));
        assert_eq!(
            table(&rows),
            "NAME         PID\nweb          7\na-long-name  12345\n"
        );
    }
}
