//! One holder for a runtime folder.

use crate::kernel::clock::{self, awake_now};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// How long another holder's last moments may take.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Says that this is the holder of the folder; the one before may be about to end.
pub(super) fn lock(runtime_dir: &Path) -> io::Result<Flock<File>> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(runtime_dir.join("holder.lock"))?;
    let begun = awake_now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) if awake_now().duration_since(begun) < LOCK_PATIENCE => file,
            Err((_, error)) => return Err(error.into()),
        };
        clock::pause(LOCK_PATIENCE / 100);
    }
}
