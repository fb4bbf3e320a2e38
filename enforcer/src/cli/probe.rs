//! `probe`: a check by hand, and what every probe of a workload says.

use super::escaped;
use super::format::Output;
use super::{Fault, client, ps};
use crate::settings::Settings;
use serde_json::Value;

pub(super) fn probe(settings: &Settings, name: &str, output: Output) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}/probe", escaped(name));
    let answer = client::call(settings, "POST", &route, None)?;
    if !output.print(&answer)? {
        print(name, &answer);
    }
    let probes = answer["probes"].as_array().cloned().unwrap_or_default();
    let failed: Vec<&str> = probes
        .iter()
        .filter(|probe| probe["last"]["result"] == "failed")
        .filter_map(|probe| probe["probe"].as_str())
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Fault::NotRunning(format!(
        "{name}: failed: {}",
        failed.join(", ")
    )))
}

fn print(name: &str, answer: &Value) {
    let probes = answer["probes"].as_array().map_or(&[][..], Vec::as_slice);
    if probes.is_empty() {
        println!("{name} has no probes");
        return;
    }
    print!("{}", table(probes));
}

/// One line a probe: what it comes to, and what it said last.
pub(super) fn table(probes: &[Value]) -> String {
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
        let text = |key: &str| probe[key].as_str().unwrap_or("-").to_owned();
        let last = &probe["last"];
        let checked = match last["time"].as_str() {
            Some(time) => format!("{} ago", ps::age(time)),
            None => "-".to_owned(),
        };
        let said = last["text"].as_str().unwrap_or("not asked yet");
        let rests = probe["at_rest"] == true && last.is_null();
        rows.push([
            text("probe"),
            text("kind"),
            text("state"),
            probe["consecutive_failures"].to_string(),
            checked,
            if rests {
                "waits for startup".to_owned()
            } else {
                enforcer_core::text::printable(said)
            },
        ]);
    }
    ps::table(&rows)
}
