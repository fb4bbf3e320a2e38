//! Text of `/proc`, which holds whatever a process has put there.
//!
//! A command name, a path or an argument may be any bytes, and the kernel cuts names in the
//! middle of a character. So nothing here fails because text is not UTF-8: such bytes become
//! U+FFFD. And nothing is read without a bound: a process chooses how long its own files are.

use std::fs::File;
use std::io::{self, Read as _};

/// More than any file has that is read through here: `/proc/PID/status` and `stat` are below
/// 8 KiB, and `children` has up to 8 bytes for each child.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file as text, at most [`MAX_BYTES`] of it.
pub(crate) fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns whether an error says that the process or thread is gone, as opposed to unreadable.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Returns the value of a line `KEY: VALUE`, trimmed.
pub(crate) fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_behind_a_name_that_is_no_text() {
        let status = "Name:\t\u{fffd}\u{fffd}\nTgid:\t12\nTracerPid:\t0\n";
        assert_eq!(field(status, "Tgid"), Some("12"));
        assert_eq!(field(status, "Tracer"), None);
    }

    #[test]
    fn a_missing_process_is_gone_and_not_unreadable() {
        let error = read("/proc/0/status").expect_err("no such process");
        assert!(is_gone(&error));
    }
}
