//! Samples of one thread: its registers and the top of its stack, into a ring
//! that is read when the time is over. What the samples mean is not known here.

use super::{Attributes, IOC_DISABLE, IOC_ENABLE, Scope, control};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SAMPLE_IP: u64 = 1;
const SAMPLE_CALLCHAIN: u64 = 1 << 5;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const SAMPLE_STACK_USER: u64 = 1 << 13;
const EXCLUDE_CALLCHAIN_KERNEL: u64 = 1 << 21;
const RECORD_SAMPLE: u32 = 9;
const MISC_CPUMODE: u16 = 7;
const MISC_USER: u16 = 2;
/// Chain entries above this are marks (`PERF_CONTEXT_MAX`), not addresses.
const CONTEXT_MAX: u64 = 0xffff_ffff_ffff_f001;
/// Every general register that a 64-bit process has (`asm/perf_regs.h`).
#[cfg(target_arch = "x86_64")]
const REGISTERS: u64 = 0x00ff_0fff;
#[cfg(target_arch = "aarch64")]
const REGISTERS: u64 = 0x1_ffff_ffff;
const STACK_BYTES: u32 = 256;
const FRAMES: u16 = 16;
const SLICES: u32 = 3;
/// A power of two; room for 1.5 s at 1000 Hz.
const DATA_PAGES: usize = 256;
const PAGE: usize = 4096;
/// The offset of `data_head` in the first page (`struct perf_event_mmap_page`).
const DATA_HEAD: usize = 1024;

/// The result of sampling one thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    pub all: u32,
    /// Taken while it ran its own code, not the kernel's.
    pub in_user_mode: u32,
    /// States (registers and the top of the stack, in user mode) seen just once.
    pub singletons: u32,
    /// Addresses of user code, by how often they were hit.
    pub addresses: HashMap<u64, u32>,
    /// The most frequent user stack, innermost frame first.
    pub hottest_stack: Vec<u64>,
}

/// Samples a thread for this wall time, and up to three times as long if that is not enough. `wait`
/// lets the time pass.
pub fn sample(
    tid: u32,
    hz: u32,
    time: Duration,
    wait: impl Fn(Duration),
    is_enough: impl Fn(&Samples) -> bool,
) -> io::Result<Samples> {
    let mut attributes = Attributes::cpu_clock(hz);
    attributes.sample_type = SAMPLE_IP | SAMPLE_CALLCHAIN | SAMPLE_REGS_USER | SAMPLE_STACK_USER;
    attributes.flags |= EXCLUDE_CALLCHAIN_KERNEL;
    attributes.sample_regs_user = REGISTERS;
    attributes.sample_stack_user = STACK_BYTES;
    attributes.sample_max_stack = FRAMES;
    let event = attributes.open(Scope::Thread(tid))?;
    let ring = Ring::map(event.as_raw_fd())?;
    control(&event, IOC_ENABLE, 0)?;
    for _ in 0..SLICES {
        wait(time);
        if is_enough(&read(ring.written())) {
            break;
        }
    }
    // The mapping keeps the event alive: closing it would not end it.
    control(&event, IOC_DISABLE, 0)?;
    Ok(read(ring.written()))
}

/// The kernel's ring, mapped; it stays when the event is closed.
struct Ring(NonNull<u8>);

impl Ring {
    const LENGTH: usize = (DATA_PAGES + 1) * PAGE;

    fn map(event: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping; who reads it is below.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast())
            .map(Self)
            .ok_or_else(io::Error::last_os_error)
    }

    /// Returns everything that was written. Nothing is ever removed, and a full ring accepts no
    /// more, so it never wraps.
    fn written(&self) -> &[u8] {
        // SAFETY: the first page is mapped, and its fields are aligned; the kernel
        // writes this one as a whole, before that the data.
        let head = unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(DATA_HEAD).cast()) }
            .load(Ordering::Acquire);
        let length = usize::try_from(head)
            .unwrap_or(usize::MAX)
            .min(DATA_PAGES * PAGE);
        // SAFETY: inside the mapping; what lies before the head is not written again.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(PAGE), length) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; no borrow outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::LENGTH) };
    }
}

