//! Hashes the memory that a process has written, into one number. The kernel's soft-dirty bits say
//! which pages those are (`CONFIG_MEM_SOFT_DIRTY`, Linux 3.11). Without the bits, every anonymous
//! page counts. Huge pages of hugetlb have no such bits (`fs/proc/task_mmu.c`,
//! `clear_refs_walk_ops`), so a process with such pages is not examined. The core decides what the
//! number proves.

use enforcer_model::cpu_loop::Outside;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

/// The most pages that are read and hashed for one snapshot.
const MAX_PAGES: u64 = 4096;
/// The most pages whose page table entries are read for one snapshot.
const MAX_SCANNED_PAGES: u64 = 1 << 20;

const PAGE: u64 = 4096;
const PAGE_BYTES: usize = 4096;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE_OR_SHARED: u64 = 1 << 61;
const SOFT_DIRTY: u64 = 1 << 55;
/// A stack grows down by itself, up to this by default.
const STACK_GROWTH: u64 = 8 << 20;
/// The longest list of mappings: tens of thousands. A process with more is not examined.
const LONGEST_MAPS: u64 = 4 << 20;
/// Mappings that are named in the evidence; each of them is enough.
const MOST_OUTSIDE: usize = 16;
/// Pages that are copied at a time, and entries that are read at a time.
const BATCH: usize = 64;
const ENTRIES: usize = 8192;

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("read the process's memory")]
    Read(#[from] io::Error),
    #[error("it has written more than {} MiB: hashing that would stop it for too long", (MAX_PAGES * PAGE) >> 20)]
    TooMuchWritten,
    #[error("its writable memory spans more than {} GiB: walking that would stop it for too long", (MAX_SCANNED_PAGES * PAGE) >> 30)]
    TooMuchMapped,
    #[error(
        "it has huge pages of hugetlb, and the kernel does not report whether they were written"
    )]
    HugePages,
}

/// A process's memory from one moment on.
pub struct MemoryState {
    pid: libc::pid_t,
    pagemap: File,
    writable: Vec<Range<u64>>,
    soft_dirty: bool,
    entries: Vec<u8>,
    pages: Vec<u8>,
    pub vdso: Range<u64>,
    /// The mappings that another process or a device may write.
    pub outside: Vec<Outside>,
}

impl MemoryState {
    /// Begins to count written pages.
    pub fn begin(pid: u32) -> Result<Self, MemoryError> {
        let mut maps = Vec::new();
        File::open(format!("/proc/{pid}/maps"))?
            .take(LONGEST_MAPS)
            .read_to_end(&mut maps)?;
        if maps.len() as u64 == LONGEST_MAPS {
            return Err(MemoryError::TooMuchMapped);
        }
        // A mapping's name may be any bytes.
        let maps = String::from_utf8_lossy(&maps).into_owned();
        let mut state = Self {
            pid: libc::pid_t::try_from(pid).map_err(io::Error::other)?,
            pagemap: File::open(format!("/proc/{pid}/pagemap"))?,
            writable: Vec::new(),
            soft_dirty: has_soft_dirty(),
            entries: vec![0; ENTRIES * 8],
            pages: vec![0; BATCH * PAGE_BYTES],
            vdso: 0..0,
            outside: Vec::new(),
        };
        for mapping in maps.lines().filter_map(Mapping::parse) {
            if mapping.is_huge() {
                return Err(MemoryError::HugePages);
            }
            state.add(&mapping);
        }
        let pages: u64 = state
            .writable
            .iter()
            .map(|range| (range.end - range.start) / PAGE)
            .sum();
        if pages > MAX_SCANNED_PAGES {
            return Err(MemoryError::TooMuchMapped);
        }
        // Last, for it walks all of the process's memory.
        if state.soft_dirty {
            std::fs::write(format!("/proc/{pid}/clear_refs"), "4")?;
        }
        Ok(state)
    }

