//! Starts a program inside a cgroup, with nothing of the agent's left in it.
//!
//! `clone3` with `CLONE_INTO_CGROUP` (Linux 5.7) puts the child into its cgroup
//! before it runs an instruction, so that its first page is charged there, and
//! returns a pidfd, so that no number can be reused. The child then prepares
//! itself and waits behind a gate:
//!
//! ```text
//! agent                                child
//! clone3, by the fork server ────────→ session, mounts, descriptors, user …
//! records the instance                 waits for one byte
//! opens the gate ── one byte ────────→ execve
//! reads to the end of file ←───────────┘ closed by exec, or six bytes: what failed
//! ```
//!
//! If the agent dies before the byte, the child reads the end of file and goes.
//! Between `clone3` and `execve` only async-signal-safe calls are made.

mod child;
mod fork_server;
mod namespace;
mod orders;
mod paths;
mod view;
use super::account::Identity;
use super::landlock::Ruleset;
use super::pidfd::PidFd;
use super::seccomp::Filter;
use super::{clock, process};
use child::{Names, Stage};
use enforcer_model::detail::StartError;
use enforcer_model::ids::ExitStatus;
use enforcer_model::signals::signal_name;
use enforcer_model::units::{MonoTime, human_duration};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use std::ffi::{CStr, CString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub use fork_server::{COMMAND, ForkServer, serve};
pub use view::{MOST_MOUNTS, Mount, NOTHING, OwnView, Root, Source, View};

/// Everything that a child needs. It is made before the fork, because nothing may be allocated
/// after it.
#[derive(Debug)]
pub struct Launch {
    pub command: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: CString,
    pub identity: Identity,
    /// False if the agent is not root. Then it starts programs only as its own user.
    pub switch_user: bool,
    /// Numbers of capabilities(7).
    pub capabilities: Vec<u8>,
    /// The capabilities are a bound for root as well.
    pub bounds_root: bool,
    /// Resource and limit, as for setrlimit(2).
    pub rlimits: Vec<(u8, u64)>,
    /// The limit of open descriptors is the default, and not the manifest's.
    pub default_nofile: bool,
    pub no_new_privs: bool,
    pub umask: u32,
    /// The nice value; `None` for the agent's own.
    pub nice: Option<i32>,
    pub oom_score_adj: CString,
    /// The rules for paths, which begin after everything that needs other paths.
    pub paths: Option<Ruleset>,
    /// They are installed last.
    pub filters: Vec<Filter>,
    /// A core dump has no memory in it (core(5)).
    pub hides_memory: bool,
}

/// The longest wait for a killed process.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// The time between two checks whether a start is still wanted, in milliseconds.
const LOOK: u16 = 100;

/// The bounds of the wait for a start, and the explanation of a standstill.
pub struct Patience<'a> {
    pub until: MonoTime,
    /// The time from the beginning of the start to `until`.
    pub limit: Duration,
    /// Returns whether the start is no longer wanted.
    pub is_aborted: &'a dyn Fn() -> bool,
    /// Returns why the child stands still, if that is known without a look at it.
    pub explain: &'a dyn Fn() -> Option<String>,
}

/// A child that waits behind its gate.
#[derive(Debug)]
pub struct Waiting {
    pub pid: u32,
    pub pidfd: PidFd,
    gate: UnixStream,
    /// The mounts and the root, as an error names them.
    mounts: Vec<String>,
    root: Option<String>,
}

/// The failures before the child exists.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("ask the fork server, the process that creates the agent's children")]
    Server(#[source] io::Error),
    #[error("clone3 into the cgroup {cgroup}")]
    Clone { cgroup: String, source: io::Error },
}

/// The old name of this thread, which has the program's name until this is dropped.
///
/// A child has its parent's name until exec. If the kernel kills it before that for lack of memory,
/// the report must name the program.
struct ThreadName([u8; 16]);

impl ThreadName {
    /// Gives this thread the name of the program at this path.
    fn borrow(path: &CStr) -> Self {
        let mut before = [0; 16];
        let path = path.to_bytes_with_nul();
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let name = &path[slash.map_or(0, |at| at + 1)..];
        // SAFETY: the kernel writes 16 bytes at most, and reads a name that ends with NUL.
        unsafe {
            libc::prctl(libc::PR_GET_NAME, before.as_mut_ptr());
            libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        }
        Self(before)
    }
}

impl Drop for ThreadName {
    fn drop(&mut self) {
        // SAFETY: the kernel has written a name that ends with NUL.
        unsafe { libc::prctl(libc::PR_SET_NAME, self.0.as_ptr()) };
    }
}

impl Waiting {
    /// Has the child go without having run anything, and waits for it as long as a killed
    /// process may take.
    pub fn abandon(self) {
        drop(self.gate);
        collect(&self.pidfd);
    }