fn read(mut data: &[u8]) -> Samples {
    let mut samples = Samples::default();
    let mut states: HashMap<u64, u32> = HashMap::new();
    let mut stacks: HashMap<Vec<u64>, u32> = HashMap::new();
    while let Some((kind, misc, size)) = header(data) {
        let Some(record) = data.get(8..size) else {
            break;
        };
        data = &data[size..];
        if kind != RECORD_SAMPLE {
            continue;
        }
        let Some((address, stack, state)) = sample_of(record) else {
            continue;
        };
        samples.all += 1;
        if misc & MISC_CPUMODE == MISC_USER {
            samples.in_user_mode += 1;
            *samples.addresses.entry(address).or_default() += 1;
            *states.entry(state).or_default() += 1;
        }
        *stacks.entry(stack).or_default() += 1;
    }
    let once = states.values().filter(|times| **times == 1).count();
    samples.singletons = u32::try_from(once).unwrap_or(u32::MAX);
    samples.hottest_stack = stacks
        .into_iter()
        .filter(|(stack, _)| !stack.is_empty())
        .max_by_key(|(_, times)| *times)
        .map(|(stack, _)| stack)
        .unwrap_or_default();
    samples
}

fn header(data: &[u8]) -> Option<(u32, u16, usize)> {
    let kind = u32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
    let misc = u16::from_ne_bytes(data.get(4..6)?.try_into().ok()?);
    let size = u16::from_ne_bytes(data.get(6..8)?.try_into().ok()?);
    (size >= 8).then_some((kind, misc, usize::from(size)))
}

/// Returns a sample's address, its user stack, and a hash of its state.
fn sample_of(record: &[u8]) -> Option<(u64, Vec<u64>, u64)> {
    let word = |index: usize| {
        let bytes = record.get(index * 8..index * 8 + 8)?;
        bytes.try_into().ok().map(u64::from_ne_bytes)
    };
    let address = word(0)?;
    let frames = usize::try_from(word(1)?).ok()?;
    let chain = (0..frames).filter_map(|frame| word(2 + frame));
    let stack = chain.filter(|entry| *entry < CONTEXT_MAX).collect();
    let mut state = DefaultHasher::new();
    // The bytes from the registers' ABI to the end: registers, stack, and its length.
    record.get((2 + frames) * 8..)?.hash(&mut state);
    Some((address, stack, state.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, misc: u16, words: &[u64]) -> Vec<u8> {
        let size = u16::try_from(8 + words.len() * 8).expect("small");
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(misc.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn states_stacks_and_modes_are_distinguished() {
        let user = u64::MAX - 511;
        let mut ring = record(RECORD_SAMPLE, MISC_USER, &[7, 3, user, 7, 9, 2, 1, 1]);
        ring.extend(record(
            RECORD_SAMPLE,
            MISC_USER,
            &[7, 3, user, 7, 9, 2, 1, 1],
        ));
        ring.extend(record(RECORD_SAMPLE, MISC_USER, &[8, 2, user, 8, 2, 1, 2]));
        // The kernel's own, and a record of another kind.
        ring.extend(record(RECORD_SAMPLE, 1, &[u64::MAX, 2, user, 4, 2, 5, 5]));
        ring.extend(record(5, 0, &[0]));
        let samples = read(&ring);
        assert_eq!(
            (samples.all, samples.in_user_mode, samples.singletons),
            (4, 3, 1)
        );
        assert_eq!(samples.hottest_stack, [7, 9]);
        assert_eq!(samples.addresses.get(&7), Some(&2));
    }

    #[test]
    fn a_torn_ring_ends_the_reading() {
        let whole = record(RECORD_SAMPLE, MISC_USER, &[7, 0, 2, 1]);
        assert_eq!(read(&whole[..whole.len() - 1]).all, 0);
        assert_eq!(read(&[0; 16]).all, 0);
    }

    #[test]
    fn this_thread_can_be_sampled() {
        // SAFETY: returns a number.
        let own = unsafe { libc::gettid() };
        let own = u32::try_from(own).expect("a thread id");
        let spin = |time: Duration| {
            let begun = std::time::Instant::now();
            while begun.elapsed() < time {
                std::hint::spin_loop();
            }
        };
        match sample(own, 997, Duration::from_millis(200), spin, |_| true) {
            Ok(samples) => assert!(samples.all > 0 && samples.in_user_mode > 0, "{samples:?}"),
            // A sandbox may forbid it; the VM's tests need it.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}"),
        }
    }
}
