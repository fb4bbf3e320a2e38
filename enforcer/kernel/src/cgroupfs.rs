//! Cgroup directories by descriptor: a path may be recycled, a descriptor stays
//! with the cgroup that was opened. What the files mean is not known here.

use super::text_file;
use enforcer_model::ids::CgroupId;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The mount point of cgroup v2 on every host that has only v2.
pub const MOUNT_POINT: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("open the cgroup {}", path.display())]
    Open { path: PathBuf, source: Errno },
    #[error("create the cgroup {}", path.display())]
    Create { path: PathBuf, source: Errno },
    #[error("remove the cgroup {}", path.display())]
    Remove { path: PathBuf, source: Errno },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("write `{value}` to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        source: io::Error,
    },
    #[error("change the cgroup {}: it is not enforcer's", path.display())]
    Foreign { path: PathBuf },
    #[error("empty the cgroup {}: processes are still in it after {} s", path.display(), waited.as_secs())]
    StillPopulated { path: PathBuf, waited: Duration },
}

impl CgroupError {
    /// Returns the system's error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. }
            | Self::Create { source, .. }
            | Self::Remove { source, .. } => Some(*source as i32),
            Self::Read { source, .. } | Self::Write { source, .. } => source.raw_os_error(),
            Self::StillPopulated { .. } | Self::Foreign { .. } => None,
        }
    }
}

/// The files that the kernel gives in pieces, as many processes as fit. Every other file comes in one
/// piece if there is room for it, so a short read is its end.
const LISTS: [&str; 2] = ["cgroup.procs", "cgroup.threads"];

/// Reads a file in as few system calls as can be. `File::read_to_string` makes four more: it asks for
/// the size, which is 0 for every such file, and for the position, and then reads until there is nothing.
fn read_text(file: &File, is_list: bool) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(text_file::ROOM);
    let mut at = 0;
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.len());
        }
        let read = text_file::append(file, &mut bytes, at)?;
        at += read as u64;
        if read == 0 || (!is_list && bytes.len() < bytes.capacity()) {
            return text_file::as_text(bytes);
        }
    }
}

/// An open cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
    /// Another program has made it, so nothing is written there.
    is_foreign: bool,
}

