//! The messages of sd_notify(3) by which a program says how it is.

use enforcer_model::text::printable;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The longest text of `STATUS=` that is kept, in characters.
const LONGEST_STATUS: usize = 200;

/// The last thing that a program said of its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// `READY=1`: it has started, or reloaded.
    Ready,
    /// `RELOADING=1`
    Reloading,
    /// `STOPPING=1`
    Stopping,
}

/// The program has reported by `WATCHDOG=` whether it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alive {
    /// `WATCHDOG=1`
    Yes,
    /// `WATCHDOG=trigger`: it has found by itself that it does not work.
    No,
}

/// One message, or several that were put together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub phase: Option<Phase>,
    /// The text of `STATUS=`, in one line.
    pub status: Option<String>,
    pub alive: Option<Alive>,
    /// The process of `MAINPID=`.
    #[serde(default)]
    pub main_pid: Option<u32>,
    /// The time for which `EXTEND_TIMEOUT_USEC=` has asked.
    pub extend: Option<Duration>,
}

impl Notice {
    /// Reads a message: assignments, one a line. What is not known is left out.
    #[must_use]
    pub fn parse(message: &[u8]) -> Self {
        let text = String::from_utf8_lossy(message);
        let mut notice = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match (name, value) {
                ("READY", "1") => notice.phase = Some(Phase::Ready),
                ("RELOADING", "1") => notice.phase = Some(Phase::Reloading),
                ("STOPPING", "1") => notice.phase = Some(Phase::Stopping),
                ("STATUS", text) => {
                    let text = printable(text);
                    notice.status = Some(text.chars().take(LONGEST_STATUS).collect());
                }
                ("WATCHDOG", "1") => notice.alive = Some(Alive::Yes),
                ("WATCHDOG", "trigger") => notice.alive = Some(Alive::No),
                ("MAINPID", pid) => notice.main_pid = pid.trim().parse().ok(),
                ("EXTEND_TIMEOUT_USEC", micros) => {
                    let micros = micros.trim().parse().ok();
                    notice.extend = micros.map(Duration::from_micros);
                }
                _ => {}
            }
        }
        notice
    }

    /// Returns whether it says nothing that is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Forgets what holds for the moment in which it is said.
    pub fn forget_once(&mut self) {
        self.alive = None;
        self.extend = None;
    }

    /// Adds a later message.
    pub fn add(&mut self, later: Self) {
        self.phase = later.phase.or(self.phase);
        self.alive = later.alive.or(self.alive);
        self.extend = later.extend.or(self.extend);
        self.main_pid = later.main_pid.or(self.main_pid);
        if later.status.is_some() {
            self.status = later.status;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_line_by_line() {
        let notice = Notice::parse(b"READY=1\nSTATUS=up \x1b[31mnow\nMAINPID=7\nX\n=\nWATCHDOG=1");
        assert_eq!(notice.phase, Some(Phase::Ready));
        assert_eq!(notice.alive, Some(Alive::Yes));
        assert_eq!(notice.main_pid, Some(7));
        assert!(!notice.status.expect("a text").contains('\x1b'));
        for nothing in [
            &b""[..],
            b"READY=0",
            b"READY",
            b"\xff\xfe",
            b"BARRIER=1",
            b"ready=1",
        ] {
            assert!(Notice::parse(nothing).is_empty(), "{nothing:?}");
        }
        let long = format!("STATUS={}", "x".repeat(5000));
        let status = Notice::parse(long.as_bytes()).status.expect("a text");
        assert_eq!(status.len(), LONGEST_STATUS);
        let extend = Notice::parse(b"EXTEND_TIMEOUT_USEC=1500000").extend;
        assert_eq!(extend, Some(Duration::from_millis(1500)));
        assert_eq!(Notice::parse(b"EXTEND_TIMEOUT_USEC=-1").extend, None);
    }

    #[test]
    fn the_last_word_counts() {
        let mut notice = Notice::parse(b"READY=1\nSTATUS=a");
        notice.add(Notice::parse(b"RELOADING=1"));
        assert_eq!(notice, Notice::parse(b"RELOADING=1\nSTATUS=a"));
    }
}
