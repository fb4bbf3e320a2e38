//! The fork server: a process with one thread and little memory, which creates the agent's children.
//!
//! A fork copies the page tables and the descriptors of the process that calls it, and until the
//! child executes its program each page that either of them writes costs a fault and a copy. The
//! agent has a heap, a stack for each thread, and a dozen descriptors for each workload; the fork
//! server has next to nothing. `CLONE_PARENT` makes its children children of the agent.
//!
//! ```text
//! agent ── orders; cgroup, output, gate, mounts ──→ fork server
//!   ↑                                           │ clone3
//!   ├────────── pid, pidfd ─────────────────────┤
//!   └────────── gate ──────────────────────── child
//! ```
//!
//! It ends with the agent: its end of the connection is closed then.

use super::child::{self, MOST_SOCKETS, Plan, Pointers};
use super::orders::Orders;
use super::{SpawnError, ThreadName, View, Waiting};
use crate::capabilities;
use crate::cgroupfs::Cgroup;
use crate::clock;
use crate::descriptors;
use crate::own_process;
use crate::pidfd::PidFd;
use crate::process::OWN_PROGRAM;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recvmsg, sendmsg};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The hidden command that this program serves with.
pub const COMMAND: &str = "fork-server";
/// The longest wait for an answer. A fork waits for other changes of cgroups.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait for the end of a killed server.
const END_WAIT: Duration = Duration::from_secs(1);
/// More than the kernel takes for the arguments and the environment together (execve(2)).
const LARGEST: usize = 16 << 20;
/// The length of a request and, in the answer, the pid and the errno.
const HEADER: usize = size_of::<u64>();
/// The most descriptors of a request.
const MOST_DESCRIPTORS: usize = 4 + MOST_SOCKETS;

/// The agent's side.
#[derive(Debug, Default)]
pub struct ForkServer(Mutex<Option<Server>>);

#[derive(Debug)]
struct Server {
    process: Child,
    socket: UnixStream,
}

