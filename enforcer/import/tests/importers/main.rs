//! What the files of others become, and that the agent reads it.

mod compose;
mod guides;
mod kubernetes;
mod labels;
mod running;
mod systemd;

use enforcer_import::Imported;
use enforcer_manifest::{Accounts, Severity};
use expect_test::Expect;

struct Anybody;

impl Accounts for Anybody {
    fn agent_is_root(&self) -> bool {
        true
    }

    fn has_user(&self, _: &str) -> bool {
        true
    }

    fn has_user_of_number(&self, _: u32) -> bool {
        true
    }

    fn has_group(&self, _: &str) -> bool {
        true
    }
}

/// Compares a manifest and its report with what is expected. The manifest must have no fault.
fn agrees(imported: &Imported, expected: &Expect) {
    let mut shown = imported.manifest.clone();
    for line in &imported.report {
        let colon = if line.note.is_empty() { "" } else { ": " };
        shown.push_str(&format!(
            "{} {}{colon}{}\n",
            line.verdict, line.key, line.note
        ));
    }
    expected.assert_eq(&shown);
    assert_eq!(faults(&imported.manifest), [""; 0], "{}", imported.manifest);
}

/// Returns what the agent would say against a manifest.
fn faults(manifest: &str) -> Vec<String> {
    let parsed = enforcer_manifest::parse(manifest, &Anybody);
    let faults = parsed.faults.into_iter();
    let faults = faults.filter(|fault| fault.severity == Severity::Error);
    faults
        .map(|fault| format!("{} ({})", fault.message, fault.label))
        .collect()
}
