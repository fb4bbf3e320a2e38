//! Processes by descriptor: a number may be reused, a descriptor never is.

use super::{clock, process};
use enforcer_model::ids::{ExitStatus, ProcessId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A process whose place no other process can take. This needs Linux 5.3, and `wait` needs 5.4
/// (`P_PIDFD`).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PidFd {
    pub fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Opens a process; `None` if it is gone.
    pub fn of(process: ProcessId) -> io::Result<Option<Self>> {
        let number = libc::pid_t::try_from(process.pid).map_err(io::Error::other)?;
        // SAFETY: takes two numbers and returns a descriptor, see pidfd_open(2).
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        let descriptor = match i32::try_from(opened) {
            Ok(opened) if opened >= 0 => opened,
            _ => {
                let error = io::Error::last_os_error();
                // EINVAL: the number is that of a thread by now.
                return match error.raw_os_error() {
                    Some(libc::ESRCH | libc::EINVAL) => Ok(None),
                    _ => Err(error),
                };
            }
        };
        // SAFETY: the descriptor is new, and has no other owner.
        let pidfd = Self(unsafe { OwnedFd::from_raw_fd(descriptor) });
        // This check comes after the pidfd is open: the pid cannot go to another process unnoticed
        // any more.
        Ok(process::is_there(process).then_some(pidfd))
    }

    /// Opens the process that listens on a Unix socket, as the kernel reports it; `None` if there
    /// is none, or if it cannot be seen from here.
    pub fn listening_on(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        let pid = u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)?;
        Self::of(process::identify(pid)?).ok()?
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.signal_number(signal as libc::c_int)
    }

    /// Sends the signal of this number, which may be a real-time one.
    pub fn signal_number(&self, number: i32) -> io::Result<()> {
        // SAFETY: a valid descriptor, no siginfo, no flags: see pidfd_send_signal(2).
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                number,
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
    pub fn wait_for_exit(&self) {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        while matches!(poll(&mut polled, PollTimeout::NONE), Err(nix::Error::EINTR)) {}
    }

    /// Returns whether the process has exited, also if no one has collected it yet.
    pub fn has_exited(&self) -> bool {
        self.exits_within(Duration::ZERO)
    }

    /// Blocks until the process has exited, or for this long; returns whether it has.
    pub(crate) fn exits_within(&self, time: Duration) -> bool {
        let until = clock::now().after(time);
        loop {
            let left = until.since(clock::now());
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::ZERO);
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, timeout) {
                Ok(0) if !left.is_zero() => {}
                Ok(ready) => return ready > 0,
                Err(nix::Error::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Collects the exit status of a process that has exited; blocks until then. The number
    /// of a signal may be any of the kernel's 64, also a real-time one that has no name.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        self.status(libc::WEXITED)
    }

    /// Returns the exit status of a process that has exited, and leaves it to be collected.
    pub fn peek(&self) -> io::Result<ExitStatus> {
        self.status(libc::WEXITED | libc::WNOWAIT)
    }

    fn status(&self, options: libc::c_int) -> io::Result<ExitStatus> {
        loop {
            // SAFETY: all fields are integers, for which zero is valid.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: a valid descriptor and a structure that the kernel fills in.
            let waited = unsafe {
                libc::waitid(
                    libc::P_PIDFD,
                    self.0.as_raw_fd().unsigned_abs(),
                    &raw mut info,
                    options,
                )
            };
            if waited < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            // SAFETY: waitid(2) has filled in what belongs to SIGCHLD.
            let status = unsafe { info.si_status() };
            return Ok(match info.si_code {
                libc::CLD_EXITED => ExitStatus::Code(status),
                _ => ExitStatus::Signal(status),
            });
        }
    }
}
