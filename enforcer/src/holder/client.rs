//! The agent's side: it finds its holder, starts one if there is none, and asks it.

use super::deadlines::End;
use super::notices::{Said, Speaker};
use super::protocol::{self, Program, Reply, Request};
use super::sockets::SocketName;
use enforcer_core::ReplicaId;
use enforcer_core::event::InstanceId;
use enforcer_kernel::log_file::Bounds;
use enforcer_kernel::process::OWN_PROGRAM;
use enforcer_kernel::{clock, ready};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The longest wait for a new holder to listen, and for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The holder, as an agent knows it.
#[derive(Debug)]
pub(crate) struct Holder {
    logs: PathBuf,
    runtime_dir: PathBuf,
    /// The cgroup of a holder that this agent starts; `None` for the agent's own cgroup.
    cgroup: Option<PathBuf>,
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    connection: Option<OwnedFd>,
    keeps_sockets: bool,
    keeps_deadlines: bool,
    /// Counts the connections.
    generation: u64,
    /// The numbers of the last request that was sent, and of the last reply that has come.
    sent: u64,
    replied: u64,
    /// The replies to requests whose callers have not asked for them yet.
    replies: BTreeMap<u64, (Reply, Option<OwnedFd>)>,
    /// The holder process, if this agent has started it.
    child: Option<Child>,
}

/// A request that was sent. Its caller must ask for the reply.
#[derive(Debug)]
#[must_use]
pub(crate) struct Sent {
    generation: u64,
    number: u64,
}

/// The result of a new connection.
#[derive(Debug)]
pub(crate) struct Connected {
    /// The pipes that it keeps; those of a holder that has died are missing.
    pub(crate) pipes: Vec<u64>,
    /// The instances that it listens to.
    pub(crate) speakers: Vec<(ReplicaId, InstanceId)>,
    pub(crate) reports: Reports,
    /// The folder that it writes the logs to, if that is not the one that this agent reads.
    pub(crate) other_logs: Option<PathBuf>,
}

/// A holder's answer to `Hello`.
struct Greeted {
    connection: OwnedFd,
    version: u32,
    program: Program,
    pipes: Vec<u64>,
    keeps_sockets: bool,
    keeps_deadlines: bool,
    speakers: Vec<(ReplicaId, InstanceId)>,
    logs: PathBuf,
}

/// The connection on which the holder reports.
#[derive(Debug)]
pub(crate) struct Reports(AsyncFd<OwnedFd>);

#[derive(Debug)]
pub(crate) enum Report {
    Lost(Loss),
    Said(Said),
}

/// A loss of a workload's output.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) workload: ReplicaId,
    pub(crate) bytes: u64,
    pub(crate) why: String,
}

impl Reports {
    /// Returns the next report; `None` once the holder is gone.
    pub(crate) async fn next(&self) -> Option<Report> {
        loop {
            let mut readable = self.0.readable().await.ok()?;
            match readable.try_io(|socket| protocol::receive::<Reply>(socket.get_ref())) {
                Ok(Ok(Some((reply, _)))) => match reply {
                    Reply::Lost {
                        workload,
                        bytes,
                        why,
                    } => {
                        return Some(Report::Lost(Loss {
                            workload,
                            bytes,
                            why,
                        }));
                    }
                    Reply::Notified(said) => return Some(Report::Said(said)),
                    _ => {}
                },
                Ok(Ok(None) | Err(_)) => return None,
                Err(_not_yet) => {}
            }
        }
    }
}

