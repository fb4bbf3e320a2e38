//! A timer of the boot clock, which counts on while the host is suspended (timerfd_create(2), Linux 3.15).

use enforcer_model::units::MonoTime;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Readable from a moment on.
#[derive(Debug)]
pub struct Alarm(TimerFd);

impl Alarm {
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self(TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?))
    }

    /// Sets the moment, or none. A moment that has passed makes it readable at once.
    ///
    /// # Errors
    /// None is known for a valid timer.
    pub fn set(&self, at: Option<MonoTime>) -> io::Result<()> {
        let Some(at) = at else {
            return Ok(self.0.unset()?);
        };
        // Zero would disarm it.
        let nanos = i64::try_from(at.0.max(1)).unwrap_or(i64::MAX);
        let expiration = Expiration::OneShot(TimeSpec::nanoseconds(nanos));
        Ok(self
            .0
            .set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_readable(alarm: &Alarm, timeout: PollTimeout) -> bool {
        let mut polled = [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, timeout).expect("a poll") == 1
    }

    #[test]
    fn it_is_readable_from_its_moment_on() {
        let alarm = Alarm::new().expect("a timer");
        assert!(!is_readable(&alarm, PollTimeout::ZERO));
        let later = std::time::Duration::from_millis(20);
        alarm.set(Some(clock::now().after(later))).expect("set");
        assert!(is_readable(&alarm, PollTimeout::NONE));
        alarm.set(None).expect("unset");
        assert!(!is_readable(&alarm, PollTimeout::ZERO));
        alarm.set(Some(MonoTime(0))).expect("set");
        assert!(is_readable(&alarm, PollTimeout::NONE));
    }
}
