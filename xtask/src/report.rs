//! The results of the tasks of a test run, and their printing.

use crate::console::{Outcome, TestOutcome, TestRun};
use crate::progress;
use anyhow::{Result, bail};
use std::time::Duration;

/// The number of slowest tests that a run lists.
const SLOWEST: usize = 20;

/// The result of a task.
pub(crate) struct Report {
    /// The tier, and the kernel or host that it ran on.
    pub(crate) label: String,
    tests: Vec<TestRun>,
    passed: u32,
    failed: u32,
    booted_after: Option<f64>,
    panics: Vec<String>,
    pub(crate) verdict: Result<()>,
}

impl Report {
    pub(crate) fn of(label: String, outcome: Result<Outcome>) -> Self {
        match outcome {
            Ok(outcome) => Self {
                label,
                passed: outcome.passed,
                failed: outcome.failed,
                booted_after: outcome.booted_after,
                verdict: outcome.verdict(),
                panics: outcome.panics,
                tests: outcome.tests,
            },
            Err(error) => Self {
                label,
                tests: Vec::new(),
                passed: 0,
                failed: 0,
                booted_after: None,
                panics: Vec::new(),
                verdict: Err(error),
            },
        }
    }

    fn elsewhere(&self) -> usize {
        let elsewhere = |test: &&TestRun| test.outcome == TestOutcome::Elsewhere;
        self.tests.iter().filter(elsewhere).count()
    }
}

/// Prints the results of the run, and what could not be tested with the reason.
///
/// # Errors
/// If a test failed or none ran.
pub(crate) fn conclude(reports: &[Report], missing: &[(String, String)]) -> Result<()> {
    println!("\n{}", slowest(reports));
    println!("{}", progress::table());
    println!("tier                      passed  failed  elsewhere   boot");
    for report in reports {
        let boot = report
            .booted_after
            .map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
        println!(
            "{:<24} {:>7} {:>7} {:>10} {boot:>8}",
            report.label,
            report.passed,
            report.failed,
            report.elsewhere()
        );
    }
    let mut failed = Vec::new();
    for report in reports {
        for panic in &report.panics {
            println!("{}: {panic}", report.label);
        }
        if let Err(error) = &report.verdict {
            println!("{}: {error:#}", report.label);
            failed.push(report.label.clone());
        }
    }
    for (name, reason) in missing {
        println!("{name}: not tested: {reason}");
    }
    let passed: u32 = reports.iter().map(|report| report.passed).sum();
    let failures: u32 = reports.iter().map(|report| report.failed).sum();
    println!("{passed} passed, {failures} failed");
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if passed + failures == 0 {
        bail!("no test has such a name");
    }
    Ok(())
}

/// Returns the slowest tests of the VM's suite, a line each.
fn slowest(reports: &[Report]) -> String {
    let mut all: Vec<(Duration, &str, &str)> = reports
        .iter()
        .flat_map(|report| {
            let tests = report.tests.iter();
            tests.map(|test| (test.taken, report.label.as_str(), test.name.as_str()))
        })
        .collect();
    all.sort_by_key(|(taken, _, _)| std::cmp::Reverse(*taken));
    let mut text = String::from("the slowest tests:\n");
    for (taken, label, name) in all.into_iter().take(SLOWEST) {
        text.push_str(&format!(
            "{:>7.1} s  {label}  {name}\n",
            taken.as_secs_f64()
        ));
    }
    text
}
