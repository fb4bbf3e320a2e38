//! Commands about manifests and single workloads.

use super::client;
use super::escaped;
use super::format::Output;
use crate::configuration::files::{self, LoadError};
use crate::fault::Fault;
use crate::sentence;
use crate::settings::Settings;
use enforcer_client::request::{Outcome, outcome};
use enforcer_core::WorkloadName;
use enforcer_core::plan::{self, Change, Plan};
use enforcer_core::spec::Manifest;
use enforcer_kernel::pidfd::PidFd;
use enforcer_model::requests::{
    ApplyAnswer, PlanAnswer, Proposal, ProposedFile, Shutdown, Throttle, UnwrittenLimits,
};
use enforcer_model::views::{Inspection, Replicas};
use std::path::{Path, PathBuf};

pub(super) fn validate(files: &[PathBuf], color: bool) -> Result<(), Fault> {
    let mut drawn = String::new();
    let mut faults = 0;
    for file in files {
        match files::load(file, color) {
            Ok(loaded) => {
                eprint!("{}", loaded.warnings);
                let workloads = loaded.manifest.workloads.len();
                let of = if loaded.files == 1 {
                    String::new()
                } else {
                    format!(" in {} files", loaded.files)
                };
                println!(
                    "{}: valid, {workloads} workload{}{of}",
                    file.display(),
                    if workloads == 1 { "" } else { "s" }
                );
            }
            Err(LoadError::Faults(text, count)) => {
                drawn.push_str(&text);
                faults += count;
            }
            Err(other) => return Err(Fault::from(other)),
        }
    }
    if faults == 0 {
        return Ok(());
    }
    Err(Fault::Drawn {
        drawn,
        summary: if faults == 1 {
            "one fault".to_owned()
        } else {
            format!("{faults} faults")
        },
    })
}

pub(super) fn plan(
    settings: &Settings,
    file: &Path,
    output: Output,
    color: bool,
) -> Result<(), Fault> {
    let loaded = files::load(file, color).map_err(Fault::from)?;
    eprint!("{}", loaded.warnings);
    let proposal = Proposal {
        file: Some(proposed(file)?),
        prune: false,
        force: false,
    };
    let plan = match client::post(settings, "/v1/plan", &proposal) {
        Ok(answer) => answer.read::<PlanAnswer>()?.plan,
        Err(Fault::NoAgent(reported)) => {
            eprintln!("note: {reported}; this is the plan of a first start");
            plan::between(&Manifest::default(), &loaded.manifest)
        }
        Err(other) => return Err(other),
    };
    if !output.print(&plan, None)? {
        print_plan(&plan, Some(&loaded.manifest));
    }
    Ok(())
}

/// The plan, for scripts: an error is neither the same nor different.
pub(super) fn diff(settings: &Settings, file: &Path, color: bool) -> Result<(), Fault> {
    let unsaid = |fault: Fault| match fault {
        Fault::Drawn { drawn, summary } => Fault::Usage(format!("{summary}\n\n{drawn}")),
        Fault::Failed(text)
        | Fault::Refused(text)
        | Fault::Usage(text)
        | Fault::NotRunning(text)
        | Fault::NoSuchWorkload(text)
        | Fault::NoAgent(text)
        | Fault::NotPermitted(text) => Fault::Usage(text),
        Fault::Differs => Fault::Differs,
    };
    let loaded = files::load(file, color)
        .map_err(Fault::from)
        .map_err(unsaid)?;
    eprint!("{}", loaded.warnings);
    let proposal = Proposal {
        file: Some(proposed(file).map_err(unsaid)?),
        prune: false,
        force: false,
    };
    let answer = client::post(settings, "/v1/plan", &proposal)
        .and_then(|answer| answer.read::<PlanAnswer>())
        .map_err(unsaid)?;
    print_plan(&answer.plan, Some(&loaded.manifest));
    match answer.plan.is_empty() {
        true => Ok(()),
        false => Err(Fault::Differs),
    }
}

pub(super) fn apply(
    settings: &Settings,
    file: Option<&Path>,
    prune: bool,
    force: bool,
) -> Result<(), Fault> {
    let file = file.map(proposed).transpose()?;
    let proposal = Proposal { file, prune, force };
    let answer: ApplyAnswer = client::post(settings, "/v1/apply", &proposal)?.read()?;
    eprint!("{}", answer.warnings);
    print_plan(&answer.plan, None);
    match answer.unwritten.as_slice() {
        [] => Ok(()),
        unwritten => Err(Fault::Failed(describe_unwritten(unwritten))),
    }
}

