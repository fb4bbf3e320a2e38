//! Units of systemd: services with their drop-ins and their sockets.

mod command;
mod exec;
mod limits;
mod recovery;
mod sandbox;
mod socket;
mod text;
mod unit;

use crate::compose::Source;
use crate::output::Yaml;
use crate::{Imported, Line, Refused, Verdict};
use std::collections::BTreeSet;
use text::{Name, Setting};
use unit::Unit;

/// A unit with its drop-ins, in the order in which systemd reads them.
#[derive(Clone, Debug)]
pub struct Files {
    /// The name of the unit, such as `web@blue.service`.
    pub name: String,
    pub files: Vec<Source>,
}

/// Turns services, and the sockets that belong to them, into a manifest.
///
/// # Errors
/// If a file is no unit, or a specifier has no value here.
pub fn systemd(units: &[Files]) -> Result<Imported, Refused> {
    let mut report = Vec::new();
    let mut workloads = Yaml::map();
    let services = units.iter().filter(|unit| unit.name.ends_with(".service"));
    let names: BTreeSet<&str> = services.clone().map(|unit| unit.name.as_str()).collect();
    let read = services.map(|files| Ok((files, settings(files)?)));
    let read = read.collect::<Result<Vec<(&Files, Vec<Setting>)>, Refused>>()?;
    let is_job = |settings: &[Setting]| {
        let mut kinds = settings.iter().filter(|setting| setting.key == "Type");
        kinds
            .next_back()
            .is_some_and(|kind| kind.value == "oneshot")
    };
    let jobs = read.iter().filter(|(_, settings)| is_job(settings));
    let jobs: BTreeSet<&str> = jobs.map(|(files, _)| files.name.as_str()).collect();
    for (files, settings) in &read {
        let mut unit = Unit::new(&files.name, (&names, &jobs));
        unit.read(settings);
        for sockets in units {
            if socket::service_of(sockets) == files.name {
                socket::read(&mut unit, &sockets.name, &self::settings(sockets)?);
            }
        }
        unit.finish();
        report.append(&mut unit.report);
        workloads.put(&[&unit.workload], unit.draft);
    }
    for files in units {
        let is_service = files.name.ends_with(".service");
        let belongs =
            files.name.ends_with(".socket") && names.contains(&*socket::service_of(files));
        if !is_service && !belongs {
            report.push(Line {
                key: files.name.clone(),
                verdict: Verdict::NeedsYou,
                note: "services and their sockets are imported: name its service as well"
                    .to_owned(),
            });
        }
    }
    let sources: Vec<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    Ok(Imported {
        manifest: Yaml::manifest(&workloads, &sources),
        report,
    })
}

/// Settings whose percent sign is one.
const SHARES: &[&str] = &[
    "CPUQuota",
    "MemoryHigh",
    "MemoryLow",
    "MemoryMax",
    "MemoryMin",
    "MemorySwapMax",
    "TasksMax",
];

/// Reads all files of a unit, with its specifiers replaced.
fn settings(unit: &Files) -> Result<Vec<Setting>, Refused> {
    let name = Name {
        whole: unit.name.clone(),
    };
    let mut all = Vec::new();
    for file in &unit.files {
        for mut setting in text::read(&file.name, &file.text)? {
            if SHARES.contains(&setting.key.as_str()) {
                all.push(setting);
                continue;
            }
            setting.value = name.fill(&setting.value).map_err(|message| Refused {
                file: file.name.clone(),
                at: file.text.find(&setting.key).unwrap_or(0),
                message: format!("{}: {message}", setting.key),
            })?;
            all.push(setting);
        }
    }
    Ok(all)
}
