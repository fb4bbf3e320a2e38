//! Signals by name, and random numbers: small things of the kernel's that need
//! no room of their own.

use nix::sys::signal::{SigSet, Signal};
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

/// SIGHUP changes nothing from now on, until somebody listens for it.
pub(crate) fn ignore_hangups() {
    // SAFETY: no handler is set, so none can run.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Whoever's output nobody reads any more ends without a word, as programs do.
pub(crate) fn end_on_broken_pipes() {
    // SAFETY: no handler is set, so none can run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// What would end a program that has the terminal for itself, from now on for whoever
/// looks for it.
#[derive(Debug)]
pub(crate) struct Ends(nix::sys::signalfd::SignalFd);

impl Ends {
    /// For this thread and those that it starts.
    pub(crate) fn watch() -> nix::Result<Self> {
        use nix::sys::signalfd::{SfdFlags, SignalFd};
        let mut ends = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            ends.add(signal);
        }
        ends.thread_block()?;
        SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self)
    }

    /// Whether one has come.
    pub(crate) fn has_come(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

/// SIGTERM and SIGINT, from now on for whoever waits for them.
pub(crate) fn hold_ends() -> nix::Result<SigSet> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    Ok(ends)
}
