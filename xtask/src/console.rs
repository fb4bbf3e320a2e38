//! Reads what a guest prints and decides how its job ended.
//!
//! A boot has passed only by its closing line: a panic, silence or an early end fails it.
//! Lines that begin with `@@` are for xtask alone; `tests/src/bin/init.rs` and
//! `tests/src/bin/runner` print them.

use crate::guest::{Line, Running, is_kvm_error};
use anyhow::{Context as _, Result, bail};
use std::time::Duration;

/// The line that our init prints last, before its exit code.
const VERDICT: &str = "@@enforcer exit=";
/// The seconds from power-on to the start of init.
const BOOTED: &str = "@@booted ";
/// A test has ended: the outcome, its milliseconds, its name.
const TEST: &str = "@@test ";
/// The beginning of the other lines that are for xtask alone.
const HIDDEN: [&str; 2] = ["@@durable ", "@@alive"];

/// The result of a test in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestOutcome {
    Passed,
    Failed,
    /// The test runs on another kernel of the matrix.
    Elsewhere,
}

/// A test that has ended.
#[derive(Clone, Debug)]
pub(crate) struct TestRun {
    pub(crate) name: String,
    pub(crate) outcome: TestOutcome,
    pub(crate) taken: Duration,
}

/// The end of a guest.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    code: Option<i32>,
    panicked: bool,
    pub(crate) tests: Vec<TestRun>,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// The seconds from power-on to the start of init.
    pub(crate) booted_after: Option<f64>,
    /// KVM itself has failed, with this message of QEMU.
    pub(crate) kvm_error: Option<String>,
    /// The guest printed nothing for this time, and was killed.
    pub(crate) silent_for: Option<Duration>,
    last_line: String,
    /// The message of each panic of a test, in one line: the console may have a thousand lines
    /// after it.
    pub(crate) panics: Vec<String>,
    /// The last line announced a panic; the next one has its message.
    in_panic: bool,
}

impl Outcome {
    /// Checks whether the job has passed.
    ///
    /// # Errors
    /// With the reason, if it has not.
    pub(crate) fn verdict(&self) -> Result<()> {
        if let Some(error) = &self.kvm_error {
            bail!("the guest died under KVM: {error}");
        }
        if self.panicked {
            bail!("the guest's kernel panicked");
        }
        if let Some(silence) = self.silent_for {
            bail!(
                "the guest printed nothing for {} s after the line {:?}",
                silence.as_secs(),
                self.last_line
            );
        }
        match self.code.context("the guest ended without a verdict")? {
            0 => Ok(()),
            code => bail!("the guest's job failed with code {code}"),
        }
    }

    /// Returns whether the guest's programs or its kernel have printed anything.
    fn has_printed(&self) -> bool {
        !self.last_line.is_empty()
    }

    /// Returns whether the kernel hung before the first program ran.
    pub(crate) fn never_booted(&self) -> bool {
        self.silent_for.is_some() && !self.has_printed()
    }

    fn take(&mut self, line: &str) {
        self.panicked |= line.contains("Kernel panic") || line.contains("BUG: ");
        if self.in_panic {
            if let Some(last) = self.panics.last_mut() {
                last.push_str(": ");
                last.push_str(line.trim());
            }
            self.in_panic = false;
        } else if let Some((_, place)) = line.split_once("thread '")
            && let Some((name, place)) = place.split_once("' ")
            && let Some((_, place)) = place.split_once("panicked at ")
        {
            self.panics
                .push(format!("{name} at {}", place.trim_end_matches(':')));
            self.in_panic = true;
        }
        self.take_libtest(line);
    }

    /// Counts what libtest's closing line says: `test result: ok. 3 passed; 0 failed; …`.
    pub(crate) fn take_libtest(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                counts
                    .split(&[';', '.'][..])
                    .find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u32>().ok())
            };
            self.passed += number("passed").unwrap_or(0);
            self.failed += number("failed").unwrap_or(0);
        }
    }

    /// Takes a line that is for xtask; returns what is shown instead, or the line itself if
    /// it is an ordinary one.
    fn take_report(&mut self, line: &str) -> Option<String> {
        if !line.trim().is_empty() {
            line.clone_into(&mut self.last_line);
        }
        if let Some(at) = line.find(VERDICT) {
            self.code = line[at + VERDICT.len()..].trim().parse().ok();
            return None;
        }
        if let Some(seconds) = line.strip_prefix(BOOTED) {
            self.booted_after = seconds.trim().parse().ok();
            return None;
        }
        if let Some(test) = line.strip_prefix(TEST).and_then(parse_test) {
            let word = match test.outcome {
                TestOutcome::Passed => "ok",
                TestOutcome::Failed => "FAILED",
                TestOutcome::Elsewhere => "elsewhere",
            };
            match test.outcome {
                TestOutcome::Passed => self.passed += 1,
                TestOutcome::Failed => self.failed += 1,
                TestOutcome::Elsewhere => {}
            }
            let shown = format!(
                "{:>6.1} s  {} ... {word}",
                test.taken.as_secs_f64(),
                test.name
            );
            let is_shown = test.outcome != TestOutcome::Elsewhere;
            self.tests.push(test);
            return is_shown.then_some(shown);
        }
        if HIDDEN.iter().any(|word| line.starts_with(word)) {
            return None;
        }
        self.take(line);
        Some(line.to_owned())
    }
}

