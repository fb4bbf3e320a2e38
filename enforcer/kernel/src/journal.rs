//! A stream to systemd-journald for a workload's standard output and error, and the program that
//! reads what journald has stored.
//!
//! The protocol is that of sd_journal_stream_fd(3): seven lines at the beginning of a stream
//! socket, and what is written after them is the log. journald attributes each line to the
//! process that has written it, by the credentials that the kernel attaches (unix(7)). If journald
//! is restarted, systemd keeps the stream for it; if it is stopped, a writer gets EPIPE
//! (systemd-journald.service(8)).

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::sockopt::SndBuf;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect as connect_to, setsockopt,
    shutdown, socket,
};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Stdio;
use tokio::process::{Child, Command};

const SOCKET: &str = "/run/systemd/journal/stdout";
/// The size of the socket's buffer, in bytes. A writer waits when it is full. systemd uses the same
/// size.
const BUFFER: usize = 8 << 20;
/// `info`, as syslog(3) numbers it.
const PRIORITY: u8 = 6;

/// Connects a stream that journald stores under this identifier. The unit is for lines whose writer
/// has ended before journald reads its cgroup.
///
/// # Errors
/// If journald is not there or takes no more connections.
pub fn connect(identifier: &str, unit: Option<&str>) -> io::Result<File> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // A journald that hangs has a full queue: this does not wait for it.
    connect_to(stream.as_raw_fd(), &UnixAddr::new(SOCKET)?)?;
    shutdown(stream.as_raw_fd(), Shutdown::Read)?;
    // The kernel gives at most net.core.wmem_max.
    setsockopt(&stream, SndBuf, &BUFFER)?;
    let mut file = File::from(stream);
    // A prefix like `<3>` sets the priority of a line. journald forwards nothing.
    let unit = unit.unwrap_or_default();
    write!(file, "{identifier}\n{unit}\n{PRIORITY}\n1\n0\n0\n0\n")?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// The lines that a reader of the journal wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The number of last lines.
    pub tail: Option<u64>,
    pub follow: bool,
    /// Add the lines of earlier boots.
    pub previous: bool,
}

/// Starts `journalctl`, which prints the lines of a workload. It is killed when the returned
/// handle is dropped. Without `follow`, its standard error is a pipe.
///
/// # Errors
/// If it cannot be started.
pub fn read(identifier: &str, unit: Option<&str>, wanted: Wanted) -> io::Result<Child> {
    let mut command = Command::new("journalctl");
    command
        .args(["--quiet", "--no-pager", "--all", "--output=cat"])
        .arg(format!("SYSLOG_IDENTIFIER={identifier}"));
    if let Some(unit) = unit {
        command.arg(format!("_SYSTEMD_UNIT={unit}"));
    }
    if !wanted.previous {
        command.arg("--boot");
    }
    match wanted.tail {
        // More is a fault to journalctl.
        Some(lines) => command.arg(format!(
            "--lines={}",
            lines.min(i32::MAX.unsigned_abs().into())
        )),
        // With --follow, journalctl shows ten lines by default.
        None => command.arg("--lines=all"),
    };
    if wanted.follow {
        command.arg("--follow");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(match wanted.follow {
            true => Stdio::null(),
            false => Stdio::piped(),
        })
        .kill_on_drop(true)
        .spawn()
}
