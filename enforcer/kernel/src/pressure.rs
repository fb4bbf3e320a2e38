//! Pressure stall information (Linux 4.20; Debian needs `psi=1`): the shares of time in which tasks
//! waited, and a trigger that wakes its reader (Linux 5.2).

use super::cgroupfs::Cgroup;
use enforcer_model::units::Percent;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};

/// A fifth of a second in two seconds in which all tasks waited at once (`full`).
const STALL: &[u8] = b"full 200000 2000000\0";

/// Raises POLLPRI at most once a window, as long as it is open.
#[derive(Debug)]
pub struct Trigger(File);

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Trigger {
    /// Memory, of the whole host.
    pub fn of_host() -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/pressure/memory")?;
        Self::arm(file)
    }

    /// Memory, of one cgroup. For root, the kernel runs a thread for each.
    pub fn of_cgroup(cgroup: &Cgroup) -> io::Result<Self> {
        Self::arm(cgroup.open_file("memory.pressure", OFlag::O_RDWR)?)
    }

    fn arm(mut file: File) -> io::Result<Self> {
        file.write_all(STALL)?;
        Ok(Self(file))
    }
}

/// Returns the shares of the last ten seconds in which some programs of the host waited for a CPU, and all of them for memory and for a disk.
/// There are none without PSI.
#[must_use]
pub fn of_host() -> Option<[Percent; 3]> {
    let share = |file: &str, line: &str| {
        let text = std::fs::read_to_string(format!("/proc/pressure/{file}")).ok()?;
        avg10(&text, line)
    };
    Some([
        share("cpu", "some")?,
        share("memory", "full")?,
        share("io", "full")?,
    ])
}

/// `avg10` of a line of a pressure file, in whole percent.
pub(crate) fn avg10(text: &str, line: &str) -> Option<Percent> {
    let whole = value(text, line, "avg10=")?.split('.').next()?;
    whole.parse().ok().map(Percent)
}

/// Returns `avg10` of a line of a pressure file, in percent with the kernel's two decimals.
pub(crate) fn share10(text: &str, line: &str) -> Option<f64> {
    value(text, line, "avg10=")?.parse().ok()
}

/// Returns the `total` of a line: the time for which tasks have waited in all, in microseconds.
pub(crate) fn total(text: &str, line: &str) -> Option<u64> {
    value(text, line, "total=")?.parse().ok()
}

fn value<'t>(text: &'t str, line: &str, key: &str) -> Option<&'t str> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut words = lines.find_map(|mut words| (words.next() == Some(line)).then_some(words))?;
    words.find_map(|word| word.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_by_their_line() {
        let text = "some avg10=12.34 avg60=1.00 avg300=0.00 total=9\nfull avg10=3.99 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(avg10(text, "some"), Some(Percent(12)));
        assert_eq!(avg10(text, "full"), Some(Percent(3)));
        assert_eq!(avg10("", "full"), None);
    }
}
