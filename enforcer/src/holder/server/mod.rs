//! The holder's loop: pipes take turns, a chunk each, and requests are answered meanwhile.
//!
//! Only one chunk is under way at a time. While it is written, the server reads no other pipe,
//! so a workload that writes faster than the disk waits at its own pipe. If a write takes longer
//! than a second, the disk hangs: until the write returns, the server reads output, drops it and
//! counts it. Otherwise the workloads would stand still.

mod requests;
mod successor;

use super::connections::Connections;
use super::deadlines::Deadlines;
use super::losses::Losses;
use super::notices::Notices;
use super::pace::{MOST_READY, Round};
use super::protocol::{self, Reply};
use super::sockets::Sockets;
use super::stopper::Stopper;
use super::succession::Succession;
use super::writer::{Done, Job, Writer};
use enforcer_core::ReplicaId;
use enforcer_kernel::clock::awake_now;
use enforcer_kernel::descriptors::inherit;
use enforcer_kernel::lock_file;
use enforcer_kernel::log_file::{Bounds, Lost};
use enforcer_kernel::pipe;
use enforcer_kernel::slot::{CHUNK, Slot};
use enforcer_kernel::spawn::describe;
use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::read;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A disk hangs if it has not taken a chunk within this time.
const HUNG_AFTER: Duration = Duration::from_secs(1);
/// The longest time until `Settle` is answered: busy pipes are never all empty.
const SETTLE_WITHIN: Duration = Duration::from_millis(200);
/// The time that is left for the rest of the output when the holder is to end.
const END_WITHIN: Duration = Duration::from_secs(2);
/// The shortest time between two reports of what programs say of themselves: one that never stops
/// talking waits at its own socket.
const NOTICES_EVERY: Duration = Duration::from_millis(50);

/// The folders of a holder, and how it was started.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) logs: PathBuf,
    /// The folder of its socket, its chunk, and its message to a successor.
    pub(crate) runtime_dir: PathBuf,
    /// A service manager has started the holder.
    pub(crate) is_unit: bool,
    /// This process was the holder before it executed this program.
    pub(crate) succeeds: bool,
}

/// The pipe of one workload's outputs.
#[derive(Debug)]
struct Kept {
    workload: ReplicaId,
    inode: u64,
    reader: OwnedFd,
}

/// The chunk's slot, while the server has it.
#[derive(Debug)]
enum Turn {
    /// No chunk is under way.
    Free(Slot),
    Writing {
        since: Instant,
    },
}

impl Turn {
    /// Returns whether the disk hangs.
    fn is_hung(&self, now: Instant) -> bool {
        matches!(self, Self::Writing { since } if now.duration_since(*since) >= HUNG_AFTER)
    }

    /// Leaves out a time in which this process did not run. Its writer did not run either, so the
    /// disk had nothing to do.
    fn forgive(&mut self, stall: Duration) {
        if let Self::Writing { since } = self {
            *since += stall;
        }
    }
}

/// Returns by how much a wait was longer than the time that was asked for.
fn stall(asked: Option<Duration>, took: Duration) -> Duration {
    asked.map_or(Duration::ZERO, |asked| took.saturating_sub(asked))
}

/// The descriptors that are ready.
#[derive(Debug, Default)]
struct Woken {
    listener: bool,
    done: bool,
    pipes: bool,
    notices: bool,
    deadlines: bool,
    connections: Vec<u64>,
}

