//! `plan --sandbox`: what a sandbox would change, as far as a manifest shows.

use super::format::Output;
use crate::configuration::files;
use crate::fault::Fault;
use enforcer_core::WorkloadName;
use enforcer_core::spec::{Consequence, WorkloadSpec};
use enforcer_core::text::printable;
use enforcer_kernel::account::Accounts;
use enforcer_kernel::settings_file;
use serde::Serialize;
use std::path::Path;

/// A workload, and what the sandbox would change for it.
#[derive(Debug, Serialize)]
struct SandboxChanges {
    workload: WorkloadName,
    /// Its default is no sandbox, whatever the manifest's version.
    is_root: bool,
    changes: Vec<Consequence>,
}

pub(super) fn plan(file: &Path, output: Output, color: bool) -> Result<(), Fault> {
    let loaded = files::load(file, color).map_err(Fault::of_manifest)?;
    eprint!("{}", loaded.warnings);
    let workloads = loaded.manifest.workloads.iter();
    let all: Vec<SandboxChanges> = workloads
        .map(|(name, spec)| SandboxChanges {
            workload: name.clone(),
            is_root: spec.is_root(),
            changes: spec.in_sandbox(&home(spec)).into_iter().collect(),
        })
        .collect();
    if output.print(&all, None)? {
        return Ok(());
    }
    for one in &all {
        let of_root = match one.is_root {
            true => " (default for root: `sandbox: off`)",
            false => "",
        };
        if one.changes.is_empty() {
            let name = &one.workload;
            println!("{name}: the sandbox changes no path of this manifest{of_root}");
            continue;
        }
        println!("{}{of_root}", one.workload);
        for change in &one.changes {
            let path = printable(&change.path);
            let (what, key) = (change.what.as_str(), printable(&change.key));
            println!("  {path}: {what}; {key} allows it");
        }
    }
    Ok(())
}

/// Returns the home of the workload's user, in the tree of its root or on the host; a path that no file
/// has if the user is not known here.
fn home(spec: &WorkloadSpec) -> String {
    let file = |root: &str, path: &str| {
        let text = settings_file::read_in_tree(root, path).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    };
    let accounts = match &spec.root {
        None => Accounts::Host,
        Some(root) => Accounts::Tree {
            passwd: file(root, "etc/passwd"),
            group: file(root, "etc/group"),
        },
    };
    let found = accounts.identity(spec.user.as_deref(), spec.group.as_deref(), &[]);
    match found {
        Ok(user) if user.home != "/" => user.home,
        _ => "/nonexistent".to_owned(),
    }
}
