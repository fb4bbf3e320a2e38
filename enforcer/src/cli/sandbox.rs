//! `plan --sandbox`: what a sandbox would change, as far as a manifest shows.

use super::format::Output;
use crate::configuration::files;
use crate::fault::Fault;
use enforcer_core::WorkloadName;
use enforcer_core::spec::{Consequence, WorkloadSpec};
use enforcer_core::text::printable;
use enforcer_kernel::account::Accounts;
use serde::Serialize;
use std::path::Path;

/// A workload, and what the sandbox would change for it.
#[derive(Debug, Serialize)]
struct Outlook {
    workload: WorkloadName,
    /// Its default is no sandbox, whatever the manifest's version.
    is_root: bool,
    consequences: Vec<Consequence>,
}

pub(super) fn plan(file: &Path, output: Output, color: bool) -> Result<(), Fault> {
    let loaded = files::load(file, color).map_err(Fault::of_manifest)?;
    eprint!("{}", loaded.warnings);
    let workloads = loaded.manifest.workloads.iter();
    let all: Vec<Outlook> = workloads
        .map(|(name, spec)| Outlook {
            workload: name.clone(),
            is_root: matches!(spec.user.as_deref(), Some("root" | "0")),
            consequences: spec.in_sandbox(&home(spec)).into_iter().collect(),
        })
        .collect();
    if output.print(&all, None)? {
        return Ok(());
    }
    for one in &all {
        let of_root = match one.is_root {
            true => " (it runs as root, for whom no sandbox is the default)",
            false => "",
        };
        if one.consequences.is_empty() {
            println!("{}: nothing that the manifest names{of_root}", one.workload);
            continue;
        }
        println!("{}{of_root}", one.workload);
        for change in &one.consequences {
            let path = printable(&change.path);
            let (what, key) = (change.what.as_str(), printable(&change.key));
            println!("  {path}: {what}; {key} opens it");
        }
    }
    Ok(())
}

/// Returns the home of the workload's user; `/` if the user is not known here.
fn home(spec: &WorkloadSpec) -> String {
    let found = Accounts::Host.identity(spec.user.as_deref(), spec.group.as_deref(), &[]);
    match found {
        Ok(user) if spec.root.is_none() && user.home != "/" => user.home,
        _ => "/nonexistent".to_owned(),
    }
}
