//! `ps`: the workloads as a table.

use super::{Fault, client};
use crate::kernel::clock;
use crate::settings::Settings;
use enforcer_core::units::{Bytes, human_duration};
use serde_json::Value;
use std::time::Duration;

pub(super) fn ps(settings: &Settings, json: bool) -> Result<(), Fault> {
    let answer = client::call(settings, "GET", "/v1/workloads", None)?;
    if json {
        println!("{answer:#}");
        return Ok(());
    }
    let header = [
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
    let mut rows = vec![header.map(str::to_owned)];
    for workload in answer["workloads"].as_array().into_iter().flatten() {
        rows.push(row(workload));
    }
    print!("{}", table(&rows));
    Ok(())
}

fn row(workload: &Value) -> [String; 11] {
    let text = |key: &str| workload[key].as_str().unwrap_or("-").to_owned();
    let number = |key: &str| {
        workload[key]
            .as_u64()
            .map_or_else(|| "-".to_owned(), |number| number.to_string())
    };
    let memory = workload["memory_bytes"].as_u64().unwrap_or(0);
    let limit = workload["memory_max_bytes"].as_u64();
    let limit = limit.map_or_else(String::new, |limit| format!(" / {}", Bytes(limit)));
    let throttled = workload["cpu_throttled_percent"].as_f64().unwrap_or(0.0);
    let throttled = if throttled > 0.0 {
        format!(" (held back {throttled}%)")
    } else {
        String::new()
    };
    [
        text("name"),
        text("state"),
        text("health"),
        number("pid"),
        format!("{}{limit}", Bytes(memory)),
        format!(
            "{}%{throttled}",
            workload["cpu_percent"].as_f64().unwrap_or(0.0)
        ),
        throttle(workload),
        number("restarts"),
        number("oom_kills"),
        age(&text("since")),
        text("reason"),
    ]
}

fn throttle(workload: &Value) -> String {
    match workload["throttle_cpu_percent"].as_u64() {
        Some(percent) => format!("throttled {percent}%"),
        None => workload["throttle"].as_str().unwrap_or("-").to_owned(),
    }
}

/// How long ago an RFC 3339 time was.
pub(super) fn age(time: &str) -> String {
    let Ok(then) = time.parse::<jiff::Timestamp>() else {
        return "-".to_owned();
    };
    let passed = clock::wall_now().duration_since(then);
    human_duration(Duration::from_secs(
        u64::try_from(passed.as_secs()).unwrap_or(0),
    ))
}

/// Columns as wide as their widest cell, two spaces between them.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells: Vec<String> = row
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
