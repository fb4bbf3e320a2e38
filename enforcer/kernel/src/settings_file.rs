//! Reads files of variables and a tree's accounts, and copies credentials, with bounds. A file of variables
//! and a credential are read with the rights of a user who could have replaced the file.
//!
//! A child reads them: it walks along the path, as root for as long as root alone can change
//! what it meets, and as the workload's user from there on. A link would lead elsewhere, so
//! the user follows it as well. A file system that hangs holds up the child alone.

use super::account::Identity;
use super::helper;
use super::place::Place;
use super::regular_file;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

/// The hidden command of the child.
const COMMAND: &str = "read-settings";
/// No file of variables that a person keeps is longer.
const MAX_BYTES: u64 = 1 << 20;
/// The longest wait for the child. Its execution takes seconds on a host that is short of CPU time,
/// and it must be over before a start's own deadline of 30 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// The question to the child.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    path: String,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// The tree that the path is in; no link leads out of it.
    root: Option<String>,
    /// The child writes the file to its standard error, up to this many bytes, and not into the
    /// answer.
    copies: Option<u64>,
}

impl Question {
    fn of(path: &str, user: &Identity) -> Self {
        Self {
            path: path.to_owned(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: user.groups.iter().map(|group| group.as_raw()).collect(),
            root: None,
            copies: None,
        }
    }
}

/// The first line of its answer; the file's text comes after it.
#[derive(Debug, Serialize, Deserialize)]
enum Head {
    Text,
    Copied { bytes: u64 },
    Error { errno: Option<i32>, error: String },
}

/// Reads a regular file of at most 1 MiB for a workload of this user. A FIFO, a device or a
/// socket is refused before anything is read from it.
///
/// # Errors
/// If the file cannot be read in time, or is none of that kind.
pub fn read(path: &str, user: &Identity) -> io::Result<Vec<u8>> {
    text(&Question::of(path, user))
}

/// Reads a regular file of at most 1 MiB in a tree, with the agent's own rights.
///
/// # Errors
/// It fails for the reasons for which [`read`] fails, and if the root cannot be opened.
pub fn read_in_tree(root: &str, path: &str) -> io::Result<Vec<u8>> {
    text(&Question {
        path: path.to_owned(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        root: Some(root.to_owned()),
        copies: None,
    })
}

fn text(question: &Question) -> io::Result<Vec<u8>> {
    match ask(question, None)? {
        (Head::Text, text) => Ok(text),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Copies a regular file of at most this many bytes for a workload of this user, without a copy in
/// this process's memory. Returns the number of bytes.
///
/// # Errors
/// If the file cannot be read in time, or is none of that kind.
pub fn copy(path: &str, user: &Identity, into: &File, most: u64) -> io::Result<u64> {
    let question = Question {
        copies: Some(most),
        ..Question::of(path, user)
    };
    match ask(&question, Some(into))? {
        (Head::Copied { bytes }, _) => Ok(bytes),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Returns an answer that is no error, and the text behind it.
fn ask(question: &Question, into: Option<&File>) -> io::Result<(Head, Vec<u8>)> {
    let question = serde_json::to_vec(question)?;
    let longest = MAX_BYTES + (64 << 10);
    let answer = helper::ask(
        COMMAND,
        &question,
        &[],
        (PATIENCE, longest),
        into.map(File::as_fd),
    );
    let answer = answer.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => io::Error::other(format!(
            "it was not read within {} s; its file system may hang",
            PATIENCE.as_secs()
        )),
        _ => error,
    })?;
    let end = answer.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| io::Error::other("the process that reads it has died"))?;
    match serde_json::from_slice(&answer[..end])? {
        Head::Error {
            errno: Some(errno), ..
        } => Err(io::Error::from_raw_os_error(errno)),
        Head::Error { errno: None, error } => Err(io::Error::other(error)),
        head => Ok((head, answer[end + 1..].to_vec())),
    }
}

/// Runs in the child: reads the question and answers it.
///
/// # Errors
/// There is no caller to answer.
pub fn answer() -> io::Result<()> {
    let mut question = Vec::new();
    io::stdin().lock().read_to_end(&mut question)?;
    let question: Question = serde_json::from_slice(&question)?;
    let answer = match question.copies {
        None => read_as(&question).map(|text| (Head::Text, text)),
        Some(most) => copy_as(&question, most).map(|bytes| (Head::Copied { bytes }, Vec::new())),
    };
    let (head, text) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let errno = error.raw_os_error();
            let error = error.to_string();
            (Head::Error { errno, error }, Vec::new())
        }
    };
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &head)?;
    stdout.write_all(b"\n")?;
    stdout.write_all(&text)?;
    stdout.flush()
}

