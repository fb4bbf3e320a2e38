//! `status`: one workload in a few lines, for a person who looks in.

use super::escaped;
use super::format::Output;
use super::workload::throttle_in_words;
use super::{Fault, client, ps};
use crate::settings::Settings;
use enforcer_core::units::Bytes;
use serde_json::Value;

pub(super) fn status(settings: &Settings, name: &str, output: Output) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}", escaped(name));
    let workload = client::call(settings, "GET", &route, None)?;
    if !output.print(&workload)? {
        print(name, &workload);
    }
    match workload["state"].as_str() {
        Some("running") if workload["health"] == "unhealthy" => {
            Err(Fault::NotRunning(format!("{name} is unhealthy")))
        }
        Some("running") => Ok(()),
        state => Err(Fault::NotRunning(format!(
            "{name} is {}",
            state.unwrap_or("not known")
        ))),
    }
}

fn print(name: &str, workload: &Value) {
    let text = |key: &str| workload[key].as_str().unwrap_or("-").to_owned();
    let number = |key: &str| workload[key].as_u64().unwrap_or(0);
    let pid = workload["pid"]
        .as_u64()
        .map_or_else(String::new, |pid| format!(" (pid {pid})"));
    println!(
        "{name}: {}{pid} for {}",
        text("state"),
        ps::age(&text("since"))
    );
    let limit = |key: &str| {
        let limit = workload[key].as_u64();
        limit.map_or_else(|| "no limit".to_owned(), |limit| Bytes(limit).to_string())
    };
    let next = super::prospect::next(workload);
    let rows = [
        ["  why", &super::sentence::plain(&text("reason"))],
        ["  next", next.as_deref().unwrap_or("-")],
        ["  health", &text("health")],
        [
            "  ready",
            if workload["ready"] == true {
                "yes"
            } else {
                "no"
            },
        ],
        ["  throttle", &throttle_in_words(workload)],
        [
            "  memory",
            &format!(
                "{} of {}",
                Bytes(number("memory_bytes")),
                limit("memory_max_bytes")
            ),
        ],
        [
            "  swap",
            &format!(
                "{} of {}",
                Bytes(number("swap_bytes")),
                limit("swap_max_bytes")
            ),
        ],
        [
            "  cpu",
            &format!(
                "{}% of one CPU, held back in {}% of its periods",
                workload["cpu_percent"], workload["cpu_throttled_percent"]
            ),
        ],
        [
            "  so far",
            &format!(
                "{} restarts, {} OOM kills",
                number("restarts"),
                number("oom_kills")
            ),
        ],
    ];
    print!("{}", ps::table(&rows.map(|row| row.map(str::to_owned))));
    let probes = workload["probes"].as_array().map_or(&[][..], Vec::as_slice);
    if !probes.is_empty() {
        print!("{}", super::probe::table(probes));
    }
}
