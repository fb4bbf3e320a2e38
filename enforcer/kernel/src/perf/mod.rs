//! perf_event_open(2): the event of a tracepoint, and the clock that samples. `cpu_clock.rs`
//! samples all workloads all the time, `thread.rs` samples one thread for a moment, and `clock_reads.rs` sets
//! breakpoints on the clocks that a thread reads. No PMU is needed, so it works in any VM.

pub mod clock_reads;
pub mod cpu_clock;
pub mod thread;

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `struct perf_event_attr` up to `PERF_ATTR_SIZE_VER5` (Linux 4.1).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const _: () = assert!(size_of::<Attributes>() == 112);

const TYPE_SOFTWARE: u32 = 1;
const TYPE_TRACEPOINT: u32 = 2;
const COUNT_SW_CPU_CLOCK: u64 = 0;
const FLAG_DISABLED: u64 = 1;
const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const FLAG_PID_CGROUP: libc::c_ulong = 4;
const IOC_ENABLE: libc::c_ulong = 0x2400;
const IOC_DISABLE: libc::c_ulong = 0x2401;
const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;

/// The object of sampling: a thread on any CPU, a cgroup on one CPU, or a whole CPU.
#[derive(Clone, Copy, Debug)]
enum Scope<'a> {
    Thread(u32),
    Cgroup(BorrowedFd<'a>, u32),
    Cpu(u32),
}

impl Attributes {
    /// Returns the attributes of a sample each `1 / hz` seconds of CPU time.
    fn cpu_clock(hz: u32) -> Self {
        Self {
            kind: TYPE_SOFTWARE,
            size: 112,
            config: COUNT_SW_CPU_CLOCK,
            sample_period: 1_000_000_000 / u64::from(hz.max(1)),
            flags: FLAG_DISABLED,
            ..Self::default()
        }
    }

    fn open(&self, scope: Scope<'_>) -> io::Result<OwnedFd> {
        let number = |number: u32| libc::c_int::try_from(number).unwrap_or(libc::c_int::MAX);
        let (pid, cpu, flags) = match scope {
            Scope::Thread(tid) => (number(tid), -1, FLAG_FD_CLOEXEC),
            Scope::Cgroup(cgroup, cpu) => (
                cgroup.as_raw_fd(),
                number(cpu),
                FLAG_FD_CLOEXEC | FLAG_PID_CGROUP,
            ),
            Scope::Cpu(cpu) => (-1, number(cpu), FLAG_FD_CLOEXEC),
        };
        // SAFETY: the attributes are complete, and hold their own size.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                std::ptr::from_ref(self),
                pid,
                cpu,
                -1,
                flags,
            )
        };
        match libc::c_int::try_from(fd) {
            // SAFETY: the descriptor is new, and has no other owner.
            Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Opens the event of a tracepoint. A program that is attached to it runs on every CPU. The number of the
/// tracepoint is read from tracefs.
pub(crate) fn tracepoint(category: &str, name: &str) -> io::Result<OwnedFd> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for tracing in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        let path = format!("{tracing}/events/{category}/{name}/id");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        let config = text.trim().parse().map_err(io::Error::other)?;
        let attributes = Attributes {
            kind: TYPE_TRACEPOINT,
            size: 112,
            config,
            ..Attributes::default()
        };
        return attributes.open(Scope::Cpu(0));
    }
    Err(failure)
}

/// Checks whether this host allows the sampling of a CPU.
pub(crate) fn can_sample() -> io::Result<()> {
    let first = super::cpus::online()?.first().copied().unwrap_or(0);
    Attributes::cpu_clock(1).open(Scope::Cpu(first)).map(drop)
}

fn control(event: &OwnedFd, request: libc::c_ulong, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: each of the three requests takes an integer.
    match unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
