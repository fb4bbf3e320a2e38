//! `ps`: the workloads as a table.

use super::format::{Format, Output};
use super::{Fault, client};
use crate::kernel::clock;
use crate::settings::Settings;
use enforcer_core::units::{Bytes, human_duration};
use serde_json::Value;
use std::time::Duration;

pub(super) fn ps(settings: &Settings, output: Output) -> Result<(), Fault> {
    let answer = client::call(settings, "GET", "/v1/workloads", None)?;
    if output.print(&answer)? {
        return Ok(());
    }
    let workloads = answer["workloads"].as_array();
    let workloads = workloads.map_or(&[][..], Vec::as_slice);
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
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(workloads.iter().map(row));
    print!("{}", table(&rows));
    Ok(())
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

/// What `-o wide` has beside that.
const WIDER: [&str; 4] = ["READY", "SWAP", "LAST EXIT", "CGROUP"];

fn wider(workload: &Value) -> [String; 4] {
    let limit = workload["swap_max_bytes"].as_u64();
    let limit = limit.map_or_else(String::new, |limit| format!(" / {}", Bytes(limit)));
    let exit = &workload["last_exit"];
    [
        if workload["ready"] == true {
            "yes"
        } else {
            "no"
        }
        .to_owned(),
        format!(
            "{}{limit}",
            Bytes(workload["swap_bytes"].as_u64().unwrap_or(0))
        ),
        match (exit["code"].as_i64(), exit["signal"].as_i64()) {
            (Some(code), _) => format!("code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "-".to_owned(),
        },
        workload["cgroup"].as_str().unwrap_or("-").to_owned(),
    ]
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