    fn add(&mut self, mapping: &Mapping<'_>) {
        let mut range = mapping.range.clone();
        match mapping.name {
            "[vdso]" => self.vdso = range.clone(),
            "[stack]" => {
                let floor = self.writable.last().map_or(0, |below| below.end);
                range.start = range.start.saturating_sub(STACK_GROWTH).max(floor);
            }
            _ => {}
        }
        if let Some(outside) = mapping.outside()
            && self.outside.len() < MOST_OUTSIDE
            && !self.outside.contains(&outside)
        {
            self.outside.push(outside);
        }
        if mapping.is_writable() {
            self.writable.push(range);
        }
    }

    /// Hashes every written page, address and content, and returns their number. The examined
    /// thread must be stopped.
    pub fn hash(&mut self, hasher: &mut DefaultHasher) -> Result<u64, MemoryError> {
        let mut hashed = 0;
        for range in self.writable.clone() {
            let mut address = range.start;
            while address < range.end {
                let wanted = usize::try_from((range.end - address) / PAGE).unwrap_or(usize::MAX);
                let bytes = wanted.min(ENTRIES) * 8;
                let read = self
                    .pagemap
                    .read_at(&mut self.entries[..bytes], address / PAGE * 8)?;
                if read < 8 {
                    // The memory that this was opened for is gone: another program.
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                let written = self.written(address, read / 8);
                hashed += u64::try_from(written.len()).unwrap_or(u64::MAX);
                if hashed > MAX_PAGES {
                    return Err(MemoryError::TooMuchWritten);
                }
                for batch in written.chunks(BATCH) {
                    self.hash_pages(batch, hasher)?;
                }
                address += u64::try_from(read / 8).unwrap_or(0) * PAGE;
            }
        }
        Ok(hashed)
    }

    /// Returns the addresses of the written pages among the entries that were just read.
    fn written(&self, first: u64, count: usize) -> Vec<u64> {
        let entries = self.entries[..count * 8].chunks_exact(8);
        let mut written = Vec::new();
        for (address, entry) in (first..).step_by(PAGE_BYTES).zip(entries) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            let counts = if self.soft_dirty {
                entry & SOFT_DIRTY != 0 && entry & (PRESENT | SWAPPED) != 0
            } else {
                entry & PRESENT != 0 && entry & FILE_OR_SHARED == 0
            };
            if counts {
                written.push(address);
            }
        }
        written
    }

    fn hash_pages(&mut self, addresses: &[u64], hasher: &mut DefaultHasher) -> io::Result<()> {
        let length = addresses.len() * PAGE_BYTES;
        let local = libc::iovec {
            iov_base: self.pages.as_mut_ptr().cast(),
            iov_len: length,
        };
        let remote: Vec<libc::iovec> = addresses
            .iter()
            .map(|address| libc::iovec {
                iov_base: std::ptr::without_provenance_mut(
                    usize::try_from(*address).unwrap_or(usize::MAX),
                ),
                iov_len: PAGE_BYTES,
            })
            .collect();
        // SAFETY: writes at most `length` bytes to the buffer, which has as many;
        // the other addresses are of another process.
        let read = unsafe {
            libc::process_vm_readv(
                self.pid,
                &raw const local,
                1,
                remote.as_ptr(),
                libc::c_ulong::try_from(remote.len()).unwrap_or(0),
                0,
            )
        };
        match usize::try_from(read) {
            Ok(read) if read == length => {}
            Ok(_) => return Err(io::Error::other("a page went away")),
            Err(_) => return Err(io::Error::last_os_error()),
        }
        for address in addresses {
            hasher.write_u64(*address);
        }
        hasher.write(&self.pages[..length]);
        Ok(())
    }
}

/// The most characters of a mapping's name that are reported.
const MAX_NAME_CHARS: usize = 200;

