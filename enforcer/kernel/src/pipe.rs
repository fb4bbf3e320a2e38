//! The pipe that a workload's standard output and error are.
//!
//! Its user owns it, so that `/dev/stdout` can be opened again (proc(5): opening
//! `/proc/PID/fd/N` checks the inode's permissions). The workload's descriptor is open for reading
//! as well, so the pipe has a reader even if the holder dies: a writer then waits at a full pipe
//! and gets no SIGPIPE (fifo(7)).

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

/// Both ends, each open as its owner needs it.
#[derive(Debug)]
pub struct OutputPipe {
    /// The end for the holder. A read never waits.
    pub reader: OwnedFd,
    /// The end for the workload.
    pub writer: File,
    /// Names the pipe until the host's next boot.
    pub inode: u64,
}

/// Makes a pipe. It belongs to `owner`, or to this process's own user without one.
///
/// # Errors
/// If there are no descriptors left, or the owner may not be set.
pub fn output_pipe(owner: Option<(Uid, Gid)>) -> io::Result<OutputPipe> {
    let (reader, _) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let writer = File::options()
        .read(true)
        .write(true)
        .open(reopened(&reader))?;
    if let Some((uid, gid)) = owner {
        fchown(&reader, Some(uid), Some(gid))?;
    }
    let inode = fstat(&reader)?.st_ino;
    Ok(OutputPipe {
        reader,
        writer,
        inode,
    })
}

/// Opens `/dev/null` for writing.
pub fn nowhere() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

/// Returns the path that opens what a descriptor of ours refers to.
fn reopened(descriptor: &impl AsFd) -> PathBuf {
    let number = descriptor.as_fd().as_raw_fd();
    format!("/proc/self/fd/{number}").into()
}

/// Returns the number of bytes that wait in a pipe.
///
/// # Errors
/// If it is no pipe.
pub fn waiting_in(pipe: &impl AsFd) -> io::Result<usize> {
    let mut length: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    let asked = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut length) };
    match asked {
        0 => Ok(usize::try_from(length).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the reading end of a pipe that one of these processes has; a process of a workload
/// may have made anything of its own descriptors, so nothing else is opened.
pub fn find(inode: u64, main: u32, processes: &[u32]) -> Option<OwnedFd> {
    /// A program's own standard output and error; one that has redirected both may have kept
    /// them elsewhere.
    const FIRST: [u32; 2] = [1, 2];
    const MOST: usize = 1024;
    let processes = || std::iter::once(&main).chain(processes);
    let first = processes().flat_map(|pid| FIRST.map(|number| (*pid, number)));
    let others = processes().flat_map(|pid| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let entries = entries.into_iter().flatten().flatten().take(MOST);
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.map(|number| (*pid, number)).collect::<Vec<_>>()
    });
    let link = format!("pipe:[{inode}]");
    first
        .chain(others)
        .map(|(pid, number)| PathBuf::from(format!("/proc/{pid}/fd/{number}")))
        .filter(|path| std::fs::read_link(path).is_ok_and(|target| target.as_os_str() == &*link))
        .find_map(|path| open_pipe(&path, inode))
}

fn open_pipe(path: &std::path::Path, inode: u64) -> Option<OwnedFd> {
    let named = File::options()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_CLOEXEC).bits())
        .open(path)
        .ok()?;
    let found = named.metadata().ok()?;
    // The descriptor may have become another one since its link was read.
    if found.ino() != inode || found.mode() & libc::S_IFMT != libc::S_IFIFO {
        return None;
    }
    let reader = File::options()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(reopened(&named))
        .ok()?;
    Some(reader.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn what_waits_in_a_pipe_is_found_again_through_its_writer() {
        let OutputPipe {
            reader,
            mut writer,
            inode,
        } = output_pipe(None).expect("a pipe");
        writer.write_all(b"before").expect("a write");
        drop(reader);
        writer.write_all(b" and after").expect("a write");
        let found = find(inode, std::process::id(), &[]).expect("the pipe");
        assert_eq!(waiting_in(&found).expect("a length"), 16);
        let mut text = [0; 16];
        File::from(found).read_exact(&mut text).expect("the text");
        assert_eq!(&text, b"before and after");
        assert!(find(inode + 1, 1, &[std::process::id()]).is_none());
    }
}
