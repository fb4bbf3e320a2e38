//! Detects clock reads without a system call: hardware breakpoints count the calls of the clock
//! functions in the thread's vDSO (`PERF_TYPE_BREAKPOINT`, Linux 2.6.33). An inline read of the
//! processor's counter (`rdtsc`) is not seen.

use super::{Attributes, IOC_ENABLE, Scope, control};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

const TYPE_BREAKPOINT: u32 = 5;
const EXECUTED: u32 = 4;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
/// The functions that are watched. A processor has four breakpoints, and three leave one for a
/// debugger.
const FUNCTIONS: [&str; 3] = ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time"];

/// Breakpoints on one thread; they go when this does.
pub struct ClockReads(Vec<File>);

impl ClockReads {
    /// Counts from now on. Fewer functions are watched where breakpoints are taken.
    pub fn watch(tid: u32, vdso: u64) -> Self {
        let mut events = Vec::new();
        for offset in offsets() {
            match breakpoint(tid, vdso + offset) {
                Ok(event) => events.push(event),
                Err(error) => tracing::debug!("no breakpoint on a clock: {error}"),
            }
        }
        Self(events)
    }

    /// Returns whether a clock was read since the watch began.
    pub fn any(&self) -> bool {
        self.0.iter().any(|event| {
            let mut count = [0; 8];
            let read = event.read_at(&mut count, 0);
            read.is_ok() && u64::from_ne_bytes(count) > 0
        })
    }
}

fn breakpoint(tid: u32, address: u64) -> io::Result<File> {
    let attributes = Attributes {
        kind: TYPE_BREAKPOINT,
        size: 112,
        bp_type: EXECUTED,
        // The address and length of the breakpoint. For an instruction, the length is that of a
        // long.
        config1: address,
        config2: 8,
        flags: super::FLAG_DISABLED | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR,
        ..Attributes::default()
    };
    let event = attributes.open(Scope::Thread(tid))?;
    control(&event, IOC_ENABLE, 0)?;
    event.as_fd().try_clone_to_owned().map(File::from)
}

/// Returns the offsets of these functions in the vDSO. Every 64-bit process has the same one.
fn offsets() -> &'static [u64] {
    static OFFSETS: OnceLock<Vec<u64>> = OnceLock::new();
    OFFSETS.get_or_init(|| {
        let image = own_vdso().unwrap_or_default();
        let found = |name: &&str| symbol(&image, name);
        FUNCTIONS.iter().filter_map(found).collect()
    })
}

fn own_vdso() -> io::Result<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line.and_then(range_of).ok_or(io::ErrorKind::NotFound)?;
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut image = vec![0; length];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, range.start)?;
    Ok(image)
}

fn range_of(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

/// Returns the value of a dynamic symbol of a 64-bit ELF image. elf(5)
fn symbol(image: &[u8], name: &str) -> Option<u64> {
    const DYNSYM: u64 = 11;
    let number = |at: u64, bytes: usize| -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(image.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(wide))
    };
    let (headers, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    // A field of a section's header.
    let section = |index: u64, field: u64, bytes: usize| {
        let header = headers.checked_add(index.checked_mul(size)?)?;
        number(header.checked_add(field)?, bytes)
    };
    let table = (0..count).find(|index| section(*index, 4, 4) == Some(DYNSYM))?;
    let (start, length) = (section(table, 0x18, 8)?, section(table, 0x20, 8)?);
    let strings = section(section(table, 0x28, 4)?, 0x18, 8)?;
    let entries = start..start.checked_add(length)?;
    entries.step_by(24).find_map(|entry| {
        let name_at = strings.checked_add(number(entry, 4)?)?;
        let text = image.get(usize::try_from(name_at).ok()?..)?;
        let text = text.split(|byte| *byte == 0).next()?;
        (text == name.as_bytes()).then(|| number(entry.checked_add(8)?, 8))?
    })
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_functions_are_found_in_our_own_vdso() {
        let offsets = offsets();
        assert_eq!(offsets.len(), FUNCTIONS.len(), "{offsets:x?}");
        assert!(offsets.iter().all(|offset| (1..65_536).contains(offset)));
    }

    #[test]
    fn broken_images_have_no_symbols() {
        assert_eq!(symbol(&[], "x"), None);
        assert_eq!(symbol(&[0xff; 200], "x"), None);
    }
}
