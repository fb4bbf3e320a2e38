//! `doctor`: whether this host is fit for the agent, and what to do where not.

use super::format::Output;
use super::{Fault, ps};
use crate::kernel::bpf::{self, Wanted};
use crate::kernel::fitness::{self, Finding, Grade};
use crate::settings::Settings;
use serde_json::json;

pub(super) fn doctor(settings: &Settings, output: Output) -> Result<(), Fault> {
    let mut findings = fitness::findings();
    if settings.ebpf == Wanted::Off {
        findings.push(Finding {
            what: "eBPF",
            grade: Grade::Less,
            found:
                "switched off: CPU loops are looked for in /proc once a second, and none is proved"
                    .to_owned(),
            cure: Some("leave out `--ebpf off`".to_owned()),
        });
    }
    if !bpf::is_built_in() {
        findings.push(Finding {
            what: "eBPF",
            grade: Grade::Less,
            found: "not built in: the agent was compiled without its eBPF programs".to_owned(),
            cure: Some("build it with `cargo xtask build`".to_owned()),
        });
    }
    let fit = findings
        .iter()
        .all(|finding| finding.grade != Grade::Missing);
    let checks = findings.iter().map(|finding| {
            json!({ "what": finding.what, "grade": finding.grade, "found": finding.found, "cure": finding.cure })
        });
    let checks = checks.collect::<Vec<_>>();
    if !output.print(&json!({ "schema": 1, "fit": fit, "checks": checks }), None)? {
        print(&findings);
    }
    if fit {
        Ok(())
    } else {
        Err(Fault::Failed(
            "this host is not fit for the agent".to_owned(),
        ))
    }
}

fn print(findings: &[Finding]) {
    let rows: Vec<[String; 3]> = findings
        .iter()
        .map(|finding| {
            let grade = match finding.grade {
                Grade::Good => "ok",
                Grade::Less => "less",
                Grade::Missing => "MISSING",
            };
            let cure = finding
                .cure
                .as_ref()
                .map_or_else(String::new, |cure| format!("; {cure}"));
            [
                grade.to_owned(),
                finding.what.to_owned(),
                format!("{}{cure}", finding.found),
            ]
        })
        .collect();
    print!("{}", ps::table(&rows));
}