impl Cgroup {
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_RDONLY;
        let directory = open(path, flags, Mode::empty()).map_err(|source| CgroupError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            directory,
            is_foreign: false,
        })
    }

    /// Opens a cgroup that another program has made. Every change of it is an error.
    pub fn open_foreign(path: &Path) -> Result<Self, CgroupError> {
        Ok(Self {
            is_foreign: true,
            ..Self::open(path)?
        })
    }

    /// Returns whether another program has made it.
    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Returns an error for a cgroup that another program has made.
    fn check_own(&self) -> Result<(), CgroupError> {
        match self.is_foreign {
            true => Err(CgroupError::Foreign {
                path: self.path.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Opens a child, which is made if it isn't there.
    pub fn ensure_child(&self, name: &str) -> Result<Self, CgroupError> {
        self.make_child(name).map(|(child, _)| child)
    }

    /// Opens a child, which is made if it isn't there. Returns whether it was made.
    pub fn make_child(&self, name: &str) -> Result<(Self, bool), CgroupError> {
        self.check_own()?;
        let path = self.path.join(name);
        let is_new = match mkdirat(&self.directory, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(source) => return Err(CgroupError::Create { path, source }),
        };
        Ok((Self::open(&path)?, is_new))
    }

    /// Returns whether the cgroup still exists. Its path may belong to another one by now.
    pub fn is_there(&self) -> bool {
        let opened = self.open_file("cgroup.events", OFlag::O_RDONLY);
        // A lack of descriptors, or of memory, says nothing.
        !matches!(
            opened.map_err(|error| error.raw_os_error()),
            Err(Some(libc::ENOENT | libc::ENODEV))
        )
    }

    /// Moves a process into it, with all its threads; its children stay where they are.
    pub fn take_in(&self, pid: u32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns the id of the cgroup, which is its inode number.
    pub fn id(&self) -> Result<CgroupId, CgroupError> {
        let stat = fstat(&self.directory).map_err(|source| CgroupError::Open {
            path: self.path.clone(),
            source,
        })?;
        Ok(CgroupId(stat.st_ino))
    }

    /// Opens one of its files; reads and polls of it stay with this cgroup.
    pub(crate) fn open_file(&self, file: &str, flags: OFlag) -> io::Result<std::fs::File> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(openat(&self.directory, file, flags, Mode::empty())?.into())
    }

    pub fn has_file(&self, file: &str) -> bool {
        self.open_file(file, OFlag::O_PATH).is_ok()
    }

    /// Reads a file whole.
    pub fn read(&self, file: &str) -> Result<String, CgroupError> {
        let text = self
            .open_file(file, OFlag::O_RDONLY)
            .and_then(|open| read_text(&open, LISTS.contains(&file)));
        text.map_err(|source| CgroupError::Read {
            path: self.path.join(file),
            source,
        })
    }

    /// Returns the threads in it, not those of cgroups below.
    pub fn threads(&self) -> Result<Vec<u32>, CgroupError> {
        let text = self.read("cgroup.threads")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Returns the processes in it, not those of cgroups below.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let text = self.read("cgroup.procs")?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Returns the processes of this cgroup and of those below it, as far as they can be read.
    pub fn all_processes(&self) -> Vec<u32> {
        let mut all = self.processes().unwrap_or_default();
        let entries = std::fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.filter(|entry| entry.path().is_dir()) {
            if let Ok(inner) = Self::open(&entry.path()) {
                all.extend(inner.all_processes());
            }
        }
        all
    }

    /// Reads a file that this kernel, or this cgroup's controllers, may not have; `None` if it is
    /// missing.
    pub(crate) fn read_if_present(&self, file: &str) -> Result<Option<String>, CgroupError> {
        match self.read(file) {
            Err(CgroupError::Read { source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) =>
            {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    pub fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        self.check_own()?;
        self.open_file(file, OFlag::O_WRONLY)
            .and_then(|mut open| open.write_all(value.as_bytes()))
            .map_err(|source| CgroupError::Write {
                path: self.path.join(file),
                value: value.to_owned(),
                source,
            })
    }

    /// Kills every process in it and below it at once (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Returns whether a process is in it or below it.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        Ok(self
            .read("cgroup.events")?
            .lines()
            .any(|line| line == "populated 1"))
    }

    /// Kills everything in it and below it, and waits until it is empty.
    pub fn kill_and_wait(&self, patience: Duration) -> Result<(), CgroupError> {
        self.check_own()?;
        let started = Instant::now();
        let mut events = match self.open_file("cgroup.events", OFlag::O_RDONLY) {
            Ok(events) => events,
            // The cgroup was removed, and only an empty one can be.
            Err(error) if is_gone(&error) => return Ok(()),
            Err(source) => {
                return Err(CgroupError::Read {
                    path: self.path.join("cgroup.events"),
                    source,
                });
            }
        };
        loop {
            // The read re-arms the poll: no change between the two is missed.
            match populated(&mut events) {
                Ok(false) => return Ok(()),
                Err(error) if is_gone(&error) => return Ok(()),
                Ok(true) => {}
                Err(source) => {
                    return Err(CgroupError::Read {
                        path: self.path.join("cgroup.events"),
                        source,
                    });
                }
            }
            self.kill()?;
            if started.elapsed() > patience {
                return Err(CgroupError::StillPopulated {
                    path: self.path.clone(),
                    waited: patience,
                });
            }
            let mut polled = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
            // The time-out only bounds the patience; an interruption reads again.
            let _ = poll(&mut polled, PollTimeout::from(100u8));
        }
    }

    /// Makes an empty cgroup fit to take a process: thaws it, removes the cgroups below it, and
    /// takes back the controllers that it hands down to them. A cgroup that hands down a
    /// controller takes no process (EBUSY; "no internal processes" in
    /// Documentation/admin-guide/cgroup-v2.rst), and a process that is put into a frozen one
    /// stops before its first instruction.
    pub fn make_fit(&self) -> Result<(), CgroupError> {
        if self.is_frozen()? {
            self.write("cgroup.freeze", "0")?;
        }
        self.remove_children()?;
        let handed_down = self.read("cgroup.subtree_control")?;
        for controller in handed_down.split_whitespace() {
            self.write("cgroup.subtree_control", &format!("-{controller}"))?;
        }
        Ok(())
    }

    /// Lets the cgroups below have limits of these controllers.
    pub fn hand_down(&self, controllers: &[&str]) -> Result<(), CgroupError> {
        let enabled: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
        self.write("cgroup.subtree_control", &enabled.join(" "))
    }

    /// Returns whether this cgroup itself is frozen. The file exists since Linux 5.2.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let asked = self.read_if_present("cgroup.freeze")?;
        Ok(asked.is_some_and(|text| text.trim() == "1"))
    }

    /// Returns whether the cgroup accepts processes. A threaded cgroup does not.
    pub fn takes_processes(&self) -> Result<bool, CgroupError> {
        Ok(self.read("cgroup.type")?.trim() == "domain")
    }

    fn remove_children(&self) -> Result<(), CgroupError> {
        // One file instead of a list of sixty. It exists since Linux 4.14.
        let stat = self.read_if_present("cgroup.stat")?.unwrap_or_default();
        if stat.lines().any(|line| line == "nr_descendants 0") {
            return Ok(());
        }
        let failed = |source: io::Error| CgroupError::Read {
            path: self.path.clone(),
            source,
        };
        for entry in std::fs::read_dir(&self.path).map_err(failed)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.remove_child(&entry.file_name().to_string_lossy())?;
            }
        }
        Ok(())
    }

    /// Removes the child of this name and all cgroups below it. They must be empty.
    pub fn remove_child(&self, name: &str) -> Result<(), CgroupError> {
        self.check_own()?;
        let path = self.path.join(name);
        if let Ok(entries) = std::fs::read_dir(&path) {
            let folders = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let names: Vec<String> = folders
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            if !names.is_empty() {
                let child = Self::open(&path)?;
                for name in names {
                    child.remove_child(&name)?;
                }
            }
        }
        match unlinkat(&self.directory, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(source) => Err(CgroupError::Remove { path, source }),
        }
    }
}

/// Returns whether the cgroup was removed meanwhile: kernfs answers ENODEV through open
/// descriptors.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn populated(events: &mut std::fs::File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut buffer = [0; 128];
    let length = events.read_at(&mut buffer, 0)?;
    Ok(buffer[..length].starts_with(b"populated 1"))
}
