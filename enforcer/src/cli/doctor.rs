//! `doctor`: whether this host is fit for the agent, and what to do where not.

use super::format::Output;
use super::ps;
use crate::fault::Fault;
use crate::settings::{Ebpf, Settings};
use enforcer_kernel::bpf;
use enforcer_kernel::fitness;
use enforcer_model::views::{Diagnosis, Grade, HostCheck};

pub(super) fn doctor(settings: &Settings, output: Output) -> Result<(), Fault> {
    let mut checks = fitness::findings();
    if settings.ebpf == Ebpf::Off {
        checks.push(HostCheck {
            what: "eBPF".to_owned(),
            grade: Grade::Less,
            found:
                "switched off: CPU loops are looked for in /proc once a second, and none is proved"
                    .to_owned(),
            cure: Some("leave out `--ebpf off`".to_owned()),
        });
    }
    if !bpf::is_built_in() {
        checks.push(HostCheck {
            what: "eBPF".to_owned(),
            grade: Grade::Less,
            found: "not built in: the agent was compiled without its eBPF programs".to_owned(),
            cure: Some("build it with `cargo xtask build`".to_owned()),
        });
    }
    let fit = checks.iter().all(|check| check.grade != Grade::Missing);
    let diagnosis = Diagnosis {
        schema: 1,
        fit,
        checks,
    };
    if !output.print(&diagnosis, None)? {
        print(&diagnosis.checks);
    }
    if fit {
        Ok(())
    } else {
        Err(Fault::Failed(
            "this host is not fit for the agent".to_owned(),
        ))
    }
}

fn print(checks: &[HostCheck]) {
    let rows: Vec<[String; 3]> = checks
        .iter()
        .map(|check| {
            let grade = match check.grade {
                Grade::Good => "ok",
                Grade::Less => "less",
                Grade::Missing => "MISSING",
            };
            let cure = check
                .cure
                .as_ref()
                .map_or_else(String::new, |cure| format!("; {cure}"));
            [
                grade.to_owned(),
                check.what.clone(),
                format!("{}{cure}", check.found),
            ]
        })
        .collect();
    print!("{}", ps::table(&rows));
}