fn parse_test(text: &str) -> Option<TestRun> {
    let mut words = text.split_whitespace();
    let outcome = match words.next()? {
        "passed" => TestOutcome::Passed,
        "failed" => TestOutcome::Failed,
        "elsewhere" => TestOutcome::Elsewhere,
        _ => return None,
    };
    Some(TestRun {
        outcome,
        taken: Duration::from_millis(words.next()?.parse().ok()?),
        name: words.next()?.to_owned(),
    })
}

/// The longest silences of a guest: until its first line, and after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    pub(crate) before_first_line: Duration,
    pub(crate) later: Duration,
}

impl Silence {
    /// The first line comes after a few seconds; a test may take minutes.
    pub(crate) const DEFAULT: Self = Self {
        before_first_line: Duration::from_secs(90),
        later: Duration::from_secs(300),
    };

    /// Returns the bounds for a host that is this many times slower than usual.
    pub(crate) fn on_slow_host(self, slowness: u32) -> Self {
        Self {
            before_first_line: self.before_first_line * slowness,
            later: self.later * slowness,
        }
    }
}

/// Relays the console of a guest, each line behind the label, until it ends or falls silent, a line
/// is `enough`, or KVM fails.
pub(crate) fn watch(
    guest: &mut Running,
    label: &str,
    silence: Silence,
    mut enough: impl FnMut(&str) -> bool,
) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let silence = if outcome.has_printed() {
            silence.later
        } else {
            silence.before_first_line
        };
        match guest.next_line(silence) {
            Ok(Some(Line::Console(line))) => {
                // The firmware clears the screen before the kernel's first line.
                let line = clean(line.rsplit("\u{1b}c").next().unwrap_or(&line));
                if line.contains("SeaBIOS") || line.contains("Booting from ROM") {
                    continue;
                }
                if let Some(shown) = outcome.take_report(&line) {
                    println!("{label}{shown}");
                }
                if enough(&line) {
                    return outcome;
                }
            }
            Ok(Some(Line::Qemu(line))) => {
                eprintln!("{label}qemu: {line}");
                // QEMU stops such a guest and stays: nothing else would come.
                if is_kvm_error(&line) {
                    outcome.kvm_error = Some(line);
                    return outcome;
                }
            }
            Ok(None) => return outcome,
            Err(_) => {
                outcome.silent_for = Some(silence);
                return outcome;
            }
        }
    }
}

/// Drops the firmware's cursor movements; colours pass.
fn clean(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '\u{1b}' {
            text.push(character);
            continue;
        }
        let mut sequence = String::from(character);
        for next in rest.by_ref() {
            sequence.push(next);
            if next.is_ascii_alphabetic() {
                if next == 'm' {
                    text.push_str(&sequence);
                }
                break;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.take_report(line);
        }
        outcome
    }

    #[test]
    fn only_a_closing_line_passes() {
        assert!(after(&["@@enforcer exit=0"]).verdict().is_ok());
        assert!(after(&[]).verdict().is_err());
        assert!(after(&["@@enforcer exit=101"]).verdict().is_err());
        let panicked = ["[ 1.0] Kernel panic - not syncing", "@@enforcer exit=0"];
        assert!(after(&panicked).verdict().is_err());
    }

    #[test]
    fn a_panic_is_reported_in_one_line() {
        let outcome = after(&[
            "thread 'storm::half' (812) panicked at tests/tests/vm/storm.rs:9:5:",
            "3 of 12",
            "note: run with `RUST_BACKTRACE=1`",
        ]);
        assert_eq!(
            outcome.panics,
            ["storm::half at tests/tests/vm/storm.rs:9:5: 3 of 12"]
        );
    }

    #[test]
    fn counts_are_read_from_libtests_closing_line() {
        let outcome =
            after(&["test result: FAILED. 55 passed; 1 failed; 0 ignored; finished in 1.0s"]);
        assert_eq!((outcome.passed, outcome.failed), (55, 1));
    }

    #[test]
    fn a_test_that_ran_elsewhere_is_not_counted_as_passed() {
        let outcome = after(&[
            "@@test passed 1200 oom::one",
            "@@test failed 30 oom::two",
            "@@test elsewhere 0 recovery::three",
        ]);
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
        assert_eq!(outcome.tests.len(), 3);
        assert_eq!(outcome.tests[0].taken, Duration::from_millis(1200));
    }
}
