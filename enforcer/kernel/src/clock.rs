//! The two clocks: the one that decides, and the one that a person reads.

use enforcer_model::units::MonoTime;
use nix::time::{ClockId, clock_gettime};

/// Returns the time in nanoseconds since boot, suspension included: the clock of eBPF records.
pub fn now() -> MonoTime {
    // CLOCK_BOOTTIME exists since Linux 2.6.39; with a valid id the call can't fail.
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(std::time::Duration::from)
        .unwrap_or_default();
    MonoTime(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Returns the time since boot in the unit of a process's start time (proc_pid_stat(5)).
pub fn boot_ticks() -> u64 {
    const NANOS: u64 = 10_000_000;
    now().0 / NANOS
}

/// Returns the time for waits of this process itself. This clock stops while the host is suspended.
pub fn awake_now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Returns the wall clock.
pub fn wall_now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Returns the wall clock's time of a past moment.
pub fn wall_time_of(moment: MonoTime) -> jiff::Timestamp {
    wall_now() - now().since(moment)
}

/// Returns the moment of a past time of the wall clock. A time before this boot gives the boot's
/// beginning.
pub fn moment_of(time: jiff::Timestamp) -> MonoTime {
    let ago = std::time::Duration::try_from(wall_now().duration_since(time)).unwrap_or_default();
    let nanos = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
    MonoTime(now().0.saturating_sub(nanos))
}

/// Returns the age of a file's last change by the wall clock, and 0 for a change in the future. The
/// file is not opened.
pub fn age_of_file(path: &std::path::Path) -> std::io::Result<std::time::Duration> {
    let modified = std::fs::metadata(path)?.modified()?;
    let age = std::time::SystemTime::now().duration_since(modified);
    Ok(age.unwrap_or_default())
}

/// Returns the id of this boot. It is empty if it cannot be read.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Lets a short time pass, for a thread that has nothing to wait on.
pub fn pause(time: std::time::Duration) {
    use nix::time::{ClockNanosleepFlags, clock_nanosleep};
    // An interruption only makes it shorter.
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::empty(),
        &nix::sys::time::TimeSpec::from_duration(time),
    );
}