/// A line of `/proc/PID/maps`.
struct Mapping<'a> {
    range: Range<u64>,
    permissions: &'a str,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let permissions = words.next()?;
        let name = words.nth(3).unwrap_or("").trim();
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            range: number(start)?..number(end)?,
            permissions,
            name,
        })
    }

    fn is_writable(&self) -> bool {
        self.permissions.as_bytes().get(1) == Some(&b'w')
    }

    fn is_huge(&self) -> bool {
        self.is_writable()
            && ["/anon_hugepage", "/dev/hugepages/"]
                .iter()
                .any(|name| self.name.starts_with(name))
    }

    /// Returns what else may write to the mapping. A read-only mapping of a file of the system's
    /// packages does not count, because such a file does not change.
    fn outside(&self) -> Option<Outside> {
        if self.permissions.as_bytes().get(3) != Some(&b's') {
            return None;
        }
        // The names become parts of events, which are stored.
        let name: String = self.name.chars().take(MAX_NAME_CHARS).collect();
        let is_device = name.starts_with("/dev/")
            && !["/dev/shm/", "/dev/zero"]
                .iter()
                .any(|memory| name.starts_with(memory));
        if is_device || name.starts_with("anon_inode:") {
            return Some(Outside::DeviceMapping(name));
        }
        let packaged = ["/usr/", "/lib/", "/lib64/", "/etc/"];
        let is_packaged = packaged.iter().any(|folder| name.starts_with(folder));
        (self.is_writable() || !is_packaged).then_some(Outside::SharedMapping(name))
    }
}

/// Returns whether this kernel reports written pages. It is tried with a page of this process.
pub(crate) fn has_soft_dirty() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| try_soft_dirty().unwrap_or(false))
}

fn try_soft_dirty() -> io::Result<bool> {
    let mut page = vec![1u8; 2 * PAGE_BYTES];
    let address = page.as_ptr().addr() as u64 + PAGE;
    let pagemap = File::open("/proc/self/pagemap")?;
    let is_dirty = || -> io::Result<bool> {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, address / PAGE * 8)?;
        Ok(u64::from_ne_bytes(entry) & SOFT_DIRTY != 0)
    };
    std::fs::write("/proc/self/clear_refs", "4")?;
    let before = is_dirty()?;
    page[PAGE_BYTES] = 2;
    std::hint::black_box(&mut page);
    Ok(!before && is_dirty()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_distinguished_by_who_may_write_them() {
        let of = |line| Mapping::parse(line).and_then(|mapping| mapping.outside());
        assert_eq!(of("1000-2000 rw-p 00000000 00:00 0     [heap]"), None);
        assert_eq!(
            of("1000-2000 r--s 00000000 fe:00 9     /usr/lib/gconv/gconv-modules.cache"),
            None
        );
        assert_eq!(
            of("1000-2000 rw-s 00000000 00:01 9     /dev/zero (deleted)"),
            Some(Outside::SharedMapping("/dev/zero (deleted)".to_owned()))
        );
        assert_eq!(
            of("1000-2000 r--s 00000000 00:01 9     /srv/flag"),
            Some(Outside::SharedMapping("/srv/flag".to_owned()))
        );
        assert_eq!(
            of("1000-2000 rw-s 00000000 00:0e 9     anon_inode:[io_uring]"),
            Some(Outside::DeviceMapping("anon_inode:[io_uring]".to_owned()))
        );
        assert!(matches!(
            of("1000-2000 rw-s 00000000 00:06 9     /dev/uio0"),
            Some(Outside::DeviceMapping(_))
        ));
    }

    #[test]
    fn what_this_process_writes_changes_its_hash() {
        let mut kept = vec![0u8; 1 << 20];
        kept[5000] = 1;
        let Ok(mut state) = MemoryState::begin(std::process::id()) else {
            // A sandbox may forbid it; the VM's tests need it.
            return;
        };
        let mut hash = || {
            let mut hasher = DefaultHasher::new();
            state.hash(&mut hasher).map(|_| hasher.finish())
        };
        let before = hash();
        kept[5000] = 2;
        std::hint::black_box(&mut kept);
        if let (Ok(before), Ok(after)) = (before, hash()) {
            assert_ne!(before, after);
        }
    }
}