/// Keeps pipes, and writes what comes out of them.
#[derive(Debug)]
pub(crate) struct Server {
    /// Two holders would write the same logs.
    _lock: Flock<File>,
    options: Options,
    listener: OwnedFd,
    connections: Connections,
    pipes: BTreeMap<u64, Kept>,
    ready: Epoll,
    bounds: BTreeMap<ReplicaId, Bounds>,
    last_id: u64,
    writer: Writer,
    turn: Turn,
    round: Round,
    next_round: Option<Instant>,
    losses: Losses,
    notices: Notices,
    sockets: Sockets,
    deadlines: Deadlines,
    /// The time from which programs are heard again: what they say until then comes together.
    next_notices: Option<Instant>,
    lonely_since: Option<Instant>,
    /// The connections that wait for a `Settle`, and until when.
    settling: Vec<(u64, Instant)>,
    /// The connection that asked for a successor, and the program.
    successor: Option<(u64, OwnedFd)>,
    /// Written to when this is to end.
    stop: Stopper,
    ending_since: Option<Instant>,
}

impl Server {
    /// Opens the socket. [`Server::run`] answers everybody who connects from now on.
    ///
    /// # Errors
    /// If its folder cannot be used, or there are no descriptors left.
    pub(crate) fn open(options: Options) -> io::Result<Self> {
        std::fs::create_dir_all(&options.runtime_dir)?;
        let lock = lock_file::lock(&options.runtime_dir.join("holder.lock"))?;
        let (slot, left) = Slot::open(&options.runtime_dir.join("chunk"))?;
        let writer = Writer::start(options.logs.clone())?;
        let turn = match left {
            None => Turn::Free(slot),
            Some(left) => {
                // The thread lives as long as this does.
                let _ = writer.jobs.send(Job::Finish(left, slot));
                let since = awake_now();
                Turn::Writing { since }
            }
        };
        let inherited = match options.succeeds {
            true => Some(Succession::take(&options.runtime_dir)?),
            false => None,
        };
        let listener = match &inherited {
            Some(inherited) => inherit(inherited.listener)?,
            None => protocol::listen_on(&super::socket_in(&options.runtime_dir))?,
        };
        let mut this = Self {
            _lock: lock,
            options,
            listener,
            connections: Connections::default(),
            pipes: BTreeMap::new(),
            ready: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            bounds: BTreeMap::new(),
            last_id: 0,
            writer,
            turn,
            round: Round::default(),
            next_round: None,
            losses: Losses::default(),
            notices: Notices::new()?,
            sockets: Sockets::default(),
            deadlines: Deadlines::new()?,
            next_notices: None,
            lonely_since: None,
            settling: Vec::new(),
            successor: None,
            stop: Stopper::new()?,
            ending_since: None,
        };
        let Some(inherited) = inherited else {
            return Ok(this);
        };
        for (workload, bounds) in inherited.bounds {
            this.set_bounds(workload, bounds);
        }
        for (workload, inode, descriptor) in inherited.pipes {
            this.keep(workload, inode, inherit(descriptor)?)?;
        }
        this.notices.inherit(inherited.notices)?;
        this.sockets.inherit(inherited.sockets)?;
        this.deadlines.replace(inherited.deadlines)?;
        Ok(this)
    }

    /// Returns what another thread ends this holder with.
    pub(crate) fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Serves until it is to end and the pipes are empty.
    ///
    /// # Errors
    /// If the kernel does not let it wait.
    pub(crate) fn run(mut self) -> io::Result<()> {
        loop {
            let woken = self.wait()?;
            if woken.listener {
                self.connections.accept(&self.listener);
            }
            for id in woken.connections {
                self.answer(id);
            }
            if woken.done {
                self.take_done();
            }
            if woken.deadlines {
                self.deadlines.kill_what_is_over();
            }
            if woken.notices {
                self.report_notices();
            }
            if woken.pipes {
                self.begin_round()?;
            }
            self.serve();
            self.report();
            self.hand_over();
            let is_free = self.round.is_over() && matches!(self.turn, Turn::Free(_));
            let wanted = self.ending_since.is_some() || !self.settling.is_empty();
            let is_quiet = wanted && is_free && self.ready_pipes(PollTimeout::ZERO)?.is_empty();
            self.settle(is_quiet);
            // A hanging disk never takes the rest. And a process outside the workload, of the
            // same user, may write to the pipe for ever.
            let is_late = self
                .ending_since
                .is_some_and(|since| awake_now().duration_since(since) >= END_WITHIN);
            if self.ending_since.is_some() && is_quiet || is_late {
                return Ok(());
            }
            if self
                .lonely_since
                .is_some_and(|since| awake_now().duration_since(since) >= self.sockets.lonely_for())
            {
                return Ok(());
            }
        }
    }

