//! A short-lived child of this program that answers one question: its answer has a limit of time
//! and of size. What it reads may hang, and then the child hangs, and not a thread of the agent.

use super::clock;
use super::process::OWN_PROGRAM;
use nix::poll::{PollFd, PollFlags, poll};
use parking_lot::Mutex;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A pipe takes this much at once, so the writer never waits for the child.
const LONGEST_QUESTION: usize = 32 << 10;
/// The number of hanging children at which no more are started.
const MOST_HANGING: usize = 8;
/// The longest wait for a killed child.
const END_WAIT: Duration = Duration::from_secs(1);

/// Children that did not end when they were killed: something that they use hangs.
static HANGING: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Asks a hidden command of this program, which runs as this process does. It has `into` as its
/// standard error.
pub(super) fn ask(
    command: &str,
    question: &[u8],
    environment: &[(&str, String)],
    (patience, longest): (Duration, u64),
    into: Option<BorrowedFd<'_>>,
) -> io::Result<Vec<u8>> {
    if question.len() > LONGEST_QUESTION {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut hanging = HANGING.lock();
    hanging.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    if hanging.len() >= MOST_HANGING {
        return Err(io::Error::other(
            "something that others have asked for hangs",
        ));
    }
    drop(hanging);
    let into = match into {
        Some(descriptor) => Stdio::from(descriptor.try_clone_to_owned()?),
        None => Stdio::null(),
    };
    let mut child = Command::new(OWN_PROGRAM)
        .arg(command)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(into)
        .spawn()?;
    let asked = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(question));
    let answer = child
        .stdout
        .take()
        .map(|stdout| read(stdout, patience, longest));
    // The child is killed by its handle: nothing has waited for it yet.
    let _ = child.kill();
    let until = clock::now().after(END_WAIT);
    while child.try_wait()?.is_none() {
        if clock::now() >= until {
            let mut hanging = HANGING.lock();
            hanging.push(child);
            break;
        }
        clock::pause(END_WAIT / 500);
    }
    asked.transpose()?;
    answer.unwrap_or(Ok(Vec::new()))
}

fn read(mut stdout: ChildStdout, patience: Duration, longest: u64) -> io::Result<Vec<u8>> {
    let until = clock::now().after(patience);
    let mut answer = Vec::new();
    loop {
        let left = until.since(clock::now());
        let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
        let millis = u16::try_from(left.as_millis()).unwrap_or(0);
        if poll(&mut polled, millis)? == 0 {
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
