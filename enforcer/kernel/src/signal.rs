//! Signals: finds them by name, ignores them, restores their default, and blocks them so that they
//! can be waited for.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Ignores SIGHUP until a handler is installed.
pub fn ignore_hangups() {
    // SAFETY: no handler is set, so none can run.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Restores the default of SIGPIPE: a program whose output is closed ends silently.
pub fn end_on_broken_pipes() {
    // SAFETY: no handler is set, so none can run.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The signals that would end a program which has taken over the terminal. They do so again when this is
/// dropped.
#[derive(Debug)]
pub struct Ends(nix::sys::signalfd::SignalFd, SigSet);

impl Ends {
    /// Blocks the signals for this thread and those that it starts.
    pub fn watch() -> nix::Result<Self> {
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
        let made = SignalFd::with_flags(&ends, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        made.map(|descriptor| Self(descriptor, ends))
    }

    /// Waits for a signal, at most this long. Returns whether one has come.
    pub fn comes_within(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, timeout) {
                Ok(0) if left.is_zero() => return false,
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) | Err(_) => return self.has_come(),
            }
        }
    }

    /// Returns whether a signal has come.
    pub fn has_come(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // The set is valid, so this cannot fail.
        let _ = self.1.thread_unblock();
    }
}

/// Blocks SIGTERM and SIGINT, so that a thread can wait for them.
pub fn hold_ends() -> nix::Result<SigSet> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block()?;
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use enforcer_model::signals::signal_name;
    use nix::sys::signal::Signal;

    #[test]
    fn every_signal_has_the_name_that_the_system_gives_it() {
        for signal in Signal::iterator() {
            let number: libc::c_int = signal as libc::c_int;
            assert_eq!(signal_name(number), signal.as_str());
        }
    }
}