fn open_as(question: &Question) -> io::Result<File> {
    let file = File::from(open_along(question)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

fn copy_as(question: &Question, most: u64) -> io::Result<u64> {
    let mut into = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    // The standard library has the kernel copy it.
    let bytes = io::copy(&mut open_as(question)?.take(most + 1), &mut into)?;
    match bytes > most {
        true => Err(io::Error::other(
            "all credentials of the workload together are longer than 1 MiB",
        )),
        false => Ok(bytes),
    }
}

fn read_as(question: &Question) -> io::Result<Vec<u8>> {
    let file = open_as(question)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(bytes)
}

const TO_READ: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// Opens the file. If another user than root can change the path, it becomes the workload's user
/// first.
fn open_along(question: &Question) -> io::Result<OwnedFd> {
    let named = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let path = question.path.as_str();
    if let Some(root) = &question.root {
        let folder = open(root.as_str(), named & !OFlag::O_NOFOLLOW, Mode::empty());
        let folder =
            folder.map_err(|error| io::Error::other(format!("{root}: {}", error.desc())))?;
        let place = Place::below(&folder, path)?;
        return Ok(regular_file::open(place.path())?.into());
    }
    if !geteuid().is_root() || question.uid == 0 || !path.starts_with('/') {
        return Ok(open(path, TO_READ, Mode::empty())?);
    }
    let mut rest = path.trim_start_matches('/');
    let mut folder = open("/", named, Mode::empty())?;
    loop {
        let (part, further) = rest.split_once('/').unwrap_or((rest, ""));
        let further = further.trim_start_matches('/');
        let found = openat(&folder, part, named, Mode::empty())?;
        if !is_roots_alone(&fstat(&folder)?) || !is_roots_alone(&fstat(&found)?) {
            become_user(question)?;
            return Ok(openat(&folder, rest, TO_READ, Mode::empty())?);
        }
        if further.is_empty() {
            // Only root could have replaced it since the check.
            return Ok(openat(
                &folder,
                part,
                TO_READ | OFlag::O_NOFOLLOW,
                Mode::empty(),
            )?);
        }
        (folder, rest) = (found, further);
    }
}

/// Returns whether root alone can change this folder or file, and it is no link.
fn is_roots_alone(found: &FileStat) -> bool {
    let kind = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits());
    let others = Mode::S_IWGRP | Mode::S_IWOTH;
    let writable = Mode::from_bits_truncate(found.st_mode).intersects(others);
    found.st_uid == 0 && !writable && kind != SFlag::S_IFLNK
}

fn become_user(question: &Question) -> io::Result<()> {
    let groups: Vec<Gid> = question.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(question.uid), Gid::from_raw(question.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> io::Result<Vec<u8>> {
        read_as(&Question {
            path: path.to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            root: None,
            copies: None,
        })
    }

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = std::env::temp_dir().join(format!("enforcer-settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(path("good"), "A=1").expect("a file");
        assert_eq!(read(&path("good")).expect("its text"), b"A=1");
        std::fs::write(path("long"), vec![b'x'; 2 << 20]).expect("a file");
        let why = |name: &str| read(&path(name)).expect_err("a refusal").to_string();
        assert_eq!(why("long"), "it is longer than 1 MiB");
        let fifo = folder.join("fifo");
        // One of an earlier run may be there.
        let _ = nix::unistd::mkfifo(&fifo, Mode::S_IRWXU);
        assert_eq!(why("fifo"), "it is not a regular file");
        let device = read("/dev/zero").expect_err("a refusal");
        assert_eq!(device.to_string(), "it is not a regular file");
        let _ = std::fs::remove_dir_all(folder);
    }
}
