//! The thread that writes logs: a disk that hangs holds it up, and nothing else.

use enforcer_core::ReplicaId;
use enforcer_kernel::log_file::{Bounds, LogFile, Lost};
use enforcer_kernel::slot::{Left, Slot};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A job for the thread. It does them in order.
#[derive(Debug)]
pub(super) enum Job {
    /// Writes what is missing of the chunk that a holder before this one has left.
    Finish(Left, Slot),
    /// Makes the workload's log, before there is anything to write.
    Open(ReplicaId),
    /// Writes the chunk in the slot to the workload's log.
    Write(ReplicaId, Slot),
    SetBounds(ReplicaId, Bounds),
    /// Begins a new log; whose request this is.
    SetAside(ReplicaId, Bounds, u64),
    /// No more output comes for a while, so the file may be closed.
    Close(ReplicaId),
}

/// An answer of the thread.
#[derive(Debug)]
pub(super) enum Done {
    Wrote(ReplicaId, Slot, Option<Lost>),
    NotOpened(ReplicaId, io::Error),
    SetAside(u64, io::Result<()>),
}

/// The server's side of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) jobs: Sender<Job>,
    pub(super) done: Receiver<Done>,
    /// Readable once something was done.
    pub(super) wake: Arc<EventFd>,
}

/// The thread's own.
struct Logs {
    folder: PathBuf,
    files: HashMap<ReplicaId, LogFile>,
}

/// The bounds of a log until an agent has sent them: the log is not rotated, and no file of it
/// is removed.
const UNKNOWN: Bounds = Bounds {
    max_size: u64::MAX,
    // This is the largest number that a manifest may ask for.
    keep: 100,
};

impl Writer {
    pub(super) fn start(folder: PathBuf) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let ((jobs, asked), (answers, done)) = (channel(), channel());
        let thread_wake = Arc::clone(&wake);
        std::thread::Builder::new()
            .name("log writer".to_owned())
            .spawn(move || {
                let mut logs = Logs {
                    folder,
                    files: HashMap::new(),
                };
                for job in asked {
                    let Some(answer) = logs.carry_out(job) else {
                        continue;
                    };
                    if answers.send(answer).is_err() || thread_wake.write(1).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { jobs, done, wake })
    }
}

impl Logs {
    fn log(&mut self, workload: &ReplicaId) -> &mut LogFile {
        let path = self.folder.join(format!("{}.log", workload.file_name()));
        let of = self.files.entry(workload.clone());
        of.or_insert_with(|| LogFile::new(path, UNKNOWN))
    }

    fn carry_out(&mut self, job: Job) -> Option<Done> {
        match job {
            Job::Write(workload, mut slot) => {
                let chunk = slot.take();
                let log = self.log(&workload);
                let appended = log.append(&chunk, |from, place| slot.writing(from, place));
                slot.clear();
                Some(Done::Wrote(workload, slot, appended.err()))
            }
            Job::Finish(left, mut slot) => {
                let appended = self.finish(&left, &mut slot);
                slot.clear();
                Some(Done::Wrote(left.workload, slot, appended.err()))
            }
            Job::Open(workload) => {
                let opened = self.log(&workload).open();
                Some(Done::NotOpened(workload, opened.err()?))
            }
            Job::SetBounds(workload, bounds) => {
                self.log(&workload).set_bounds(bounds);
                None
            }
            Job::SetAside(workload, bounds, of) => {
                let log = self.log(&workload);
                log.set_bounds(bounds);
                Some(Done::SetAside(of, log.rotate()))
            }
            Job::Close(workload) => {
                self.files.remove(&workload);
                None
            }
        }
    }

    fn finish(&mut self, left: &Left, slot: &mut Slot) -> Result<(), Lost> {
        let log = self.log(&left.workload);
        let there = left.place.and_then(|place| {
            let size = log.size_of(place.inode)?;
            usize::try_from(size.saturating_sub(place.size)).ok()
        });
        let done = there.unwrap_or(0).min(left.data.len());
        log.append(&left.data[done..], |from, place| {
            slot.writing(left.from + done + from, place);
        })
    }
}
