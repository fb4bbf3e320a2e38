//! Opens files whose paths others may control: nothing but a regular file is opened for reading, so
//! that no device acts on it and no pipe is waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file.
///
/// # Errors
/// If there is none, or it is something else.
pub fn open(path: &Path) -> io::Result<File> {
    // A descriptor of the place alone (open(2), O_PATH) opens nothing.
    let place = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    if !place.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_is_opened() {
        assert!(
            open(
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("Cargo.toml")
                    .as_path()
            )
            .is_ok()
        );
        for other in ["/dev/null", "/", "/nonexistent"] {
            assert!(open(Path::new(other)).is_err(), "{other}");
        }
    }
}
