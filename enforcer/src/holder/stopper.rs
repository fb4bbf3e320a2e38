//! Ends a holder that is a unit of a service manager. A thread waits for the manager's signal.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends a holder from another thread.
#[derive(Clone, Debug)]
pub(crate) struct Stopper {
    event: Arc<EventFd>,
    begun: Arc<AtomicBool>,
}

impl Stopper {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            event: Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?),
            begun: Arc::default(),
        })
    }

    /// Marks that the workloads are being ended, and the holder after them. No successor is
    /// accepted from now on.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn finish(&self) {
        // A counter that is full says it as well.
        let _ = self.event.write(1);
    }
}

/// Readable once the holder is to end.
impl AsFd for Stopper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