impl Holder {
    pub(crate) fn new(logs: &Path, runtime_dir: &Path, cgroup: Option<PathBuf>) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self {
            logs: absolute(logs),
            runtime_dir: absolute(runtime_dir),
            cgroup,
            link: Mutex::default(),
        }
    }

    /// Connects to the holder; to a new one, if there is none. One that executes another
    /// version of this program first becomes this version. Must be called inside the runtime.
    ///
    /// # Errors
    /// If no holder can be started.
    pub(crate) fn connect(&self) -> io::Result<Connected> {
        let mut link = self.link.lock();
        link.disconnect();
        if let Some(child) = &mut link.child
            && child.try_wait().is_ok_and(|ended| ended.is_some())
        {
            link.child = None;
        }
        let mut holder = match self.greet() {
            Ok(holder) => holder,
            Err(error) if is_absence(&error) => {
                let mut child = self.start()?;
                let greeted =
                    self.greet_within(PATIENCE, || matches!(child.try_wait(), Ok(Some(_))));
                let greeted = greeted.map_err(|error| reason(&mut child).unwrap_or(error))?;
                link.child = Some(child);
                greeted
            }
            Err(error) => return Err(error),
        };
        if holder.program != Program::own()? {
            holder = self.renew(&holder.connection).or_else(|error| {
                tracing::warn!("the holder remains as it is: failed to renew it: {error}");
                self.greet()
            })?;
        }
        if holder.version != protocol::VERSION {
            return Err(io::Error::other(format!(
                "the holder speaks version {} of its protocol, and this agent {}",
                holder.version,
                protocol::VERSION
            )));
        }
        let reports = self.follow()?;
        link.connection = Some(holder.connection);
        link.keeps_sockets = holder.keeps_sockets;
        link.keeps_deadlines = holder.keeps_deadlines;
        Ok(Connected {
            pipes: holder.pipes,
            speakers: holder.speakers,
            reports,
            other_logs: (holder.logs != self.logs).then_some(holder.logs),
        })
    }

    /// Makes a connection, and says hello.
    fn greet(&self) -> io::Result<Greeted> {
        let connection = self.socket()?;
        let version = protocol::VERSION;
        match ask(&connection, &Request::Hello { version }, None)? {
            Reply::Hello {
                version,
                program,
                pipes,
                speakers,
                keeps_sockets,
                keeps_deadlines,
                logs,
                ..
            } => Ok(Greeted {
                connection,
                version,
                program,
                pipes,
                speakers,
                keeps_sockets,
                keeps_deadlines,
                logs,
            }),
            other => Err(unexpected(&other)),
        }
    }

    fn socket(&self) -> io::Result<OwnedFd> {
        protocol::connect_to(&super::socket_in(&self.runtime_dir), PATIENCE)
    }

    fn greet_within(
        &self,
        time: Duration,
        mut has_ended: impl FnMut() -> bool,
    ) -> io::Result<Greeted> {
        let begun = clock::now();
        loop {
            match self.greet() {
                Err(_) if clock::now().since(begun) < time && !has_ended() => {
                    clock::pause(time / 500);
                }
                done => return done,
            }
        }
    }

    /// Starts a holder beside this agent.
    fn start(&self) -> io::Result<Child> {
        let mut command = Command::new(OWN_PROGRAM);
        command
            .arg("hold")
            .arg("--beside-agent")
            .arg("--logs")
            .arg(&self.logs)
            .arg("--runtime-dir")
            .arg(&self.runtime_dir)
            .env_clear()
            // The holder must outlive the agent, so it gets neither the terminal's signals nor the
            // agent's outputs. Its messages before it serves are read from a pipe.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .current_dir("/");
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.spawn()
    }

    /// Has the holder become this version of the program.
    fn renew(&self, connection: &OwnedFd) -> io::Result<Greeted> {
        let program = File::open(OWN_PROGRAM)?;
        protocol::send(connection, &Request::Succeed, Some(program.as_fd()))?;
        match protocol::receive::<Reply>(connection) {
            // The holder has closed its connections: the new version runs.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Ok(Some((reply, _))) => return Err(unexpected(&reply)),
            Err(error) => return Err(error),
        }
        self.greet_within(PATIENCE, || false)
    }

    fn follow(&self) -> io::Result<Reports> {
        let connection = self.greet()?.connection;
        match ask(&connection, &Request::Follow, None)? {
            Reply::Done => {}
            other => return Err(unexpected(&other)),
        }
        nix::fcntl::fcntl(
            &connection,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        Ok(Reports(ready::watch(&connection, Interest::READABLE)?))
    }

    fn send(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<Sent> {
        self.link.lock().send(request, descriptor)
    }

    /// Waits for the reply to a request.
    ///
    /// # Errors
    /// If the holder does not answer, or cannot do what was asked.
    pub(crate) fn reply(&self, sent: &Sent) -> io::Result<()> {
        match self.link.lock().reply(sent)?.0 {
            Reply::Done => Ok(()),
            Reply::Failed { errno, error } => {
                Err(errno.map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn request(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.reply(&self.send(request, descriptor)?)
    }

    /// Has what comes out of this pipe written into the workload's log.
    ///
    /// # Errors
    /// If the holder does not answer, or cannot.
    pub(crate) fn keep(
        &self,
        workload: &ReplicaId,
        bounds: Bounds,
        pipe: (u64, &OwnedFd),
    ) -> io::Result<()> {
        self.reply(&self.begin_keep(workload, bounds, pipe)?)
    }

    /// Does what `keep` does, without waiting for the reply.
    ///
    /// # Errors
    /// If the request cannot be sent.
    pub(crate) fn begin_keep(
        &self,
        workload: &ReplicaId,
        bounds: Bounds,
        (inode, reader): (u64, &OwnedFd),
    ) -> io::Result<Sent> {
        let workload = workload.clone();
        let request = Request::Keep {
            workload,
            inode,
            bounds,
        };
        self.send(&request, Some(reader.as_fd()))
    }

    /// Has it listen to an instance at this socket.
    ///
    /// # Errors
    /// If the holder does not answer, or cannot.
    pub(crate) fn listen(&self, speaker: &Speaker, socket: &OwnedFd) -> io::Result<()> {
        self.request(&Request::Listen(speaker.clone()), Some(socket.as_fd()))
    }

    /// Has it close the socket of a workload.
    ///
    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn ignore(&self, workload: &ReplicaId) -> io::Result<()> {
        let workload = workload.clone();
        self.request(&Request::Ignore { workload }, None)
    }

    /// Returns all that instances have said so far.
    ///
    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn recall(&self) -> io::Result<Vec<Said>> {
        let (mut all, mut behind) = (Vec::new(), 0);
        loop {
            let sent = self.send(&Request::Recall { behind }, None)?;
            match self.link.lock().reply(&sent)?.0 {
                Reply::Recalled { said, last } => {
                    all.extend(said);
                    match last {
                        Some(last) => behind = last,
                        None => return Ok(all),
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Fails if the holder is older than this program and could not be renewed: it does not know
    /// some requests, and would hang up.
    fn check(&self, knows: impl Fn(&Link) -> bool) -> io::Result<()> {
        let link = self.link.lock();
        match link.connection.is_none() || knows(&link) {
            true => Ok(()),
            false => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Has it kill what still runs after these ends.
    ///
    /// # Errors
    /// If the holder does not answer, or is an older one that cannot.
    pub(crate) fn keep_deadlines(&self, ends: Vec<End>) -> io::Result<()> {
        self.check(|link| link.keeps_deadlines)?;
        self.request(&Request::Deadlines { ends }, None)
    }

    /// Has it keep a listening socket, with the setting that it was made for.
    ///
    /// # Errors
    /// If the holder does not answer, or cannot.
    pub(crate) fn keep_socket(
        &self,
        name: &SocketName,
        made_for: &str,
        socket: &OwnedFd,
    ) -> io::Result<()> {
        self.check(|link| link.keeps_sockets)?;
        let request = Request::KeepSocket {
            name: name.clone(),
            made_for: made_for.to_owned(),
        };
        self.request(&request, Some(socket.as_fd()))
    }

    /// Has it close a listening socket.
    ///
    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn close_socket(&self, name: &SocketName) -> io::Result<()> {
        self.check(|link| link.keeps_sockets)?;
        let name = name.clone();
        self.request(&Request::CloseSocket { name }, None)
    }

    /// Returns all listening sockets that it keeps, each with the setting that it was made for.
    ///
    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn sockets(&self) -> io::Result<Vec<(SocketName, String, OwnedFd)>> {
        self.check(|link| link.keeps_sockets)?;
        let (mut all, mut behind) = (Vec::new(), None);
        loop {
            let sent = self.send(&Request::NextSocket { behind }, None)?;
            match self.link.lock().reply(&sent)? {
                (Reply::Socket { name, made_for }, Some(socket)) => {
                    behind = Some(name.clone());
                    all.push((name, made_for, socket));
                }
                (Reply::Done, _) => return Ok(all),
                (other, _) => return Err(unexpected(&other)),
            }
        }
    }

    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn set_bounds(&self, workload: &ReplicaId, bounds: Bounds) -> io::Result<()> {
        let workload = workload.clone();
        self.request(&Request::SetBounds { workload, bounds }, None)
    }

    /// Begins a new log for a workload.
    ///
    /// # Errors
    /// If the holder does not answer, or a file cannot be renamed.
    pub(crate) fn set_aside(&self, workload: &ReplicaId, bounds: Bounds) -> io::Result<()> {
        let workload = workload.clone();
        self.request(&Request::SetAside { workload, bounds }, None)
    }

    /// Waits, for a moment, until what is in the pipes now is in the logs.
    ///
    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn settle(&self) -> io::Result<()> {
        self.request(&Request::Settle, None)
    }

    /// Ends a holder that an agent has started, once it has written everything; one that a
    /// service manager has started stays. Returns whether there is none now.
    pub(crate) fn end(&self) -> bool {
        let Ok(connection) = self.socket() else {
            return true;
        };
        let version = protocol::VERSION;
        match ask(&connection, &Request::Hello { version }, None) {
            Ok(Reply::Hello { is_unit: false, .. }) => {}
            _ => return false,
        }
        let _ = ask(&connection, &Request::End, None);
        let begun = clock::now();
        // The holder closes the connection when it ends. Each receive waits for a bounded time.
        while clock::now().since(begun) < PATIENCE {
            if !matches!(protocol::receive::<Reply>(&connection), Ok(Some(_))) {
                break;
            }
        }
        let mut link = self.link.lock();
        link.disconnect();
        if let Some(mut child) = link.child.take() {
            while matches!(child.try_wait(), Ok(None)) && clock::now().since(begun) < PATIENCE {
                clock::pause(PATIENCE / 500);
            }
        }
        true
    }
}

impl Link {
    /// Closes the connection. Requests without a reply get none.
    fn disconnect(&mut self) {
        self.connection = None;
        self.generation += 1;
        self.replied = self.sent;
        self.replies.clear();
    }

    fn send(&mut self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<Sent> {
        let connection = self.connection.as_ref();
        let connection = connection.ok_or(io::ErrorKind::NotConnected)?;
        if let Err(error) = protocol::send(connection, request, descriptor) {
            self.disconnect();
            return Err(error);
        }
        self.sent += 1;
        Ok(Sent {
            generation: self.generation,
            number: self.sent,
        })
    }

    /// The holder replies in the order of the requests.
    fn reply(&mut self, sent: &Sent) -> io::Result<(Reply, Option<OwnedFd>)> {
        loop {
            if let Some(reply) = self.replies.remove(&sent.number) {
                return Ok(reply);
            }
            let connection = self.connection.as_ref();
            let connection = connection.filter(|_| sent.generation == self.generation);
            match receive(connection.ok_or(io::ErrorKind::NotConnected)?) {
                Ok(reply) => {
                    self.replied += 1;
                    self.replies.insert(self.replied, reply);
                }
                Err(error) => {
                    // Whatever comes later would be taken for the reply to something else.
                    self.disconnect();
                    return Err(error);
                }
            }
        }
    }
}

/// Returns the message of a holder that ended at its start.
fn reason(child: &mut Child) -> Option<io::Error> {
    const LONGEST: u64 = 1 << 10;
    child.try_wait().ok()??;
    let mut said = String::new();
    let stderr = child.stderr.take()?;
    stderr.take(LONGEST).read_to_string(&mut said).ok()?;
    Some(io::Error::other(said.trim().to_owned()))
}

fn ask(
    connection: &OwnedFd,
    request: &Request,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<Reply> {
    protocol::send(connection, request, descriptor)?;
    Ok(receive(connection)?.0)
}

fn receive(connection: &OwnedFd) -> io::Result<(Reply, Option<OwnedFd>)> {
    match protocol::receive(connection) {
        Ok(Some(received)) => Ok(received),
        Ok(None) => Err(io::ErrorKind::ConnectionAborted.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::other(format!(
            "the holder did not answer within {} s",
            PATIENCE.as_secs()
        ))),
        Err(error) => Err(error),
    }
}

/// Returns whether there is no holder, as opposed to one that answers badly.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotFound};
    matches!(
        error.kind(),
        NotFound
            | ConnectionRefused
            | ConnectionReset
            | ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

fn unexpected(reply: &Reply) -> io::Error {
    match reply {
        Reply::Failed { error, .. } => io::Error::other(error.clone()),
        other => io::Error::other(format!("an answer that was not asked for: {other:?}")),
    }
}
