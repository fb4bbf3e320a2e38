//! Reads files that the kernel makes at the moment of the read.
//!
//! Such a file comes in one piece if there is room for it (`seq_read_iter` in fs/seq_file.c). So one
//! read is enough, and no byte of the buffer is cleared first.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// More than `memory.stat` has.
pub(crate) const ROOM: usize = 8 << 10;

/// Reads from this place of a file into the room that the buffer has left. Returns the number of bytes, which
/// are behind those that were in the buffer.
pub(crate) fn append(file: &impl AsFd, bytes: &mut Vec<u8>, at: u64) -> io::Result<usize> {
    let room = bytes.spare_capacity_mut();
    let at = libc::off_t::try_from(at).map_err(io::Error::other)?;
    // SAFETY: the kernel writes `room.len()` bytes at most, into memory that this buffer owns.
    let read = unsafe {
        let number = file.as_fd().as_raw_fd();
        libc::pread(number, room.as_mut_ptr().cast(), room.len(), at)
    };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written that many bytes behind those that were there.
    unsafe { bytes.set_len(bytes.len() + read) };
    Ok(read)
}

/// Reads the text of a file that comes in one piece.
pub(crate) fn read(file: &impl AsFd) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(ROOM);
    append(file, &mut bytes, 0)?;
    as_text(bytes)
}

pub(crate) fn as_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_behind_what_the_buffer_has() {
        let file = std::fs::File::open("/proc/self/stat").expect("a file");
        let whole = read(&file).expect("its text");
        assert!(whole.ends_with('\n'), "{whole}");
        let mut bytes = Vec::with_capacity(16);
        bytes.extend(b"ab");
        let read = append(&file, &mut bytes, 0).expect("a piece");
        assert_eq!(bytes.len(), 2 + read);
        assert_eq!(&bytes[2..], &whole.as_bytes()[..read]);
    }
}
