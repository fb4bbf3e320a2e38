//! The sockets of sd_notify(3): the holder reads them, so that no program waits for an agent and none
//! of its words is lost. It keeps what each instance has said for the next agent.

use super::protocol::Reply;
use enforcer_core::ReplicaId;
use enforcer_core::event::InstanceId;
use enforcer_core::notice::Notice;
use enforcer_kernel::descriptors::inherit;
use enforcer_kernel::notify::{self, Datagram};
use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{SyncSender, sync_channel};

/// The most messages of one socket that are read before others get their turn.
const MOST_AT_ONCE: usize = 64;
/// The most instances of one reply: their texts have 200 characters each.
const MOST_RECALLED: usize = 100;
/// The most messages whose descriptors wait to be closed.
const MOST_UNCLOSED: usize = 1024;
/// The most sockets that are read in one turn.
const MOST_READY: usize = 64;

/// The instance whose processes may speak, and who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Speaker {
    pub(crate) workload: ReplicaId,
    pub(crate) instance: InstanceId,
    /// The path of its cgroup, as `/proc/PID/cgroup` has it.
    pub(crate) home: String,
    pub(crate) uid: u32,
}

/// What an instance has said of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) workload: ReplicaId,
    pub(crate) instance: InstanceId,
    pub(crate) notice: Notice,
}

/// A socket for the program that succeeds this one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Inherited {
    speaker: Speaker,
    said: Notice,
    pub(super) descriptor: RawFd,
}

#[derive(Debug)]
struct Heard {
    speaker: Speaker,
    socket: OwnedFd,
    /// Everything so far, put together.
    said: Notice,
}

/// A thread that closes what came with messages: a close may take as long as its sender wants, as that
/// of a socket that lingers.
#[derive(Debug)]
struct Closer(SyncSender<Vec<OwnedFd>>);

impl Closer {
    fn start() -> io::Result<Self> {
        let (sender, closed) = sync_channel::<Vec<OwnedFd>>(MOST_UNCLOSED);
        let close = move || closed.into_iter().for_each(drop);
        std::thread::Builder::new()
            .name("closer".to_owned())
            .spawn(close)?;
        Ok(Self(sender))
    }

    fn close(&self, descriptors: Vec<OwnedFd>) {
        if !descriptors.is_empty() {
            // If the queue is full, they are closed here.
            let _ = self.0.try_send(descriptors);
        }
    }
}

#[derive(Debug)]
pub(super) struct Notices {
    closer: Closer,
    ready: Epoll,
    sockets: BTreeMap<u64, Heard>,
    last_id: u64,
}

impl Notices {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            closer: Closer::start()?,
            ready: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sockets: BTreeMap::new(),
            last_id: 0,
        })
    }

    /// Returns what becomes readable when a program has said something.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Returns the instances that are heard.
    pub(super) fn speakers(&self) -> Vec<(ReplicaId, InstanceId)> {
        let all = self.sockets.values();
        all.map(|heard| (heard.speaker.workload.clone(), heard.speaker.instance))
            .collect()
    }

    /// Listens to an instance, in place of the one before it.
    pub(super) fn keep(&mut self, speaker: Speaker, socket: OwnedFd) -> io::Result<()> {
        self.forget(&speaker.workload);
        self.add(speaker, socket, Notice::default())
    }

    fn add(&mut self, speaker: Speaker, socket: OwnedFd, said: Notice) -> io::Result<()> {
        self.last_id += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, self.last_id);
        self.ready.add(&socket, event)?;
        let heard = Heard {
            speaker,
            socket,
            said,
        };
        self.sockets.insert(self.last_id, heard);
        Ok(())
    }

    /// Closes the socket of a workload.
    pub(super) fn forget(&mut self, workload: &ReplicaId) {
        self.sockets
            .retain(|_, heard| heard.speaker.workload != *workload);
    }

    /// Reads what was said since the last time, by those who may.
    pub(super) fn read(&mut self) -> Vec<Reply> {
        let mut events = [EpollEvent::empty(); MOST_READY];
        let count = self.ready.wait(&mut events, PollTimeout::ZERO).unwrap_or(0);
        let mut replies = Vec::new();
        for event in &events[..count] {
            let Some(heard) = self.sockets.get_mut(&event.data()) else {
                continue;
            };
            let new = heard.read(&self.closer);
            if !new.is_empty() {
                replies.push(Reply::Notified(heard.says(new)));
            }
        }
        replies
    }

    /// Returns what was said, for an agent that has not heard it: as much as fits into one reply.
    pub(super) fn recall(&mut self, behind: u64) -> Reply {
        let part = self.sockets.range_mut(behind.saturating_add(1)..);
        let (mut said, mut last) = (Vec::new(), None);
        for (id, heard) in part.take(MOST_RECALLED) {
            last = Some(*id);
            if !heard.said.is_empty() {
                said.push(heard.says(heard.said.clone()));
            }
            heard.said.forget_once();
        }
        Reply::Recalled { said, last }
    }

    /// Forgets what holds for a moment only: an agent has heard it.
    pub(super) fn forget_once(&mut self) {
        for heard in self.sockets.values_mut() {
            heard.said.forget_once();
        }
    }

    pub(super) fn inheritance(&self) -> Vec<Inherited> {
        let all = self.sockets.values();
        all.map(|heard| Inherited {
            speaker: heard.speaker.clone(),
            said: heard.said.clone(),
            descriptor: heard.socket.as_raw_fd(),
        })
        .collect()
    }

    pub(super) fn inherit(&mut self, inherited: Vec<Inherited>) -> io::Result<()> {
        for one in inherited {
            self.add(one.speaker, inherit(one.descriptor)?, one.said)?;
        }
        Ok(())
    }
}

impl Heard {
    fn read(&mut self, closer: &Closer) -> Notice {
        let mut new = Notice::default();
        for _ in 0..MOST_AT_ONCE {
            let datagram = match notify::receive(&self.socket) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(
                        "{}: a message of it is lost: {error}",
                        self.speaker.workload
                    );
                    continue;
                }
            };
            if self.may_speak(&datagram) {
                new.add(Notice::parse(&datagram.text));
            }
            closer.close(datagram.descriptors);
        }
        self.said.add(new.clone());
        new
    }

    fn may_speak(&self, datagram: &Datagram) -> bool {
        let Speaker { home, uid, .. } = &self.speaker;
        let may = notify::is_of(datagram, home, *uid);
        if !may {
            let (pid, uid) = (datagram.pid, datagram.uid);
            let workload = &self.speaker.workload;
            tracing::debug!(
                "{workload}: process {pid} of uid {uid} is not its own, and is not heard"
            );
        }
        may
    }

    fn says(&self, notice: Notice) -> Said {
        Said {
            workload: self.speaker.workload.clone(),
            instance: self.speaker.instance,
            notice,
        }
    }
}
