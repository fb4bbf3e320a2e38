//! Signals by name, and random numbers: small things of the kernel's that need
//! no room of their own.

use nix::sys::signal::Signal;
use std::str::FromStr as _;

/// `SIGTERM` and its like; the manifest has checked the name.
pub(crate) fn parse_signal(name: &str) -> Signal {
    Signal::from_str(name).unwrap_or(Signal::SIGTERM)
}

/// The name of a signal that ended a process.
pub(crate) fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(
        |_| format!("signal {number}"),
        |signal| signal.as_str().to_owned(),
    )
}
