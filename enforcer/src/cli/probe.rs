//! `probe`: a check by hand, and what every probe of a workload says.

use super::escaped;
use super::format::Output;
use super::{client, ps};
use crate::fault::Fault;
use crate::settings::Settings;
use enforcer_model::probe::Answer;
use enforcer_model::views::{Inspection, ProbeStatus};

pub(super) fn probe(settings: &Settings, name: &str, output: Output) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}/probe", escaped(name));
    let answer = client::order(settings, &route)?;
    let printed = output.print_answer(&answer, Some(&[name]))?;
    let Inspection { probes, .. } = answer.read()?;
    if !printed {
        print(name, &probes);
    }
    let has_failed = |probe: &&ProbeStatus| {
        let last = probe.last.as_ref();
        last.is_some_and(|last| last.result == Answer::Failed)
    };
    let failed = probes.iter().filter(has_failed);
    let failed: Vec<&str> = failed.map(|probe| probe.probe.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Fault::NotRunning(format!(
        "{name}: failed: {}",
        failed.join(", ")
    )))
}

fn print(name: &str, probes: &[ProbeStatus]) {
    if probes.is_empty() {
        println!("{name} has no probes");
        return;
    }
    print!("{}", table(probes));
}

/// Returns one line for each probe: its state and its last answer.
pub(super) fn table(probes: &[ProbeStatus]) -> String {
    let mut rows = vec![
        [
            "PROBE",
            "KIND",
            "STATE",
            "FAILURES",
            "CHECKED",
            "LAST ANSWER",
        ]
        .map(str::to_owned),
    ];
    for probe in probes {
        let checked = match &probe.last {
            Some(last) => format!("{} ago", ps::age(last.time)),
            None => "-".to_owned(),
        };
        let said = match &probe.last {
            Some(last) => enforcer_core::text::printable(&last.text),
            None if probe.at_rest => "waits for startup".to_owned(),
            None => "not asked yet".to_owned(),
        };
        rows.push([
            probe.probe.to_string(),
            probe.kind.as_str().to_owned(),
            probe.state.as_str().to_owned(),
            probe.consecutive_failures.to_string(),
            checked,
            said,
        ]);
    }
    ps::table(&rows)
}
