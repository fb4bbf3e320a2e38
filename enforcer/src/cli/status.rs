//! `status`: one workload in a few lines, for a person who looks in.

use super::escaped;
use super::format::Output;
use super::{client, ps};
use crate::fault::Fault;
use crate::settings::Settings;
use enforcer_client::request::throttle_in_words;
use enforcer_core::WorkloadState;
use enforcer_core::health::Health;
use enforcer_core::units::Bytes;
use enforcer_model::views::{Inspection, Replicas};

pub(super) fn status(settings: &Settings, name: &str, output: Output) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}", escaped(name));
    let answer = client::get(settings, &route)?;
    let printed = output.print_answer(&answer, Some(&[name]))?;
    if let Ok(found) = answer.read::<Replicas>() {
        if !printed {
            super::replicas::print(&found);
        }
        return match found.ready {
            0 => Err(Fault::NotRunning(format!("no replica of {name} is ready"))),
            _ => Ok(()),
        };
    }
    let found: Inspection = answer.read()?;
    if !printed {
        print(name, &found);
    }
    match found.workload.state {
        WorkloadState::Running if found.workload.health == Health::Unhealthy => {
            Err(Fault::NotRunning(format!("{name} is unhealthy")))
        }
        WorkloadState::Running => Ok(()),
        state => Err(Fault::NotRunning(format!("{name} is {state}"))),
    }
}

fn print(name: &str, found: &Inspection) {
    let workload = &found.workload;
    let pid = workload
        .pid
        .map_or_else(String::new, |pid| format!(" (pid {pid})"));
    println!(
        "{name}: {}{pid} for {}",
        workload.state,
        ps::age(workload.since)
    );
    let used = |bytes, limit: Option<u64>| {
        let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| Bytes(limit).to_string());
        format!("{} of {limit}", Bytes(bytes))
    };
    let next = super::prospect::next(found);
    let rows = [
        ["  why", &crate::sentence::plain(&workload.reason)],
        ["  next", next.as_deref().unwrap_or("-")],
        ["  health", &workload.health.to_string()],
        ["  ready", if workload.ready { "yes" } else { "no" }],
        [
            "  throttle",
            &throttle_in_words(workload.throttle, workload.throttle_cpu_percent),
        ],
        [
            "  memory",
            &used(workload.memory_bytes, workload.memory_max_bytes),
        ],
        [
            "  swap",
            &used(workload.swap_bytes, workload.swap_max_bytes),
        ],
        [
            "  cpu",
            &format!(
                "{:?}% of one CPU, held back in {:?}% of its periods",
                workload.cpu_percent, workload.cpu_throttled_percent
            ),
        ],
        [
            "  so far",
            &format!(
                "{} restarts, {} OOM kills",
                workload.restarts, workload.oom_kills
            ),
        ],
    ];
    print!("{}", ps::table(&rows.map(|row| row.map(str::to_owned))));
    if !found.probes.is_empty() {
        print!("{}", super::probe::table(&found.probes));
    }
}