    fn is_hung(&self) -> bool {
        self.turn.is_hung(awake_now())
    }

    /// Returns whether pipes may be read now.
    fn may_read(&self) -> bool {
        let free = matches!(self.turn, Turn::Free(_)) || self.is_hung();
        free && self.round.is_over() && self.next_round.is_none_or(|next| next <= awake_now())
    }

    /// Returns the time until there is something to do; `None` if only an event can bring that.
    fn idle_for(&self) -> Option<Duration> {
        let now = awake_now();
        let turn = match self.turn {
            Turn::Free(_) if !self.round.is_over() => Some(now),
            Turn::Free(_) => self.next_round,
            Turn::Writing { since } if now.duration_since(since) < HUNG_AFTER => {
                Some(since + HUNG_AFTER)
            }
            Turn::Writing { .. } => self.next_round,
        };
        let follows = !self.connections.followers().is_empty();
        let report = self.losses.next_report(now).filter(|_| follows);
        let lonely = self
            .lonely_since
            .map(|since| since + self.sockets.lonely_for());
        let settling = self.settling.iter().map(|(_, until)| *until).min();
        let end = self.ending_since.map(|since| since + END_WITHIN);
        let turn = turn.filter(|_| !self.may_read());
        let notices = self.next_notices;
        let next = [turn, report, notices, lonely, settling, end];
        let next = next.into_iter().flatten().min()?;
        // The time is rounded up to whole milliseconds: a wait that ends too early would become a
        // busy loop.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
            .filter(|_| next > now)
            .or(Some(Duration::ZERO))
    }

