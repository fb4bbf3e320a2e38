//! A child of this same program that has given up every privilege before it
//! touches what a workload has written: its answer is taken for two seconds, up
//! to a size, and it is gone afterwards.

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const UID: &str = "ENFORCER_CONFINE_UID";
const GID: &str = "ENFORCER_CONFINE_GID";
const NOBODY: u32 = 65_534;
const PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_ANSWER: u64 = 64 << 10;
/// So many may hang before no more are started.
const MOST_HANGING: usize = 8;
/// How long one that was killed may take to be gone.
const END_WAIT: Duration = Duration::from_secs(1);
const MEMORY: u64 = 256 << 20;
/// What a pipe takes at once: the writer never waits for the child.
const LONGEST_QUESTION: usize = 32 << 10;

/// Asks a hidden command of this program, as this user; root becomes nobody.
pub(crate) fn run(command: &str, question: &[u8], (uid, gid): (u32, u32)) -> io::Result<Vec<u8>> {
    let somebody = |id: u32| if id == 0 { NOBODY } else { id };
    let ids = [(UID, somebody(uid)), (GID, somebody(gid))];
    let ids = ids.map(|(name, id)| (name, id.to_string()));
    ask(command, question, &ids, (PATIENCE, LONGEST_ANSWER))
}

/// Children that did not end when they were killed: something they use hangs.
static HANGING: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Asks a hidden command of this program, which runs as this process does.
pub(super) fn ask(
    command: &str,
    question: &[u8],
    environment: &[(&str, String)],
    (patience, longest): (Duration, u64),
) -> io::Result<Vec<u8>> {
    if question.len() > LONGEST_QUESTION {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut hanging = HANGING.lock().unwrap_or_else(PoisonError::into_inner);
    hanging.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    if hanging.len() >= MOST_HANGING {
        return Err(io::Error::other(
            "something that others have asked for hangs",
        ));
    }
    drop(hanging);
    let mut child = Command::new(super::process::OWN_PROGRAM)
        .arg(command)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let asked = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(question));
    let answer = child
        .stdout
        .take()
        .map(|stdout| read(stdout, patience, longest));
    // By its handle: it is our own child, and not waited for yet.
    let _ = child.kill();
    let until = super::clock::now().after(END_WAIT);
    while child.try_wait()?.is_none() {
        if super::clock::now() >= until {
            let mut hanging = HANGING.lock().unwrap_or_else(PoisonError::into_inner);
            hanging.push(child);
            break;
        }
        super::clock::pause(END_WAIT / 500);
    }
    asked.transpose()?;
    answer.unwrap_or(Ok(Vec::new()))
}

fn read(
    mut stdout: std::process::ChildStdout,
    patience: Duration,
    longest: u64,
) -> io::Result<Vec<u8>> {
    let until = super::clock::now().after(patience);
    let mut answer = Vec::new();
    loop {
        let left = until.since(super::clock::now());
        let mut polled = [nix::poll::PollFd::new(
            stdout.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        let millis = u16::try_from(left.as_millis()).unwrap_or(0);
        if nix::poll::poll(&mut polled, millis)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut buffer = [0; 16 << 10];
        match stdout.read(&mut buffer)? {
            0 => return Ok(answer),
            length => answer.extend_from_slice(&buffer[..length]),
        }
        if answer.len() as u64 > longest {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// The child's first act: no group, user or limit of ours is left afterwards.
pub(crate) fn confine() -> io::Result<()> {
    let id = |name: &str| {
        let text = std::env::var(name).map_err(io::Error::other)?;
        text.parse::<u32>().map_err(io::Error::other)
    };
    let (uid, gid) = (Uid::from_raw(id(UID)?), Gid::from_raw(id(GID)?));
    if Uid::effective().is_root() {
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    // SAFETY: takes only integers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    drop_capabilities()?;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_CPU, PATIENCE.as_secs()),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_NOFILE, 64),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Whatever is left after the change of user, or of an agent that is not root.
fn drop_capabilities() -> io::Result<()> {
    // SAFETY: takes only integers.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    // capget(2): version 3, this thread; two times three empty sets.
    let header = [0x2008_0522_u32, 0];
    let sets = [0u32; 6];
    // SAFETY: the kernel reads as much as version 3 has: 8 and 24 bytes.
    let emptied = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if cleared != 0 || emptied != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A regular file of this owner; nothing that a link leads to.
pub(crate) fn open_owned(path: &Path, owner: u32) -> Option<File> {
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    (found.is_file() && found.uid() == owner).then_some(file)
}
