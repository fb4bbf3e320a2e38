//! The one chunk that was read from a pipe and is not in its log yet.
//!
//! It lies in a file on tmpfs that is mapped into memory, so that it outlives a holder that
//! is killed at any moment: the next one finds it and writes what is missing. A state says
//! how far the chunk has come:
//!
//! ```text
//! EMPTY ──→ READING ──→ READ ──→ WRITING ──→ EMPTY
//!           length,     length   file and its size before
//!           filled
//! ```
//!
//! A read from a pipe copies and consumes in one system call, which a signal does not cut in
//! two. So the part is filled with a byte that no text contains before it is read into: what
//! is still filled was not read, and is still in the pipe.

use crate::log_file::Place;
use enforcer_model::ReplicaId;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr::NonNull;

/// The largest chunk: the default capacity of a pipe (pipe(7)).
pub const CHUNK: usize = 64 << 10;
/// A byte that no text in UTF-8 contains.
const FILLER: u8 = 0xc1;
const MAGIC: u64 = 0x656e_666f_7263_6502;

const EMPTY: u32 = 0;
const READING: u32 = 1;
const READ: u32 = 2;
const WRITING: u32 = 3;

/// The mapped file.
#[repr(C)]
struct Layout {
    magic: u64,
    state: u32,
    length: u32,
    /// The index of the valid part. A new part is written beside it, and then becomes valid.
    part: u32,
    name_length: u32,
    parts: [Part; 2],
    name: [u8; 128],
    chunk: [u8; CHUNK],
}

/// The place to which the chunk goes from one byte on.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    from: u64,
    inode: u64,
    size: u64,
}

/// A chunk that an earlier holder has left.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    pub workload: ReplicaId,
    pub data: Vec<u8>,
    /// The offset of the data in the chunk.
    pub from: usize,
    /// The place where the dead holder was about to write the data.
    pub place: Option<Place>,
}

/// The mapping; shared by the thread that reads and the one that writes, which take turns.
#[derive(Debug)]
pub struct Slot(NonNull<Layout>);

// SAFETY: the mapping belongs to no thread, and the slot is its only owner.
unsafe impl Send for Slot {}

