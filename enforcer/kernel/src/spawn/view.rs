//! The mounts that a child sees.

use crate::pidfd::PidFd;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The mount namespace of a child.
#[derive(Debug, Default)]
pub enum View {
    /// The agent's own.
    #[default]
    Hosts,
    /// That of this process.
    Of(Arc<PidFd>),
    /// A copy of the agent's with these file systems in it. What is mounted on the host later
    /// appears in it as well.
    Own(Vec<Attached>),
}

/// A file system that a child attaches.
#[derive(Debug)]
pub struct Attached {
    /// It is attached nowhere yet.
    pub file_system: OwnedFd,
    /// A folder that root alone can replace.
    pub at: CString,
}

impl View {
    /// Returns the descriptors that a child needs.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Hosts => Vec::new(),
            Self::Of(process) => vec![process.as_fd()],
            Self::Own(all) => all.iter().map(|one| one.file_system.as_fd()).collect(),
        }
    }

    pub(super) fn orders(&self) -> ViewOrders {
        match self {
            Self::Hosts => ViewOrders::Hosts,
            Self::Of(_) => ViewOrders::Another,
            Self::Own(all) => ViewOrders::Own(all.iter().map(|one| one.at.clone()).collect()),
        }
    }
}

/// A view without its descriptors, which come beside it in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ViewOrders {
    #[default]
    Hosts,
    Another,
    Own(Vec<CString>),
}

impl ViewOrders {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Hosts => 0,
            Self::Another => 1,
            Self::Own(all) => all.len(),
        }
    }
}
