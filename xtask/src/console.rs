//! What a guest prints, and what that means. A boot has passed only by its
//! closing line: a panic, silence or an early end fails it.

use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// The line that our init prints last, before its exit code.
const VERDICT: &str = "@@enforcer exit=";
/// What is said for us alone begins like this.
const REPORT: &str = "@@durable ";
/// A guest that prints nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(180);

/// How a guest ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    code: Option<i32>,
    panicked: bool,
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    /// What each panic said, in a line: the console has a thousand lines after it.
    pub(crate) panics: Vec<String>,
    /// The last line told of a panic; the next one says why.
    telling: bool,
}

impl Outcome {
    pub(crate) fn verdict(&self) -> Result<()> {
        if self.panicked {
            bail!("the guest's kernel panicked");
        }
        match self.code.context("the guest ended without a verdict")? {
            0 => Ok(()),
            code => bail!("the guest's job failed with code {code}"),
        }
    }

    fn take(&mut self, line: &str) {
        self.panicked |= line.contains("Kernel panic") || line.contains("BUG: ");
        if self.telling {
            if let Some(last) = self.panics.last_mut() {
                last.push_str(": ");
                last.push_str(line.trim());
            }
            self.telling = false;
        } else if let Some((_, place)) = line.split_once("thread '")
            && let Some((name, place)) = place.split_once("' ")
            && let Some((_, place)) = place.split_once("panicked at ")
        {
            self.panics
                .push(format!("{name} at {}", place.trim_end_matches(':')));
            self.telling = true;
        }
        // libtest's closing line: `test result: ok. 3 passed; 0 failed; …`
        if let Some(counts) = line.split("test result: ").nth(1) {
            let number = |word: &str| {
                counts
                    .split(&[';', '.'][..])
                    .find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u32>().ok())
            };
            self.passed += number("passed").unwrap_or(0);
            self.failed += number("failed").unwrap_or(0);
        }
    }
}

/// Relays a guest's console until it ends, or a line is enough, each line behind the
/// label.
pub(crate) fn watch(
    guest: &mut Child,
    label: &str,
    mut enough: impl FnMut(&str) -> bool,
) -> Result<Outcome> {
    let lines = read_lines(guest)?;
    let mut outcome = Outcome::default();
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                // The firmware clears the screen before the kernel's first line.
                let line = clean(line.rsplit("\u{1b}c").next().unwrap_or(&line));
                if line.contains("SeaBIOS") || line.contains("Booting from ROM") {
                    continue;
                }
                outcome.take(&line);
                if enough(&line) {
                    return Ok(outcome);
                }
                if line.starts_with(REPORT) {
                    continue;
                }
                match line.find(VERDICT) {
                    Some(at) => outcome.code = line[at + VERDICT.len()..].trim().parse().ok(),
                    None => println!("{label}{line}"),
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the guest printed nothing for {} s", SILENCE.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(outcome),
        }
    }
}

fn read_lines(guest: &mut Child) -> Result<Receiver<String>> {
    let console = guest.stdout.take().context("QEMU has no console")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(console);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    Ok(lines)
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

    fn after(lines: &[&str], code: Option<i32>) -> Outcome {
        let mut outcome = Outcome {
            code,
            ..Outcome::default()
        };
        for line in lines {
            outcome.take(line);
        }
        outcome
    }

    #[test]
    fn only_a_closing_line_passes() {
        assert!(after(&[], Some(0)).verdict().is_ok());
        assert!(after(&[], None).verdict().is_err());
        assert!(after(&[], Some(101)).verdict().is_err());
        assert!(
            after(&["[ 1.0] Kernel panic - not syncing"], Some(0))
                .verdict()
                .is_err()
        );
    }

    #[test]
    fn a_panic_is_told_in_a_line() {
        let outcome = after(
            &[
                "thread 'storm::half' (812) panicked at tests/tests/vm/storm.rs:9:5:",
                "3 of 12",
                "note: run with `RUST_BACKTRACE=1`",
            ],
            Some(101),
        );
        let told = ["storm::half at tests/tests/vm/storm.rs:9:5: 3 of 12"];
        assert_eq!(outcome.panics, told);
    }

    #[test]
    fn counts_are_read_from_the_closing_line() {
        let outcome = after(
            &["test result: FAILED. 55 passed; 1 failed; 0 ignored; finished in 1.0s"],
            Some(101),
        );
        assert_eq!((outcome.passed, outcome.failed), (55, 1));
    }
}
