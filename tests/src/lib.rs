//! The parts that the tests and benchmarks of the VM share: an agent under test, the plan of a run,
//! and waits for a value.
#![allow(clippy::disallowed_methods, reason = "a test measures times itself")]
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on should say where"
)]

pub mod agent;
pub mod burn;
pub mod corpus;
pub mod disk;
pub mod fleet;
pub mod isolation;
pub mod kernel;
pub mod modules;
pub mod plan;
pub mod report;
pub mod serve;
pub mod slot;
pub mod swap;
pub mod traces;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest wait for a value on a machine of ordinary speed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause between two looks, and the longest one. A look at an agent costs it some
/// CPU time, which other tests need.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// The time of a small program from its start to its end, on an emulated CPU of its own.
const ORDINARY_START: Duration = Duration::from_millis(30);
const CALIBRATION_STARTS: usize = 15;

/// Returns how many times slower this machine is for one test than an emulated CPU of its own: as
/// the runner has measured it at boot, or as it is measured now. It is at least 1.
#[must_use]
pub fn slowness() -> f64 {
    static SLOWNESS: OnceLock<f64> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let measured = std::env::var(slot::SLOWNESS).ok();
        let measured = measured.and_then(|text| text.parse::<f64>().ok());
        measured.unwrap_or_else(measure_slowness)
    })
}

/// Measures the median start of a small program. At least 1.
///
/// # Panics
/// If the program cannot be started.
#[must_use]
pub fn measure_slowness() -> f64 {
    let mut starts: Vec<Duration> = (0..CALIBRATION_STARTS)
        .map(|_| {
            let begun = Instant::now();
            let status = std::process::Command::new("/usr/bin/fixture")
                .args(["exists", "/"])
                .status();
            assert!(status.unwrap().success());
            begun.elapsed()
        })
        .collect();
    starts.sort();
    let median = starts[CALIBRATION_STARTS / 2];
    (median.as_secs_f64() / ORDINARY_START.as_secs_f64()).max(1.0)
}

/// Returns the longest wait for a value on this machine.
#[must_use]
pub fn patience() -> Duration {
    PATIENCE.mul_f64(slowness())
}

/// Looks again and again until there is an answer.
///
/// # Panics
/// With `what`, after [`patience`].
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, look)
}

/// Waits for a value up to a limit, which grows with [`slowness`].
///
/// # Panics
/// With `what`, when the time is over.
pub fn wait_within<T>(limit: Duration, what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait(limit, PAUSES[1], what, look)
}

/// Waits for a state that does not last. It looks every few milliseconds.
///
/// # Panics
/// With `what`, after [`patience`].
pub fn catch<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait(PATIENCE, PAUSES[0], what, look)
}

/// This is the only place that lets time pass.
fn wait<T>(
    limit: Duration,
    longest_pause: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let limit = limit.mul_f64(slowness());
    let started = Instant::now();
    let mut pause = PAUSES[0];
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited in vain for {what}");
        std::thread::sleep(pause);
        // A short wait ends soon after its value is there, and a long one costs little.
        pause = (started.elapsed() / 8).clamp(pause, longest_pause);
    }
}

/// Brings the loopback interface of the current network namespace up.
///
/// # Errors
/// If the kernel refuses.
pub fn bring_up_loopback() -> std::io::Result<()> {
    // SAFETY: the request is zeroed, its name ends with NUL, and the socket is closed below.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING);
        request.ifr_ifru.ifru_flags = flags.unwrap_or_default();
        let set = libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        let error = std::io::Error::last_os_error();
        libc::close(socket);
        if set == 0 { Ok(()) } else { Err(error) }
    }
}