/// Returns a line for each limit that the kernel does not have, and what to do.
fn describe_unwritten(unwritten: &[UnwrittenLimits]) -> String {
    let lines = unwritten.iter().map(|limits| {
        let of = match &limits.workload {
            Some(workload) => &workload.to_string(),
            None => "host",
        };
        match &limits.refused {
            Some(why) => format!("{of}: the kernel refused the limits: {why}"),
            None => format!("{of}: the kernel has not taken the limits yet"),
        }
    });
    let lines: Vec<String> = lines.collect();
    let next = match unwritten.iter().any(|limits| limits.refused.is_some()) {
        true => "the manifest is in force; correct the limit and apply again",
        false => "the manifest is in force; `enforcer events` shows when the kernel has taken them",
    };
    format!("{}\n{next}", lines.join("\n"))
}

fn proposed(path: &Path) -> Result<ProposedFile, Fault> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Fault::Failed(format!("failed to read {}: {error}", path.display())))?;
    Ok(ProposedFile {
        path: path.to_owned(),
        text,
    })
}

fn print_plan(plan: &Plan, manifest: Option<&Manifest>) {
    if plan.is_empty() {
        println!("nothing to do");
    }
    for change in &plan.host {
        println!("~ host: {}", sentence::of_setting(change));
    }
    for (name, change) in &plan.workloads {
        match change {
            Change::Add => {
                println!("+ {name}: start");
                print_limits(name, manifest);
            }
            Change::Remove => {
                println!("- {name}: named no more; it runs on unmanaged, or goes with --prune")
            }
            Change::Update(changes) => {
                for change in changes {
                    println!("~ {name}: {}", sentence::of_setting(change));
                }
            }
        }
    }
    for name in &plan.rolled_back {
        println!(
            "! {name}: the manifest's version was rolled back, and another one runs; `enforcer rollout retry {name}` tries it again"
        );
    }
}

/// The kernel files that a new workload's limits will be written to.
fn print_limits(name: &WorkloadName, manifest: Option<&Manifest>) {
    let spec = manifest.and_then(|manifest| manifest.workloads.get(name));
    let files = spec.into_iter().flat_map(|spec| spec.limits.files());
    for entry in files.filter(|entry| entry.asked) {
        println!("    {} = {}", entry.file, entry.value.replace('\n', "; "));
    }
}

pub(super) fn inspect(settings: &Settings, name: &str, output: Output) -> Result<(), Fault> {
    let answer = client::get(settings, &format!("/v1/workloads/{}", escaped(name)))?;
    if output.print_answer(&answer, Some(&[name]))? {
        return Ok(());
    }
    if let Ok(found) = answer.read::<Replicas>() {
        super::replicas::print(&found);
        return Ok(());
    }
    let inspection: Inspection = answer.read()?;
    let shown = serde_json::to_value(&inspection).unwrap_or_default();
    let keys = shown.as_object().into_iter().flatten();
    for (key, value) in keys.filter(|(key, _)| *key != "limits") {
        println!(
            "{key:24} {}",
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        );
    }
    println!("limits");
    let mut rows = vec![["  FILE", "REQUESTED", "EFFECTIVE"].map(str::to_owned)];
    for limit in inspection.limits {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        rows.push([
            format!("  {}", limit.file),
            text(limit.requested),
            text(limit.effective),
        ]);
    }
    print!("{}", super::ps::table(&rows));
    Ok(())
}

pub(super) fn request(settings: &Settings, name: &str, request: &str) -> Result<(), Fault> {
    let outcome = enforcer_client::request::request(&settings.socket(), name, request)?;
    println!("{outcome}");
    Ok(())
}

/// Ends the agent, and waits until it has gone.
pub(super) fn shutdown(settings: &Settings, workloads: bool) -> Result<(), Fault> {
    // This very process: a manager may start another one in its place.
    let agent = PidFd::listening_on(&settings.socket());
    client::post(settings, "/v1/shutdown", &Shutdown { workloads })?;
    if let Some(agent) = agent {
        agent.wait_for_exit();
    }
    println!(
        "{}",
        match workloads {
            true => "the agent has ended, and its workloads with it",
            false => "the agent has ended; its workloads run on",
        }
    );
    Ok(())
}

/// Runs as a workload's user, on the agent's behalf.
pub(super) fn clear(home: &str, paths: &[String]) -> Result<(), Fault> {
    for path in paths {
        enforcer_kernel::clear::clear(path, home).map_err(|error| {
            Fault::Failed(format!("failed to {}", crate::report::error_chain(&error)))
        })?;
    }
    Ok(())
}

pub(super) fn throttle(settings: &Settings, name: &str, cpu: &str) -> Result<(), Fault> {
    let route = format!("/v1/workloads/{}/throttle", escaped(name));
    let body = Throttle {
        cpu: cpu.to_owned(),
    };
    let answer = client::post(settings, &route, &body)?;
    println!("{}", outcome(name, &answer, Outcome::throttle_in_words));
    Ok(())
}