    fn wait(&mut self) -> io::Result<Woken> {
        let is_alone = self.pipes.is_empty()
            && self.notices.is_empty()
            && self.connections.is_empty()
            && self.deadlines.is_empty();
        let lonely = is_alone && !self.options.is_unit;
        self.lonely_since = lonely.then(|| self.lonely_since.unwrap_or_else(awake_now));
        let idle_for = self.idle_for();
        let timeout = idle_for.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
        });
        let reads = self.may_read();
        self.next_notices = self.next_notices.filter(|next| *next > awake_now());
        let heard = match self.next_notices {
            None => PollFlags::POLLIN,
            Some(_) => PollFlags::empty(),
        };
        let ids = self.connections.ids();
        let mut polled = vec![
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.writer.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.notices.as_fd(), heard),
            PollFd::new(self.deadlines.as_fd(), PollFlags::POLLIN),
        ];
        let first_connection = polled.len();
        let sockets = self.connections.sockets();
        polled.extend(sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
        let first_of_rest = polled.len();
        if self.ending_since.is_none() {
            polled.push(PollFd::new(self.stop.as_fd(), PollFlags::POLLIN));
        }
        if reads {
            polled.push(PollFd::new(self.ready.0.as_fd(), PollFlags::POLLIN));
        }
        let began = awake_now();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stall = stall(idle_for, awake_now().duration_since(began));
        let is_ready = |one: &PollFd<'_>| one.any().unwrap_or(false);
        let rest: Vec<bool> = polled[first_of_rest..].iter().map(is_ready).collect();
        let woken = Woken {
            listener: is_ready(&polled[0]),
            done: is_ready(&polled[1]),
            pipes: reads && rest.last().copied().unwrap_or(false),
            notices: is_ready(&polled[2]),
            deadlines: is_ready(&polled[3]),
            connections: ids
                .into_iter()
                .zip(&polled[first_connection..first_of_rest])
                .filter(|(_, one)| is_ready(one))
                .map(|(id, _)| id)
                .collect(),
        };
        self.turn.forgive(stall);
        self.ending_since = self.ending_since.map(|since| since + stall);
        let is_stopped = self.ending_since.is_none() && rest.first().copied().unwrap_or(false);
        if is_stopped {
            self.end();
        }
        Ok(woken)
    }

    fn answer(&mut self, id: u64) {
        if let Some((request, descriptor)) = self.connections.receive(id)
            && let Some(reply) = self.carry_out(id, request, descriptor)
        {
            self.connections.reply(id, &reply);
        }
    }

    fn end(&mut self) {
        self.ending_since.get_or_insert_with(awake_now);
    }

    /// Answers `Settle` if the pipes are empty or its time is over.
    fn settle(&mut self, is_quiet: bool) {
        let now = awake_now();
        let over = |(_, until): &(u64, Instant)| is_quiet || *until <= now;
        let done: Vec<_> = self.settling.iter().copied().filter(over).collect();
        self.settling.retain(|one| !over(one));
        for (id, _) in done {
            self.connections.reply(id, &Reply::Done);
        }
    }

    fn ask(&self, job: Job) {
        // The thread lives as long as this does.
        let _ = self.writer.jobs.send(job);
    }

    fn set_bounds(&mut self, workload: ReplicaId, bounds: Bounds) {
        self.bounds.insert(workload.clone(), bounds);
        self.ask(Job::SetBounds(workload, bounds));
    }

    fn keep(&mut self, workload: ReplicaId, inode: u64, reader: OwnedFd) -> io::Result<()> {
        // An agent that lost its connection asks again.
        if self.pipes.values().any(|kept| kept.inode == inode) {
            return Ok(());
        }
        self.last_id += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.last_id);
        self.ready.add(&reader, event)?;
        let kept = Kept {
            workload,
            inode,
            reader,
        };
        self.ask(Job::Open(kept.workload.clone()));
        self.pipes.insert(self.last_id, kept);
        Ok(())
    }

    fn ready_pipes(&self, timeout: PollTimeout) -> io::Result<Vec<u64>> {
        let mut events = [EpollEvent::empty(); MOST_READY];
        // The kernel moves what it has returned to the end of its list of ready pipes.
        let count = match self.ready.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(events[..count].iter().map(EpollEvent::data).collect())
    }

    fn begin_round(&mut self) -> io::Result<()> {
        self.round = Round::of(self.ready_pipes(PollTimeout::ZERO)?);
        self.next_round = None;
        Ok(())
    }

    /// Gives the next pipe its turn; while the disk hangs, empties all of this round.
    fn serve(&mut self) {
        let is_hung = self.is_hung();
        while let Some(id) = match self.turn {
            Turn::Free(_) => self.round.next_pipe(),
            Turn::Writing { .. } if is_hung => self.round.next_pipe(),
            Turn::Writing { .. } => None,
        } {
            let read = if is_hung {
                self.drop_chunk(id)
            } else {
                self.read_chunk(id)
            };
            match read {
                Ok(Some(length)) => self.round.has_read(length),
                // The pipe was empty.
                Ok(None) => {}
                Err(error) => {
                    if let Some(kept) = self.pipes.get(&id) {
                        tracing::warn!("{}: its output cannot be read: {error}", kept.workload);
                    }
                    self.forget(id);
                }
            }
            if self.round.is_over() {
                let is_hurried = !self.settling.is_empty() || self.ending_since.is_some();
                let pause = self.round.pause(is_hung, is_hurried);
                self.next_round = pause.map(|pause| awake_now() + pause);
            }
        }
    }

    /// Reads a chunk and has it written.
    fn read_chunk(&mut self, id: u64) -> io::Result<Option<usize>> {
        let Some(kept) = self.pipes.get(&id) else {
            return Ok(None);
        };
        let Turn::Free(slot) = &mut self.turn else {
            return Ok(None);
        };
        let waiting = pipe::waiting_in(&kept.reader)?;
        let read = slot.fill(&kept.workload, waiting.max(1), |chunk| {
            Ok(read(&kept.reader, chunk)?)
        });
        match read {
            Ok(0) => {
                self.forget(id);
                Ok(None)
            }
            Ok(length) => {
                let since = awake_now();
                let workload = kept.workload.clone();
                if let Turn::Free(slot) = std::mem::replace(&mut self.turn, Turn::Writing { since })
                {
                    self.ask(Job::Write(workload, slot));
                }
                Ok(Some(length))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a chunk that cannot be written.
    fn drop_chunk(&mut self, id: u64) -> io::Result<Option<usize>> {
        let Some(kept) = self.pipes.get(&id) else {
            return Ok(None);
        };
        match read(&kept.reader, &mut [0; CHUNK]) {
            Ok(0) => {
                self.forget(id);
                Ok(None)
            }
            Ok(length) => {
                let seconds = HUNG_AFTER.as_secs();
                let why = format!("the disk has not taken an earlier line within {seconds} s");
                let bytes = u64::try_from(length).unwrap_or(0);
                self.losses.add(kept.workload.clone(), bytes, why);
                Ok(Some(length))
            }
            Err(nix::Error::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Closes a pipe that no process can write to any more.
    fn forget(&mut self, id: u64) {
        let Some(kept) = self.pipes.remove(&id) else {
            return;
        };
        // The agent has the same pipe open: closing this descriptor alone would not remove it.
        let _ = self.ready.delete(&kept.reader);
        if !self
            .pipes
            .values()
            .any(|other| other.workload == kept.workload)
        {
            self.bounds.remove(&kept.workload);
            self.ask(Job::Close(kept.workload));
        }
    }

    fn take_done(&mut self) {
        let _ = self.writer.wake.read();
        while let Ok(done) = self.writer.done.try_recv() {
            match done {
                Done::Wrote(workload, slot, lost) => {
                    self.turn = Turn::Free(slot);
                    if let Some(Lost { bytes, why }) = lost {
                        self.losses.add(workload, bytes, describe(&why));
                    }
                }
                Done::NotOpened(workload, why) => {
                    self.losses.add(workload, 0, describe(&why));
                }
                Done::SetAside(id, result) => {
                    let reply = result.map_or_else(|error| Reply::failed(&error), |()| Reply::Done);
                    self.connections.reply(id, &reply);
                }
            }
        }
    }

    /// Reports losses on the connections that follow.
    fn report(&mut self) {
        let followers = self.connections.followers();
        if followers.is_empty() {
            return;
        }
        for lost in self.losses.due(awake_now()) {
            for id in &followers {
                self.connections.reply(*id, &lost);
            }
        }
    }

    /// Reports what programs have said of themselves. Without an agent it is kept.
    fn report_notices(&mut self) {
        let notices = self.notices.read();
        self.next_notices = Some(awake_now() + NOTICES_EVERY);
        let followers = self.connections.followers();
        for id in &followers {
            for notice in &notices {
                self.connections.reply(*id, notice);
            }
        }
        if !followers.is_empty() {
            self.notices.forget_once();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_did_not_run_does_not_blame_the_disk() {
        let since = awake_now();
        let woken = since + Duration::from_secs(30);
        let mut turn = Turn::Writing { since };
        assert!(turn.is_hung(woken));
        // It asked for a second, and did not run for the other 29.
        turn.forgive(stall(Some(HUNG_AFTER), Duration::from_secs(30)));
        assert!(!turn.is_hung(woken - Duration::from_millis(1)));
        // The disk has had its second now.
        assert!(turn.is_hung(woken));
        // A wait for events only may take any time.
        assert_eq!(stall(None, Duration::from_secs(30)), Duration::ZERO);
        assert_eq!(stall(Some(HUNG_AFTER), Duration::ZERO), Duration::ZERO);
    }
}
