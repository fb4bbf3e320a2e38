//! A file that one process at a time holds, by flock(2). The kernel releases it when the process
//! ends, however that happens.

use super::clock::{self, awake_now};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// The longest wait for the process before this one to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Locks the file, and makes it if it is missing. Only its owner can open it.
///
/// # Errors
/// With `WouldBlock` if another process holds it for longer than two seconds.
pub fn lock(path: &Path) -> io::Result<Flock<File>> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path)?;
    let begun = awake_now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::Error::EWOULDBLOCK)) if begun.elapsed() < PATIENCE => file,
            Err((_, error)) => return Err(error.into()),
        };
        clock::pause(PATIENCE / 100);
    }
}
