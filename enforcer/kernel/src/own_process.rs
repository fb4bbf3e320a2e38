//! This process itself: its name, its limit of descriptors, and what it uses, from `/proc/self`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procfs::process::{LimitValue, Process};
use procfs::{CurrentSI as _, KernelStats};
use std::ffi::CStr;

#[derive(Clone, Copy, Debug, Default)]
pub struct OwnProcess {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_descriptors: u64,
    /// `None` for no limit.
    pub most_descriptors: Option<u64>,
    /// The start time, in seconds of the Unix epoch.
    pub started_seconds: f64,
}

/// Keeps one heap for all threads. Each further one would hold pages of its own, which every fork
/// copies. Called before there is a second thread.
pub fn use_one_heap() {
    // SAFETY: sets an option of the allocator, which has no other heap yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Returns the host's name.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim().to_owned()
}

/// Gives the calling thread, and a process that has no other, this name.
pub fn rename(name: &CStr) {
    // SAFETY: the name ends with NUL, and the kernel takes 16 bytes of it at most.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Has the standard error of this process go nowhere.
///
/// # Errors
/// If `/dev/null` cannot be opened.
pub fn silence() -> std::io::Result<()> {
    Ok(nix::unistd::dup2_stderr(super::pipe::nowhere()?)?)
}

/// Takes as many descriptors as this process may have: a dozen for each workload add up.
pub fn raise_descriptor_limit() {
    /// `fs.nr_open`, unless it was changed.
    const MOST: u64 = 1 << 20;
    let descriptors = Resource::RLIMIT_NOFILE;
    if let Ok((_, hard)) = getrlimit(descriptors) {
        let most = hard.max(MOST);
        // Root may go beyond the hard limit, and any user up to it.
        if setrlimit(descriptors, most, most).is_err() {
            let _ = setrlimit(descriptors, hard, hard);
        }
    }
}

pub fn read() -> Option<OwnProcess> {
    let own = Process::myself().ok()?;
    let stat = own.stat().ok()?;
    let ticks = seconds(procfs::ticks_per_second());
    let booted = KernelStats::current().ok()?.btime;
    let most = own.limits().ok().map(|limits| limits.max_open_files);
    Some(OwnProcess {
        cpu_seconds: seconds(stat.utime + stat.stime) / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
        open_descriptors: u64::try_from(own.fd_count().unwrap_or(0)).unwrap_or(0),
        most_descriptors: most.and_then(|most| match most.soft_limit {
            LimitValue::Value(most) => Some(most),
            LimitValue::Unlimited => None,
        }),
        started_seconds: seconds(booted) + seconds(stat.starttime) / ticks,
    })
}

fn seconds(count: u64) -> f64 {
    // Exact below 2^53.
    #[expect(clippy::cast_precision_loss)]
    let float = count as f64;
    float
}