impl ForkServer {
    /// Starts the process, so that the first child need not wait for it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self) -> io::Result<()> {
        let mut server = self.0.lock();
        if server.is_none() {
            *server = Some(Server::start()?);
        }
        Ok(())
    }

    /// Ends the process.
    pub fn end(&self) {
        if let Some(server) = self.0.lock().take() {
            server.end();
        }
    }

    /// Creates a child in this cgroup, prepared and waiting. Its standard output and error go to
    /// `output`, it sees the mounts of `view`, which serves one child, and it gets the sockets as
    /// sd_listen_fds(3) says. `meanwhile` runs while the fork server works, and holds up other
    /// children.
    ///
    /// # Errors
    /// If the fork server cannot be reached, or cannot create the child.
    pub fn spawn(
        &self,
        launch: &super::Launch,
        (cgroup, output, view): (&Cgroup, &File, &View),
        sockets: &[Arc<OwnedFd>],
        meanwhile: impl FnOnce(),
    ) -> Result<Waiting, SpawnError> {
        let orders = Orders::of(launch, view, sockets.len()).encode();
        let mut meanwhile = Some(meanwhile);
        let mut once = || meanwhile.take().into_iter().for_each(|run| run());
        let mut attempt = || {
            // Each attempt has a gate of its own: a child of the first may still wait at its gate.
            let (gate, inner) = UnixStream::pair()?;
            let always = [cgroup.as_fd(), output.as_fd(), inner.as_fd()];
            let sockets: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
            let descriptors = [&always[..], &view.descriptors(), &sockets].concat();
            let answer = self.ask(&orders, &descriptors, &mut once)?;
            Ok((gate, answer))
        };
        let asked = attempt().or_else(|error: io::Error| {
            if view.serves_once() {
                return Err(error);
            }
            tracing::warn!("the fork server is started again: {error}");
            attempt()
        });
        once();
        let (gate, answer) = asked.map_err(SpawnError::Server)?;
        let (pid, pidfd) = answer.map_err(|source| SpawnError::Clone {
            cgroup: cgroup.path().display().to_string(),
            source,
        })?;
        Ok(Waiting {
            pid,
            pidfd: PidFd::new(pidfd),
            gate,
            mounts: view.places(),
            root: view.root(),
        })
    }

    /// Asks the server, or a new one if there is none. One that does not answer is given up.
    fn ask(
        &self,
        orders: &[u8],
        descriptors: &[BorrowedFd<'_>],
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<io::Result<(u32, OwnedFd)>> {
        let mut place = self.0.lock();
        let server = match place.take() {
            Some(server) => server,
            None => Server::start()?,
        };
        let answer = server.ask(orders, descriptors, meanwhile);
        match &answer {
            Ok(_) => *place = Some(server),
            Err(_) => server.end(),
        }
        answer
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Server {
    fn start() -> io::Result<Self> {
        let (socket, inner) = UnixStream::pair()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let process = Command::new(OWN_PROGRAM)
            .arg(COMMAND)
            .env_clear()
            // The terminal's signals are the agent's.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(inner)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { process, socket })
    }

    fn ask(
        &self,
        orders: &[u8],
        descriptors: &[BorrowedFd<'_>],
        meanwhile: &mut dyn FnMut(),
    ) -> io::Result<io::Result<(u32, OwnedFd)>> {
        let header = (orders.len() as u64).to_ne_bytes();
        let numbers: Vec<RawFd> = descriptors.iter().map(|one| one.as_raw_fd()).collect();
        let parts = [IoSlice::new(&header), IoSlice::new(orders)];
        let sent = send(self.socket.as_fd(), &parts, &numbers)?;
        // The rest of a message that is larger than the socket's buffer.
        (&self.socket).write_all(&orders[sent.saturating_sub(HEADER)..])?;
        meanwhile();
        let mut answer = [0; HEADER];
        let (length, mut descriptors) = receive(self.socket.as_fd(), &mut answer)?;
        if length != HEADER {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let [pid, errno] = halves(answer);
        match descriptors.pop() {
            Some(pidfd) => Ok(Ok((pid.cast_unsigned(), pidfd))),
            None => Ok(Err(io::Error::from_raw_os_error(errno))),
        }
    }

    /// Closes the connection, which ends the server, and waits for its end. One that hangs in the kernel
    /// is left behind.
    fn end(mut self) {
        drop(self.socket);
        let _ = self.process.kill();
        let until = clock::now().after(END_WAIT);
        while matches!(self.process.try_wait(), Ok(None)) && clock::now() < until {
            clock::pause(END_WAIT / 500);
        }
    }
}

/// Serves the agent that has started this process, whose standard input is the connection. Must be
/// called while this process has one thread.
///
/// # Errors
/// If the connection is none, or breaks.
pub fn serve() -> io::Result<()> {
    own_process::rename(c"fork-server");
    // The agent's end is its end, and nothing else: a service manager may signal all processes of a
    // unit.
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: no handler is installed.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    // This program was executed by root, which has all of them again.
    capabilities::give_up_the_others()?;
    let ignored = super::ignored_signals();
    let null = File::options().read(true).open("/dev/null")?;
    let socket = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    while let Some((orders, [cgroup, output, gate], more)) = next_request(&socket)? {
        let numbers: Vec<RawFd> = more.iter().map(|one| one.as_raw_fd()).collect();
        let (view, sockets) = numbers.split_at(orders.view.count());
        let pointers = Pointers::of(&orders);
        let plan = Plan {
            orders: &orders,
            pointers: &pointers,
            gate: gate.as_raw_fd(),
            null: null.as_raw_fd(),
            output: output.as_raw_fd(),
            view,
            sockets,
            ignored,
        };
        let named = ThreadName::borrow(&orders.command[0]);
        let cloned = clone_into(cgroup.as_fd(), &plan);
        drop(named);
        // The agent sees the end of the gate only when no one else has it.
        drop((cgroup, output, gate, more));
        let (pid, errno, pidfd) = match &cloned {
            Ok((pid, pidfd)) => (*pid, 0, Some(pidfd.as_raw_fd())),
            Err(error) => (0, error.raw_os_error().unwrap_or(libc::EIO), None),
        };
        let [pid, errno] = [pid, errno].map(i32::to_ne_bytes);
        let answer = [pid, errno].concat();
        let sent = send(socket.as_fd(), &[IoSlice::new(&answer)], pidfd.as_slice());
        if sent.is_err() {
            // The agent is gone. The child ends at its gate.
            return Ok(());
        }
    }
    Ok(())
}

/// A request has orders, three descriptors (cgroup, output, gate), those of the view, and the sockets.
type Request = (Orders, [OwnedFd; 3], Vec<OwnedFd>);

/// `None` if the agent is gone.
fn next_request(mut socket: &File) -> io::Result<Option<Request>> {
    let mut header = [0; HEADER];
    let (length, mut descriptors) = receive(socket.as_fd(), &mut header)?;
    if length == 0 {
        return Ok(None);
    }
    let length = usize::try_from(u64::from_ne_bytes(header)).unwrap_or(usize::MAX);
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    if length > LARGEST {
        return Err(invalid());
    }
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes)?;
    let orders = Orders::decode(&bytes).ok_or_else(invalid)?;
    let more = descriptors.split_off(descriptors.len().min(3));
    let descriptors = descriptors.try_into().map_err(|_| invalid())?;
    match more.len() == orders.view.count() + orders.sockets {
        true => Ok(Some((orders, descriptors, more))),
        false => Err(invalid()),
    }
}

fn halves(answer: [u8; HEADER]) -> [i32; 2] {
    let number = u64::from_ne_bytes(answer).to_ne_bytes();
    let half = |at: usize| [number[at], number[at + 1], number[at + 2], number[at + 3]];
    [half(0), half(4)].map(i32::from_ne_bytes)
}

/// Sends what fits into the socket's buffer, with the descriptors. Returns the number of bytes.
fn send(socket: BorrowedFd<'_>, parts: &[IoSlice<'_>], descriptors: &[RawFd]) -> io::Result<usize> {
    let control = [ControlMessage::ScmRights(descriptors)];
    let control: &[_] = if descriptors.is_empty() {
        &[]
    } else {
        &control
    };
    let flags = MsgFlags::MSG_NOSIGNAL;
    let number = socket.as_raw_fd();
    loop {
        match sendmsg::<UnixAddr>(number, parts, control, flags, None) {
            // A socket with a time limit is interrupted by every signal (signal(7)).
            Err(Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Receives bytes with their descriptors.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
    loop {
        let mut space = cmsg_space!([RawFd; MOST_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
        let received = match received {
            Err(Errno::EINTR) => continue,
            received => received?,
        };
        return Ok((received.bytes, descriptors::of_message(&received)?));
    }
}

/// Creates the child, which becomes a child of this process's parent.
fn clone_into(cgroup: BorrowedFd<'_>, plan: &Plan<'_>) -> io::Result<(i32, OwnedFd)> {
    // include/uapi/linux/sched.h; wider than the crate's type for flags.
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let shared = libc::CLONE_PIDFD | libc::CLONE_PARENT;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all of its fields are integers, for which zero is valid and means "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(shared.unsigned_abs()) | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    // With CLONE_PARENT the exit signal is this process's own (clone(2)).
    // SAFETY: without CLONE_VM the child has its own copy of this thread's stack,
    // and `child::run` makes only async-signal-safe calls and never returns.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => child::run(plan),
        // SAFETY: the kernel has just made this descriptor for us alone.
        1.. => Ok((i32::try_from(pid).map_err(io::Error::other)?, unsafe {
            OwnedFd::from_raw_fd(pidfd)
        })),
        _ => Err(io::Error::last_os_error()),
    }
}
