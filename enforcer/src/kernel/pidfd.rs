//! Processes by descriptor: a number may be reused, a descriptor never is.

use enforcer_core::event::ExitStatus;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

/// A process that this agent started and has not waited for. Needs Linux 5.3.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PidFd {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Sends a signal; a process that is gone already is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: a valid descriptor, no siginfo, no flags: see pidfd_send_signal(2).
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match io::Error::last_os_error() {
            _ if result == 0 => Ok(()),
            gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// Blocks until the process has exited; collects nothing.
    pub(crate) fn wait_for_exit(&self) {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        while matches!(poll(&mut polled, PollTimeout::NONE), Err(nix::Error::EINTR)) {}
    }

    /// Collects the exit status of a process that has exited; blocks until then.
    pub(crate) fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match waitid(Id::PIDFd(self.0.as_fd()), WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Ok(ExitStatus::Signal(signal as i32));
                }
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