    /// Opens the gate, and returns once the program runs. What failed in the
    /// child is a start error; the child is gone then and was waited for, unless the kernel
    /// cannot end it.
    pub fn release(mut self, program: &str, patience: &Patience<'_>) -> Result<PidFd, StartError> {
        let mut report = Vec::new();
        // A child that has failed already is no longer reading; its report is there.
        let _ = self.gate.write_all(&[1]);
        let failed = |stage: String, source: io::Error| StartError {
            stage,
            errno: source.raw_os_error(),
            error: describe(&source),
        };
        let reported = loop {
            match self.read_gate(&mut report) {
                Ok(Some(ended)) => break Ok(ended),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
            let late = clock::now() >= patience.until;
            if late || (patience.is_aborted)() {
                return Err(self.give_up(program, patience, late));
            }
        };
        // A report counts even if an error came after it: a child that fails when the byte is
        // already there exits without reading it, and the socket then reports a reset.
        if let [stage, index, errno @ ..] = report.as_slice() {
            let number = errno.try_into().map_or(0, i32::from_ne_bytes);
            collect(&self.pidfd);
            let mount = self.mounts.get(usize::from(*index));
            let names = Names {
                program,
                root: self.root.as_deref().unwrap_or("/"),
                mount: mount.map_or("", String::as_str),
            };
            return Err(failed(
                Stage::describe(*stage, &names),
                io::Error::from_raw_os_error(number),
            ));
        }
        match reported {
            // An end of file says that exec closed the other side, or that the child is dead.
            Ok(()) => self.executed(program, patience),
            Err(source)
                if matches!(
                    source.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.executed(program, patience)
            }
            Err(source) => {
                let _ = self.pidfd.signal(Signal::SIGKILL);
                collect(&self.pidfd);
                Err(failed("reach the new process".to_owned(), source))
            }
        }
    }

    /// Reads what the gate has; `None` where nothing came within [`LOOK`].
    fn read_gate(&mut self, report: &mut Vec<u8>) -> io::Result<Option<()>> {
        let mut polled = [PollFd::new(self.gate.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, LOOK) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [0; 16];
        match self.gate.read(&mut buffer)? {
            0 => Ok(Some(())),
            length => {
                report.extend_from_slice(&buffer[..length]);
                Ok(None)
            }
        }
    }

    /// Handles a closed gate. It was closed by exec, unless the process died before: then it is
    /// still marked as forked only. `begin_new_exec` in fs/exec.c removes that mark before it
    /// closes any descriptor.
    fn executed(self, program: &str, patience: &Patience<'_>) -> Result<PidFd, StartError> {
        // A read of `/proc` may fail for a reason of the agent's own, so it is repeated while
        // the process lives.
        while !process::has_executed(self.pid) {
            if self.pidfd.exits_within(Duration::from_millis(LOOK.into())) {
                return Err(self.ended_early(program));
            }
            let stat = process::stat_line(self.pid);
            tracing::warn!("{program}: its gate is closed, but it seems not executed: {stat}");
            if clock::now() >= patience.until {
                return Err(self.give_up(program, patience, true));
            }
        }
        Ok(self.pidfd)
    }

    fn ended_early(self, program: &str) -> StartError {
        let error = match self.pidfd.wait() {
            Ok(ExitStatus::Signal(signal)) => {
                format!("it was killed by {} before it ran", signal_name(signal))
            }
            Ok(ExitStatus::Code(_) | ExitStatus::Unknown) => "it ended before it ran".to_owned(),
            Err(error) => format!("it ended before it ran: {}", describe(&error)),
        };
        StartError {
            stage: format!("execute {program}"),
            errno: None,
            error,
        }
    }

    /// Kills a child that stands still, and returns what it stood still in.
    fn give_up(self, program: &str, patience: &Patience<'_>, late: bool) -> StartError {
        let where_it_stands = (patience.explain)()
            .or_else(|| process::standstill(self.pid))
            .unwrap_or_else(|| "it has not called execve(2)".to_owned());
        let _ = self.pidfd.signal(Signal::SIGKILL);
        let stage = if late {
            let limit = human_duration(patience.limit);
            format!("execute {program} within {limit}")
        } else {
            format!("execute {program} before it was stopped")
        };
        let error = if self.pidfd.exits_within(KILL_WAIT) {
            let _ = self.pidfd.wait();
            where_it_stands
        } else {
            format!(
                "{where_it_stands}; process {} is still there {} after SIGKILL",
                self.pid,
                human_duration(KILL_WAIT)
            )
        };
        StartError {
            stage,
            errno: None,
            error,
        }
    }
}

/// Returns the signals that this process ignores, a bit each. If that can't be read, it is every signal.
fn ignored_signals() -> u64 {
    let status = procfs::process::Process::myself().and_then(|this| this.status());
    status.map_or(u64::MAX, |status| status.sigign)
}

/// Waits for a child that goes by itself; one that does not is killed.
fn collect(child: &PidFd) {
    if !child.exits_within(KILL_WAIT) {
        let _ = child.signal(Signal::SIGKILL);
    }
    if child.exits_within(KILL_WAIT) {
        let _ = child.wait();
    }
}

/// Returns an error in words, without Rust's "(os error 2)".
pub fn describe(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |number| nix::Error::from_raw(number).desc().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_the_programs_name_for_a_while() {
        let name = || {
            let read = std::fs::read_to_string("/proc/thread-self/comm");
            read.expect("a name").trim().to_owned()
        };
        let before = name();
        let named = ThreadName::borrow(c"/usr/bin/a-program-of-a-long-name");
        assert_eq!(name(), "a-program-of-a-");
        drop(named);
        assert_eq!(name(), before);
    }
}
