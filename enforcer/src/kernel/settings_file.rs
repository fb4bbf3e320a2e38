//! Files of settings that a person or a program keeps, read with bounds.

use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

/// No file of variables that a person keeps is longer.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a regular file of at most [`MAX_BYTES`]. A FIFO, a device or a socket is refused
/// before anything is read from it, and opening one does not block.
pub(crate) fn read(path: &str) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY).bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = std::env::temp_dir().join(format!("enforcer-settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(path("good"), "A=1").expect("a file");
        assert_eq!(read(&path("good")).expect("its text"), b"A=1");
        std::fs::write(path("long"), vec![b'x'; 2 << 20]).expect("a file");
        let why = |name: &str| read(&path(name)).expect_err("a refusal").to_string();
        assert_eq!(why("long"), "it is longer than 1 MiB");
        let fifo = folder.join("fifo");
        // One of an earlier run may be there.
        let _ = nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU);
        assert_eq!(why("fifo"), "it is not a regular file");
        let device = read("/dev/zero").expect_err("a refusal");
        assert_eq!(device.to_string(), "it is not a regular file");
        let _ = std::fs::remove_dir_all(folder);
    }
}
