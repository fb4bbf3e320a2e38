//! Descriptors as something to wait for: the one place that hands them to the
//! runtime's poller.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits on a duplicate, which sees the same readiness and can't be closed from
/// under the poller. Must be called inside the runtime.
pub fn watch(descriptor: &impl AsFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let own = descriptor.as_fd().try_clone_to_owned()?;
    // SAFETY: the `OwnedFd` has no other owner, so it stays open and the same until the `AsyncFd`
    // is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(own, interest) }?)
}
