//! Sockets of sd_notify(3): datagrams from the processes of one workload.

use crate::process;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

/// The longest message. That of libsystemd has no bound; the lines that are read are short.
const LONGEST: usize = 16 << 10;
/// The most descriptors that the kernel passes with one message (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;

/// A message, and who has sent it.
#[derive(Debug)]
pub struct Datagram {
    pub text: Vec<u8>,
    pub pid: u32,
    pub uid: u32,
    /// The sender of `BARRIER=1` waits until these descriptors are closed.
    pub descriptors: Vec<OwnedFd>,
}

/// Makes a socket to which its owner alone may send. Another one at the path is replaced.
pub fn bind_for(path: &Path, owner: Option<(Uid, Gid)>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    setsockopt(&made, sockopt::PassCred, &true)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The file of a socket gets the mode that the socket has when it is bound (unix_bind).
    fchmod(&made, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(path, Some(uid.as_raw()), Some(gid.as_raw()))?;
    }
    Ok(made)
}

/// Receives the next message; `None` if none waits.
pub fn receive(socket: &impl AsFd) -> io::Result<Option<Datagram>> {
    let mut buffer = vec![0; LONGEST];
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS], libc::ucred);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let number = socket.as_fd().as_raw_fd();
    let received = match recvmsg::<UnixAddr>(number, &mut parts, Some(&mut space), flags) {
        Ok(received) => received,
        Err(nix::Error::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = received.bytes;
    let (mut sender, mut descriptors) = (None, Vec::new());
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::ScmCredentials(credentials) => sender = Some(credentials),
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel has just made these descriptors for this call.
                let owned = numbers
                    .into_iter()
                    .map(|number| unsafe { OwnedFd::from_raw_fd(number) });
                descriptors.extend(owned);
            }
            _ => {}
        }
    }
    buffer.truncate(length);
    let none = io::Error::other("a message without credentials");
    let sender = sender.ok_or(none)?;
    Ok(Some(Datagram {
        text: buffer,
        pid: u32::try_from(sender.pid()).unwrap_or(0),
        uid: sender.uid(),
        descriptors,
    }))
}

/// Returns whether the sender belongs to a workload: its process is in the workload's cgroup, or is
/// gone and was of the workload's user.
#[must_use]
pub fn is_of(sender: &Datagram, home: &str, owner: u32) -> bool {
    match process::cgroup_of(sender.pid) {
        Some(place) => process::is_home(&place, home),
        None => sender.uid == owner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_message_names_its_sender() {
        let path = std::env::temp_dir().join(format!("notify-{}", std::process::id()));
        std::fs::write(&path, "something else").expect("a file");
        let socket = bind_for(&path, None).expect("a socket");
        let metadata = std::fs::metadata(&path).expect("its metadata");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert!(receive(&socket).expect("nothing").is_none());
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.send_to(b"READY=1", &path).expect("sent");
        let datagram = receive(&socket).expect("a message").expect("one");
        assert_eq!(datagram.text, b"READY=1");
        assert_eq!(datagram.pid, std::process::id());
        assert_eq!(datagram.uid, metadata.uid());
        let own = process::cgroup_of(std::process::id()).expect("a cgroup");
        assert!(is_of(&datagram, &own, 4_000_000_000));
        assert!(!is_of(&datagram, "/elsewhere", datagram.uid));
        let gone = Datagram {
            pid: u32::MAX / 2,
            ..datagram
        };
        assert!(is_of(&gone, "/elsewhere", gone.uid));
        assert!(!is_of(&gone, "/elsewhere", gone.uid + 1));
        std::fs::remove_file(path).expect("no socket");
    }
}
