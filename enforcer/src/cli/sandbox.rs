//! What a sandbox promises, and what it would change, as far as a manifest shows.

use super::format::Output;
use super::learn;
use crate::configuration::files;
use crate::fault::Fault;
use crate::settings::Settings;
use clap::Subcommand;
use enforcer_core::ReplicaId;
use enforcer_core::spec::{Consequence, Promise, Sandbox, WorkloadSpec, promises, unit};
use enforcer_core::text::printable;
use enforcer_kernel::account::Accounts;
use enforcer_kernel::settings_file;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(super) enum Wanted {
    /// Show what a level keeps a workload from, and the key that allows more
    Show {
        #[arg(value_parser = level)]
        level: Sandbox,
        /// Print the unit of systemd that promises the same
        #[arg(long)]
        unit: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Watch a running workload, and propose what `sandbox: strict` needs for it (as root)
    Learn {
        workload: String,
        /// The time to watch it for
        #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = learn::time)]
        time: Duration,
        /// Restart it first, so that its start is seen as well
        #[arg(long)]
        restart: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Reads a level that keeps a workload from something.
pub(super) fn level(text: &str) -> Result<Sandbox, String> {
    let mut all = Sandbox::ALL
        .into_iter()
        .filter(|level| *level != Sandbox::Off);
    let found = all.find(|level| level.as_str() == text);
    found.ok_or_else(|| "expected default or strict".to_owned())
}

pub(super) fn run(settings: &Settings, wanted: &Wanted) -> Result<(), Fault> {
    match wanted {
        Wanted::Show {
            level, unit: true, ..
        } => {
            print!("{}", unit(*level));
            Ok(())
        }
        Wanted::Show { level, output, .. } => show(*level, *output),
        Wanted::Learn {
            workload,
            time,
            restart,
            output,
        } => learn::learn(settings, workload, *time, *restart, *output),
    }
}

fn show(level: Sandbox, output: Output) -> Result<(), Fault> {
    let all: Vec<&Promise> = promises(level).collect();
    if output.print(&all, None)? {
        return Ok(());
    }
    for promise in all {
        println!("{}", promise.text.replace('`', ""));
        let since = promise
            .since
            .map(|(major, minor)| format!(" (since Linux {major}.{minor})"));
        println!("  by {}{}", promise.means, since.unwrap_or_default());
        if !promise.key.is_empty() {
            println!("  {} allows more", promise.key);
        }
        let directives = promise.directives.iter().map(|(key, _)| *key);
        let directives: Vec<&str> = directives.collect();
        if !directives.is_empty() {
            println!("  as {} of systemd", directives.join(", "));
        }
    }
    Ok(())
}

/// A workload, and what the sandbox would change for it.
#[derive(Debug, Serialize)]
struct SandboxChanges {
    workload: ReplicaId,
    /// Its default is no sandbox, whatever the manifest's version.
    is_root: bool,
    changes: Vec<Consequence>,
}

pub(super) fn plan(file: &Path, level: Sandbox, output: Output, color: bool) -> Result<(), Fault> {
    let loaded = files::load(file, color).map_err(Fault::from)?;
    eprint!("{}", loaded.warnings);
    let workloads = loaded.manifest.workloads.iter();
    let all: Vec<SandboxChanges> = workloads
        .map(|(name, spec)| SandboxChanges {
            workload: name.clone().into(),
            is_root: spec.is_root(),
            changes: spec.in_sandbox(level, &home(spec)).into_iter().collect(),
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
            println!("{name}: the sandbox changes nothing that this manifest names{of_root}");
            continue;
        }
        println!("{}{of_root}", one.workload);
        for change in &one.changes {
            let object = printable(&change.object);
            let (what, key) = (change.what.as_str(), printable(&change.key));
            println!("  {object}: {what}; {key} allows it");
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

#[cfg(test)]
mod tests {
    use enforcer_core::spec::PROMISES;

    /// The table of the documents has a line for each promise.
    #[test]
    fn the_documents_have_every_promise() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/manifest.md");
        let document = std::fs::read_to_string(document).expect("the document");
        let missing: Vec<String> = PROMISES
            .iter()
            .map(|promise| {
                let key = match promise.key {
                    "" => String::new(),
                    key => format!("`{key}`"),
                };
                let mut directives: Vec<String> = promise
                    .directives
                    .iter()
                    .map(|(name, _)| format!("`{name}`"))
                    .collect();
                directives.dedup();
                let since = promise
                    .since
                    .map(|(major, minor)| format!(" (Linux {major}.{minor})"));
                let since = since.unwrap_or_default();
                let (text, directives) = (promise.text, directives.join(", "));
                format!(
                    "| `{}` | {text}{since} | {key} | {directives} |",
                    promise.level
                )
            })
            .filter(|line| !document.contains(line.as_str()))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/manifest.md lacks\n{}",
            missing.join("\n")
        );
    }
}