impl Slot {
    /// Maps the file; what an earlier holder has left in it stays there until it is written.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Left>)> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let length = size_of::<Layout>();
        let known = usize::try_from(file.metadata()?.len()).ok() == Some(length);
        if !known {
            file.set_len(0)?;
        }
        file.set_len(u64::try_from(length).map_err(io::Error::other)?)?;
        let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of a file that has this length.
        let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0)? };
        let mut this = Self(mapped.cast());
        let left = this.left();
        let layout = this.layout();
        layout.magic = MAGIC;
        if left.is_none() {
            layout.state = EMPTY;
        }
        Ok((this, left))
    }

    fn layout(&mut self) -> &mut Layout {
        // SAFETY: mapped for as long as `self` lives, large enough, aligned to a page, valid
        // with any content, and `self` is borrowed alone.
        unsafe { self.0.as_mut() }
    }

    fn left(&mut self) -> Option<Left> {
        let layout = self.layout();
        if layout.magic != MAGIC || layout.state == EMPTY {
            return None;
        }
        let length = usize::try_from(layout.length).ok()?;
        let mut data = layout.chunk.get(..length)?.to_vec();
        if layout.state == READING {
            let read = data.iter().rposition(|byte| *byte != FILLER)?;
            data.truncate(read + 1);
        }
        let (mut place, mut from) = (None, 0);
        if layout.state == WRITING {
            let part = layout.parts[usize::from(layout.part != 0)];
            from = usize::try_from(part.from).ok()?.min(data.len());
            data.drain(..from);
            place = Some(Place {
                inode: part.inode,
                size: part.size,
            });
        }
        let name = layout
            .name
            .get(..usize::try_from(layout.name_length).ok()?)?;
        Some(Left {
            workload: ReplicaId::parse(std::str::from_utf8(name).ok()?)?,
            data,
            from,
            place,
        })
    }

    /// Reads up to this many bytes by one call of `read`, and returns their number.
    pub fn fill(
        &mut self,
        workload: &ReplicaId,
        length: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let length = length.min(CHUNK);
        let layout = self.layout();
        let name = workload.to_string();
        let name = name.as_bytes();
        let room = layout.name.get_mut(..name.len());
        room.ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(name);
        layout.name_length = u32::try_from(name.len()).map_err(io::Error::other)?;
        layout.length = u32::try_from(length).map_err(io::Error::other)?;
        let chunk = &mut layout.chunk[..length];
        chunk.fill(FILLER);
        layout.state = READING;
        let read = read(chunk);
        let layout = self.layout();
        match &read {
            Ok(length @ 1..) => {
                layout.length = u32::try_from(*length).map_err(io::Error::other)?;
                layout.state = READ;
            }
            Ok(0) | Err(_) => layout.state = EMPTY,
        }
        read
    }

    /// Returns a copy of the chunk.
    pub fn take(&mut self) -> Vec<u8> {
        let layout = self.layout();
        let length = usize::try_from(layout.length).unwrap_or(0).min(CHUNK);
        layout.chunk[..length].to_vec()
    }

    /// Notes the place where the rest of the chunk, from this byte on, is about to be written.
    pub fn writing(&mut self, from: usize, place: Place) {
        let layout = self.layout();
        let other = usize::from(layout.part == 0);
        layout.parts[other] = Part {
            from: u64::try_from(from).unwrap_or(u64::MAX),
            inode: place.inode,
            size: place.size,
        };
        layout.part = u32::from(other == 1);
        layout.state = WRITING;
    }

    /// Empties the slot: the chunk was written or given up.
    pub fn clear(&mut self) {
        self.layout().state = EMPTY;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (start, length) = (self.0.cast::<c_void>(), size_of::<Layout>());
        // SAFETY: mapped with this length, and not used after this.
        let _ = unsafe { munmap(start, length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ReplicaId {
        ReplicaId::parse(text).expect("a name")
    }

    /// Returns what the next holder finds after this one has come so far.
    fn left_after(step: &str, act: impl FnOnce(&mut Slot)) -> Option<Left> {
        let file = format!("enforcer-slot-{step}-{}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let (mut slot, left) = Slot::open(&path).expect("a slot");
        assert_eq!(left, None);
        act(&mut slot);
        drop(slot);
        let (_, left) = Slot::open(&path).expect("the slot again");
        std::fs::remove_file(path).expect("the file goes");
        left
    }

    fn fill(slot: &mut Slot, text: &str) {
        let filled = slot.fill(&name("web"), text.len(), |chunk| {
            chunk.copy_from_slice(text.as_bytes());
            Ok(text.len())
        });
        assert_eq!(filled.expect("a chunk"), text.len());
    }

    fn of_web(text: &str, from: usize, place: Option<Place>) -> Option<Left> {
        Some(Left {
            from,
            workload: name("web"),
            data: text.as_bytes().to_vec(),
            place,
        })
    }

    #[test]
    fn what_was_read_is_found_again_wherever_it_has_come() {
        assert_eq!(
            left_after("read", |slot| fill(slot, "text")),
            of_web("text", 0, None)
        );
        let first = Place { inode: 7, size: 90 };
        let second = Place { inode: 8, size: 0 };
        let writing = left_after("writing", |slot| {
            fill(slot, "text");
            slot.writing(0, first);
        });
        assert_eq!(writing, of_web("text", 0, Some(first)));
        let second_part = left_after("second-part", |slot| {
            fill(slot, "text");
            slot.writing(0, first);
            slot.writing(3, second);
        });
        assert_eq!(second_part, of_web("t", 3, Some(second)));
        let done = left_after("done", |slot| {
            fill(slot, "text");
            slot.writing(0, first);
            slot.clear();
        });
        assert_eq!(done, None);
    }

    #[test]
    fn a_read_that_did_not_happen_leaves_nothing_and_one_that_did_leaves_all() {
        let killed = |step, read: &'static [u8]| {
            left_after(step, |slot| {
                let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    slot.fill(&name("web"), 8, |chunk| {
                        chunk[..read.len()].copy_from_slice(read);
                        panic!("killed right after the system call");
                    })
                }));
                assert!(died.is_err());
            })
        };
        assert_eq!(killed("before", b""), None);
        assert_eq!(killed("after", b"12345678"), of_web("12345678", 0, None));
        assert_eq!(killed("short", b"123"), of_web("123", 0, None));
    }
}
